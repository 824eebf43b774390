"""Unique ids: what happens to items that residual k-means gave the same codes.

Two policies. ``disambiguate`` is the paper's: items that share all codes get one more token that numbers them, so ids
differ in length. ``reassign`` keeps the length: all but one of them move to the nearest free code at the last level,
and, where their prefix has none left, to the nearest prefix that has.
"""

from __future__ import annotations

import math
from collections import Counter
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
    return _reassign(codes, embeddings, codebook, given)


def prefix_numbers(codes: Codes) -> Codes:
    """A number for each prefix of each row, int64 ``[n, levels]``: in a column, equal where the prefixes are.

    Numbers of one column follow the order of the prefixes and leave none out.

    Args:
        codes: int64 ``[n, levels]`` from -1.
    """
    numbers = np.zeros((len(codes), codes.shape[1]), dtype=np.int64)
    above = np.zeros(len(codes), dtype=np.int64)
    for level, column in enumerate(codes.T):
        span = int(column.max(initial=-1)) + 2
        above = np.unique(above * span + column + 1, return_inverse=True)[1]
        numbers[:, level] = above
    return numbers


def collision_groups(codes: Codes) -> dict[tuple[int, ...], list[int]]:
    """Codes that more than one item has, in order, with those items in ascending order."""
    if not len(codes):
        return {}
    whole = prefix_numbers(codes)[:, -1]
    sizes = np.bincount(whole)
    shared = np.flatnonzero(sizes[whole] > 1)
    shared = shared[np.argsort(whole[shared], kind="stable")]
    groups = np.split(shared, np.flatnonzero(np.diff(whole[shared])) + 1) if len(shared) else []
    return {tuple(codes[group[0]].tolist()): group.tolist() for group in groups}


def _disambiguate(codes: Codes, given: Codes) -> Codes:
    last = np.full((len(codes), 1), -1, dtype=np.int64)
    # A given item that was alone keeps its shorter id, and the first that joins it is number 0.
    following: dict[tuple[int, ...], int] = {}
    for *key, number in given.tolist():
        following[tuple(key)] = max(following.get(tuple(key), 0), number + 1)
    for key, items in _contested(codes, given[:, :-1]).items():
        last[items, 0] = np.arange(len(items)) + following.get(key, 0)
    return np.concatenate([codes, last], axis=1)


def _contested(codes: Codes, given: Codes) -> dict[tuple[int, ...], list[int]]:
    """Codes of an item that another one, or one of the ``given`` ids, has too, with those items."""
    own = len(codes)
    groups = collision_groups(np.concatenate([codes, given]))
    contested = {key: [item for item in items if item < own] for key, items in groups.items()}
    return {key: items for key, items in contested.items() if items}


def _reassign(codes: Codes, embeddings: Floats, codebook: Codebook, given: Codes) -> Codes:
    sizes = codebook.sizes
    if len(codes) + len(given) > math.prod(sizes):
        raise GreamError(
            f"{len(codes) + len(given)} items do not fit {sizes} codes; raise semantic_ids.levels or codebook_size"
        )
    # An id and each of its prefixes is one number. Python's own, where they do not fit 64 bits.
    below = [math.prod(sizes[level + 1 :]) for level in range(len(sizes))]
    dtype = np.int64 if math.prod(sizes) < 1 << 63 else object
    ids = np.concatenate([given, codes]).astype(dtype) @ np.array(below, dtype=dtype)
    distinct = np.unique(ids)
    taken = set(distinct.tolist())
    # How many ids below each prefix are in use, so that a full prefix is passed over at once.
    used: list[Counter[int]] = []
    for level in range(len(sizes)):
        prefixes, counts = np.unique(distinct // (below[level] * sizes[level]), return_counts=True)
        used.append(Counter(dict(zip(prefixes.tolist(), counts.tolist(), strict=True))))

    def nearest_free(prefix: int, level: int, residual: Floats) -> int | None:
        if level == len(sizes):
            return None if prefix in taken else prefix
        if used[level][prefix] >= below[level] * sizes[level]:
            return None
        centroids = codebook.centroids[level]
        for code in np.argsort(squared_distances(residual[None], centroids)[0], kind="stable").tolist():
            found = nearest_free(prefix * sizes[level] + code, level + 1, residual - centroids[code])
            if found is not None:
                return found
        return None

    result = codes.copy()
    known = set(ids[: len(given)].tolist())
    for key, items in _contested(codes, given).items():
        rebuilt = sum(level[code] for level, code in zip(codebook.centroids, key, strict=True))
        errors = ((embeddings[items] - rebuilt) ** 2).sum(axis=1)
        best_first = np.argsort(errors, kind="stable")
        number = sum(code * each for code, each in zip(key, below, strict=True))
        # The item that the codes describe best keeps them, unless they were given away before.
        for index in best_first[0 if number in known else 1 :].tolist():
            item = items[index]
            found = None
            for shared in range(len(sizes) - 1, -1, -1):
                start = embeddings[item].astype(np.float32)
                for level, code in enumerate(key[:shared]):
                    start = start - codebook.centroids[level][code]
                found = nearest_free(number // (below[shared] * sizes[shared]), shared, start)
                if found is not None:
                    break
            if found is None:
                raise GreamError(f"item {item}: no free semantic id is left; raise semantic_ids.codebook_size")
            taken.add(found)
            for level in range(len(sizes)):
                used[level][found // (below[level] * sizes[level])] += 1
            result[item] = [found // each % size for each, size in zip(below, sizes, strict=True)]
    return result
