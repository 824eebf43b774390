"""How good semantic ids are, in figures: collisions, use of the codes, reconstruction, purity of prefixes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from gream.semantic_ids.collisions import collision_groups
from gream.semantic_ids.kmeans import Codebook, Codes, Floats


def quality_report(
    raw_codes: Codes,
    codes: Codes,
    embeddings: Floats,
    codebook: Codebook,
    *,
    policy: str,
    categories: Sequence[str],
    pairs: Sequence[tuple[int, int]],
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
    sharing = sum(len(items) for items in collision_groups(raw_codes).values())
    levels = codebook.sizes
    residual = embeddings.astype(np.float64, copy=True)
    total = float((residual**2).sum()) or 1.0
    per_level = []
    for level, size in enumerate(levels):
        residual = residual - codebook.centroids[level][codes[:, level]]
        counts = np.bincount(codes[:, level], minlength=size)
        per_level.append(
            {
                "level": level + 1,
                "size": size,
                **_usage(counts),
                "reconstruction_error": float((residual**2).sum()) / total,
            }
        )
    return {
        "items": len(codes),
        "levels": len(levels),
        "sizes": list(levels),
        "collisions": {
            "items_sharing": sharing,
            "rate": sharing / len(codes),
            "ids_moved": int((raw_codes != codes[:, : len(levels)]).any(axis=1).sum()),
            "policy": policy,
        },
        "unique_rate": len({tuple(row) for row in codes.tolist()}) / len(codes),
        "per_level": per_level,
        "purity": _purity(codes, categories, len(levels)),
        "cooccurrence": _neighbourhood(codes, pairs, len(levels)),
    }


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
    known = [item for item, category in enumerate(categories) if category]
    if not known:
        return []
    rows = []
    for length in range(1, levels + 1):
        below: dict[tuple[int, ...], Counter[str]] = defaultdict(Counter)
        for item in known:
            below[tuple(codes[item, :length].tolist())][categories[item]] += 1
        majority = sum(counter.most_common(1)[0][1] for counter in below.values())
        rows.append({"prefix_length": length, "category_purity": majority / len(known)})
    return rows


def _neighbourhood(codes: Codes, pairs: Sequence[tuple[int, int]], levels: int) -> list[dict[str, float | int | None]]:
    """How much more often consecutive items share a prefix than two random items do."""
    if not pairs:
        return []
    first, second = np.array(pairs, dtype=np.int64).T
    rows: list[dict[str, float | int | None]] = []
    n = len(codes)
    for length in range(1, levels + 1):
        _, groups, sizes = np.unique(codes[:, :length], axis=0, return_inverse=True, return_counts=True)
        groups = groups.reshape(-1)
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
