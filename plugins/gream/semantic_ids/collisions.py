"""Unique ids: what happens to items that residual k-means gave the same codes.

Two policies. ``disambiguate`` is the paper's: items that share all codes get one more token that numbers them, so ids
differ in length. ``reassign`` keeps the length: all but one of them move to the nearest free code at the last level,
and, where their prefix has none left, to the nearest prefix that has.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Literal

import numpy as np

from gream.errors import GreamError
from gream.semantic_ids.kmeans import Codebook, Codes, Floats, squared_distances

Policy = Literal["disambiguate", "reassign"]


def resolve_collisions(
    codes: Codes, embeddings: Floats, codebook: Codebook, policy: Policy, *, given: Codes | None = None
) -> Codes:
    """Make every row of ``codes`` unique.

    A catalogue grows by encoding its new items (`Codebook.encode`) and resolving them with the ids already ``given``:
    those stay what they are, and the new ones keep clear of them.

    Args:
        codes: int64 ``[n, levels]``.
        embeddings: float32 ``[n, d]`` that were encoded.
        codebook: What encoded them.
        policy: See the module.
        given: Unique ids of other items, as this function returned them; int64 ``[m, levels]`` or ``[m, levels + 1]``.

    Returns:
        int64 ``[n, levels]`` for ``reassign``; ``[n, levels + 1]`` for ``disambiguate``, the last column -1 for items
        that share their codes with no other.

    Raises:
        GreamError: ``reassign`` with more items than there are ids, or ``given`` made by the other policy.
    """
    width = codes.shape[1] + (policy == "disambiguate")
    if given is None:
        given = np.empty((0, width), dtype=np.int64)
    if given.shape[1] != width:
        raise GreamError(
            f"ids of {given.shape[1]} levels were given, policy '{policy}' makes {width}; keep to one policy"
        )
    if policy == "disambiguate":
        return _disambiguate(codes, given)
    return _reassign(codes, embeddings, codebook, {tuple(row) for row in given.tolist()})


def collision_groups(codes: Codes) -> dict[tuple[int, ...], list[int]]:
    """Codes that more than one item has, with those items in ascending order."""
    return {key: items for key, items in _groups(codes).items() if len(items) > 1}


def _groups(codes: Codes) -> dict[tuple[int, ...], list[int]]:
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for item, row in enumerate(codes.tolist()):
        groups[tuple(row)].append(item)
    return groups


def _disambiguate(codes: Codes, given: Codes) -> Codes:
    last = np.full((len(codes), 1), -1, dtype=np.int64)
    # A given item that was alone keeps its shorter id, and the first that joins it is number 0.
    following: dict[tuple[int, ...], int] = {}
    for *key, number in given.tolist():
        following[tuple(key)] = max(following.get(tuple(key), 0), number + 1)
    for key, items in _groups(codes).items():
        if len(items) > 1 or key in following:
            last[items, 0] = np.arange(len(items)) + following.get(key, 0)
    return np.concatenate([codes, last], axis=1)


def _reassign(codes: Codes, embeddings: Floats, codebook: Codebook, given: set[tuple[int, ...]]) -> Codes:
    sizes = codebook.sizes
    if len(codes) + len(given) > np.prod(sizes, dtype=np.float64):
        raise GreamError(
            f"{len(codes) + len(given)} items do not fit {sizes} codes; raise semantic_ids.levels or codebook_size"
        )
    result = codes.copy()
    taken = given | {tuple(row) for row in codes.tolist()}
    # How many ids below each prefix are in use, so that a full prefix is passed over at once.
    used: Counter[tuple[int, ...]] = Counter()
    for full in taken:
        used.update(full[:length] for length in range(len(sizes)))

    def nearest_free(prefix: tuple[int, ...], residual: Floats) -> tuple[int, ...] | None:
        level = len(prefix)
        if level == len(sizes):
            return None if prefix in taken else prefix
        if used[prefix] >= np.prod(sizes[level:], dtype=np.float64):
            return None
        centroids = codebook.centroids[level]
        for code in np.argsort(squared_distances(residual[None], centroids)[0], kind="stable").tolist():
            found = nearest_free((*prefix, code), residual - centroids[code])
            if found is not None:
                return found
        return None

    for key, items in sorted(_groups(codes).items()):
        if len(items) == 1 and key not in given:
            continue
        rebuilt = sum(level[code] for level, code in zip(codebook.centroids, key, strict=True))
        errors = ((embeddings[items] - rebuilt) ** 2).sum(axis=1)
        best_first = np.argsort(errors, kind="stable")
        # The item that the codes describe best keeps them, unless they were given away before.
        for index in best_first[0 if key in given else 1 :].tolist():
            item = items[index]
            found = None
            for shared in range(len(sizes) - 1, -1, -1):
                prefix = key[:shared]
                start = embeddings[item].astype(np.float32)
                for level, code in enumerate(prefix):
                    start = start - codebook.centroids[level][code]
                found = nearest_free(prefix, start)
                if found is not None:
                    break
            if found is None:
                raise GreamError(f"item {item}: no free semantic id is left; raise semantic_ids.codebook_size")
            taken.add(found)
            used.update(found[:length] for length in range(len(sizes)))
            result[item] = found
    return result
