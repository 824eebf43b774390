"""Residual k-means: the codebook that turns an item's embedding into a tuple of codes (paper section 3.1).

Level l clusters the residuals that level l - 1 left. Clusters are balanced to n/k +- 1 members, as in the official
implementation, here by a greedy assignment under capacity instead of a min-cost flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gream.errors import GreamError

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Codebook:
    """Centroids of every level.

    Attributes:
        centroids: Per level float32 ``[size, d]``.
    """

    centroids: tuple[Floats, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of centroids at each level."""
        return tuple(len(level) for level in self.centroids)

    def encode(self, embeddings: Floats) -> Codes:
        """Nearest centroid level by level, for items the codebook may never have seen.

        Args:
            embeddings: float32 ``[n, d]``.

        Returns:
            int64 ``[n, levels]``, codes from 0; several items may get the same codes.
        """
        residual = embeddings.astype(np.float32, copy=True)
        codes = np.empty((len(embeddings), len(self.centroids)), dtype=np.int64)
        for level, centroids in enumerate(self.centroids):
            codes[:, level] = squared_distances(residual, centroids).argmin(axis=1)
            residual -= centroids[codes[:, level]]
        return codes

    def save(self, path: Path) -> None:
        """Write all levels to a safetensors file."""
        from safetensors.numpy import save_file

        save_file({f"level_{i}": level for i, level in enumerate(self.centroids)}, str(path))

    @staticmethod
    def load(path: Path) -> Codebook:
        """Read what `save` wrote.

        Raises:
            GreamError: The file cannot be read or holds no levels.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(str(path))
            return Codebook(tuple(tensors[f"level_{i}"] for i in range(len(tensors))))
        except (OSError, SafetensorError, KeyError) as error:
            raise GreamError(f"{path}: cannot be read as a codebook ({error})") from None


def squared_distances(points: Floats, centroids: Floats) -> Floats:
    """Squared Euclidean distances, float32 ``[n, k]``, of ``[n, d]`` points and ``[k, d]`` centroids."""
    cross = points @ centroids.T
    squares = (points * points).sum(axis=1)[:, None] + (centroids * centroids).sum(axis=1)[None, :]
    return np.maximum(squares - 2 * cross, 0)


def fit_residual_kmeans(
    embeddings: Floats,
    sizes: tuple[int, ...],
    *,
    seed: int,
    balanced: bool = True,
    restarts: int = 4,
    iterations: int = 50,
) -> tuple[Codebook, Codes]:
    """Fit a codebook and encode the items it was fitted on.

    Args:
        embeddings: float32 ``[n, d]``.
        sizes: Number of clusters at each level.
        seed: Fixes every random choice.
        balanced: Bound every cluster to at most ceil(n / size) members.
        restarts: k-means++ starts per level; the one with the lowest sum of squared errors is kept.
        iterations: Lloyd iterations at most; fewer where no assignment changes any more.

    Returns:
        The codebook and int64 codes ``[n, levels]``. With ``balanced`` an item's code is not always its nearest
        centroid.

    Raises:
        GreamError: Fewer items than clusters, or an embedding that is not finite.
    """
    if len(embeddings) < max(sizes):
        raise GreamError(f"{len(embeddings)} items cannot form {max(sizes)} clusters; lower semantic_ids.codebook_size")
    if not np.isfinite(embeddings).all():
        bad = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise GreamError(f"embedding of item {bad} is not finite; embed again")
    random = np.random.default_rng(seed)
    residual = embeddings.astype(np.float32, copy=True)
    levels: list[Floats] = []
    codes = np.empty((len(embeddings), len(sizes)), dtype=np.int64)
    for level, size in enumerate(sizes):
        best: tuple[float, Floats, Codes] | None = None
        for _ in range(restarts):
            centroids, assigned = _kmeans(residual, size, random, balanced, iterations)
            error = float(((residual - centroids[assigned]) ** 2).sum())
            if best is None or error < best[0]:
                best = (error, centroids, assigned)
        if best is None:
            raise GreamError("semantic_ids.restarts must be 1 or more")
        levels.append(best[1])
        codes[:, level] = best[2]
        residual -= best[1][best[2]]
    return Codebook(tuple(levels)), codes


def _kmeans(
    points: Floats, size: int, random: np.random.Generator, balanced: bool, iterations: int
) -> tuple[Floats, Codes]:
    centroids = _plus_plus(points, size, random)
    assigned = np.full(len(points), -1, dtype=np.int64)
    for _ in range(iterations):
        distances = squared_distances(points, centroids)
        new = _assign_balanced(distances) if balanced else distances.argmin(axis=1)
        if (new == assigned).all():
            break
        assigned = new
        counts = np.bincount(assigned, minlength=size)
        sums = np.zeros_like(centroids)
        np.add.at(sums, assigned, points)
        filled = counts > 0
        centroids[filled] = sums[filled] / counts[filled, None]
        if not filled.all():
            # A cluster that lost all members restarts at the points that are served worst.
            worst = np.argsort(-distances[np.arange(len(points)), assigned], kind="stable")
            centroids[~filled] = points[worst[: int((~filled).sum())]]
    return centroids, assigned


def _plus_plus(points: Floats, size: int, random: np.random.Generator) -> Floats:
    """k-means++ start: each further centroid is drawn with probability proportional to its squared distance."""
    chosen = [int(random.integers(len(points)))]
    nearest = squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < size:
        # A draw by the running sum, and not Generator.choice, because float32 weights do not sum to 1 exactly.
        cumulative = np.cumsum(nearest, dtype=np.float64)
        if cumulative[-1] > 0:
            pick = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
        else:  # every point coincides with a centroid
            pick = int(random.integers(len(points)))
        chosen.append(min(pick, len(points) - 1))
        nearest = np.minimum(nearest, squared_distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen].copy()


def _assign_balanced(distances: Floats) -> Codes:
    """Assign each point to a centroid, none taking more than its share; sizes differ by one at most.

    In rounds: each free point asks its nearest centroid that still has room, each centroid takes those that would
    lose most by being turned away. Ties go to the lower point, so the result depends on the input alone.
    """
    n, k = distances.shape
    assigned = np.full(n, -1, dtype=np.int64)
    room = np.full(k, n // k, dtype=np.int64)
    free = np.arange(n)
    while len(free):
        if not room.any():
            # Every centroid holds its share: the rest goes one by one to the nearest not yet enlarged.
            room[:] = 1
        open_ = np.flatnonzero(room)
        local = distances[np.ix_(free, open_)]
        wish = local.argmin(axis=1)
        if len(open_) > 1:
            two = np.partition(local, 1, axis=1)[:, :2]
            regret = two[:, 1] - two[:, 0]
        else:
            regret = np.zeros(len(free), dtype=np.float32)
        order = np.lexsort((free, -regret, wish))
        wish_sorted = wish[order]
        first = np.searchsorted(wish_sorted, np.arange(len(open_)))
        rank = np.arange(len(free)) - first[wish_sorted]
        taken = order[rank < room[open_][wish_sorted]]
        assigned[free[taken]] = open_[wish[taken]]
        room[open_] -= np.bincount(wish[taken], minlength=len(open_))
        free = free[assigned[free] < 0]
    return assigned
