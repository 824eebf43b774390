"""How good semantic ids are, in figures: collisions, use of the codes, reconstruction, purity of prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gream.semantic_ids.collisions import prefix_numbers
from gream.semantic_ids.kmeans import Codebook, Codes, Floats

# Items bought one after the other, ``[m, 2]``.
Pairs = Sequence[tuple[int, int]] | npt.NDArray[np.int64]

# Items whose residuals are computed at once.
_CHUNK = 1 << 16


def quality_report(
    raw_codes: Codes,
    codes: Codes,
    embeddings: Floats,
    codebook: Codebook,
    *,
    policy: str,
    categories: Sequence[str],
    pairs: Pairs,
) -> dict[str, Any]:
    """Measure ids before and after collisions were resolved.

    Args:
        raw_codes: int64 ``[n, levels]`` as residual k-means gave them.
        codes: Unique ids made of them, ``[n, levels]`` or ``[n, levels + 1]``.
        embeddings: float32 ``[n, d]``.
        codebook: What encoded them.
        policy: Name of the collision policy.
        categories: Most specific category of each item, "" where unknown.
        pairs: Items bought one after the other in training, for the neighbourhood figure.

    Returns:
        A JSON mapping; rates lie in 0..1, entropy is in bits, reconstruction error is the residual's share of the
        embeddings' squared norm.
    """
    levels = codebook.sizes
    report = id_quality(codes[:, : len(levels)], levels, embeddings=embeddings, categories=categories, pairs=pairs)
    energies = np.zeros(len(levels) + 1)  # of the embeddings, and of what each level leaves of them
    for start in range(0, len(codes), _CHUNK):
        residual = embeddings[start : start + _CHUNK].astype(np.float64, copy=True)
        energies[0] += float((residual**2).sum())
        for level, centroids in enumerate(codebook.centroids):
            residual -= centroids[codes[start : start + _CHUNK, level]]
            energies[level + 1] += float((residual**2).sum())
    for row, left in zip(report["per_level"], energies[1:].tolist(), strict=True):
        row["reconstruction_error"] = left / (energies[0] or 1.0)
    report["collisions"] = {
        **_sharing(raw_codes),
        "ids_moved": int((raw_codes != codes[:, : len(levels)]).any(axis=1).sum()),
        "policy": policy,
    }
    report["unique_rate"] = _unique_rate(codes)
    return report


def id_quality(
    codes: Codes,
    sizes: Sequence[int],
    *,
    embeddings: Floats | None,
    categories: Sequence[str],
    pairs: Pairs,
) -> dict[str, Any]:
    """Measure ids as they are, whoever made them and however: no codebook is needed.

    Args:
        codes: int64 ``[n, levels]``, rows may be equal; -1 behind the end of a shorter id.
        sizes: Codes there are at each level, for the dead ones.
        embeddings: Floats ``[n, d]`` that the ids are to describe; None leaves out the error.
        categories: Most specific category of each item, "" where unknown.
        pairs: Items bought one after the other in training.

    Returns:
        As `quality_report`. ``refit_error`` is the reconstruction error with the best centroids for the given codes:
        at each level the mean of the residuals that share a code.
    """
    per_level = []
    residual = None if embeddings is None else embeddings.astype(np.float64, copy=True)
    total = 1.0 if residual is None else float((residual**2).sum()) or 1.0
    for level, size in enumerate(sizes):
        present = codes[:, level] >= 0
        _, of = np.unique(codes[present, level], return_inverse=True)
        counts = np.bincount(of)
        row = {"level": level + 1, "size": size, **_usage(np.pad(counts, (0, max(0, size - len(counts)))))}
        if residual is not None:
            sums = np.zeros((len(counts), residual.shape[1]))
            np.add.at(sums, of, residual[present])
            residual[present] -= (sums / counts[:, None])[of]
            row["refit_error"] = float((residual**2).sum()) / total
        per_level.append(row)
    return {
        "items": len(codes),
        "levels": len(sizes),
        "sizes": list(sizes),
        "collisions": _sharing(codes),
        "unique_rate": _unique_rate(codes),
        "per_level": per_level,
        "purity": _purity(codes, categories, len(sizes)),
        "cooccurrence": _neighbourhood(codes, pairs, len(sizes)),
    }


def _sharing(codes: Codes) -> dict[str, Any]:
    whole = prefix_numbers(codes)[:, -1]
    sharing = int((np.bincount(whole)[whole] > 1).sum())
    return {"items_sharing": sharing, "rate": sharing / len(codes)}


def _unique_rate(codes: Codes) -> float:
    return (int(prefix_numbers(codes)[:, -1].max()) + 1) / len(codes)


def _usage(counts: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, float | int]:
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * np.log2(share)).sum())
    ordered = np.sort(counts)
    n = len(ordered)
    gini = float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))
    return {
        "used": int((counts > 0).sum()),
        "dead": int((counts == 0).sum()),
        "entropy_bits": entropy,
        "perplexity": float(2**entropy),
        "gini": gini,
    }


def _purity(codes: Codes, categories: Sequence[str], levels: int) -> list[dict[str, float | int]]:
    """Share of items whose category is the commonest one under their prefix; 1.0: no prefix mixes categories."""
    names = np.array(categories, dtype=object)
    known = np.flatnonzero(names != "")
    if not len(known):
        return []
    kinds, kind = np.unique(names[known], return_inverse=True)
    prefixes = prefix_numbers(codes[known])
    rows: list[dict[str, float | int]] = []
    for length in range(1, levels + 1):
        prefix = prefixes[:, length - 1]
        pairs, counts = np.unique(prefix * len(kinds) + kind, return_counts=True)
        commonest = np.zeros(int(prefix.max()) + 1, dtype=np.int64)
        np.maximum.at(commonest, pairs // len(kinds), counts)
        rows.append({"prefix_length": length, "category_purity": int(commonest.sum()) / len(known)})
    return rows


def _neighbourhood(codes: Codes, pairs: Pairs, levels: int) -> list[dict[str, float | int | None]]:
    """How much more often consecutive items share a prefix than two random items do."""
    if not len(pairs):
        return []
    first, second = np.asarray(pairs, dtype=np.int64).T
    prefixes = prefix_numbers(codes)
    rows: list[dict[str, float | int | None]] = []
    n = len(codes)
    for length in range(1, levels + 1):
        groups = prefixes[:, length - 1]
        sizes = np.bincount(groups)
        observed = float((groups[first] == groups[second]).mean())
        by_chance = float((sizes * (sizes - 1)).sum() / (n * (n - 1))) if n > 1 else 0.0
        rows.append(
            {
                "prefix_length": length,
                "consecutive_share_prefix": observed,
                "random_share_prefix": by_chance,
                "lift": observed / by_chance if by_chance else None,
            }
        )
    return rows
