"""Residual k-means: the codebook that turns an item's embedding into a tuple of codes (paper section 3.1).

Level l clusters the residuals that level l - 1 left. Clusters are balanced to n/k +- 1 members, as in the official
implementation, here by auction (`balance`) instead of a min-cost flow. NumPy and PyTorch run the same lines: ``xp`` is
either module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gream.errors import GreamError
from gream.files import write_atomically
from gream.semantic_ids.balance import Array, assign_balanced
from gream.semantic_ids.embeddings import check_values

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]

# Rows for which temporary arrays are made at once.
_CHUNK = 1 << 16
# Iterations after which starts are compared.
_TRIAL = 3
# Less than this share of the error gained by an iteration: it was the last one.
_TOLERANCE = 1e-4
# Distances between the points that k-means++ draws from are taken in a random projection to so many dimensions.
_SKETCH = 64
# Points drawn for each centroid of a start; the one that leaves the least error is taken.
_CANDIDATES = 4


@dataclass(frozen=True)
class _Effort:
    """How far a balanced assignment is carried.

    Attributes:
        raise_by: Least raise of a bid, in units of the mean squared error.
        rounds: Rounds of bids at most.
    """

    raise_by: float
    rounds: int


# Starts are compared after iterations whose centroids still move, and want no exact assignment.
_ROUGH = _Effort(0.3, 100)
_ANNEALED = _Effort(0.03, 300)
# Share of its squared distance by which staying costs a point more when annealing begins.
_PUSH = 0.3


@dataclass(frozen=True)
class _Fit:
    """Where k-means stands: sum of squared errors, centroids ``[k, d]``, the cluster of each point ``[n]``."""

    error: float
    centroids: Array
    assigned: Array


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

        with write_atomically(path) as temporary:
            save_file({f"level_{i}": level for i, level in enumerate(self.centroids)}, str(temporary))

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
    iterations: int = 10,
    sample: int | None = None,
    device: str | None = None,
) -> tuple[Codebook, Codes]:
    """Fit a codebook and encode the items it was fitted on.

    On the device the embeddings, and about three numbers per item and cluster, have to find room.

    Args:
        embeddings: float32 ``[n, d]``; float64 is computed with, and gives centroids, as such.
        sizes: Number of clusters at each level.
        seed: Fixes every random choice.
        balanced: Let cluster sizes differ by one at most. Such clusters are annealed: they leave what is best only as
            long as no point moves.
        restarts: k-means++ starts per level; the one that is best after a few iterations is carried on.
        iterations: Lloyd iterations at most, fewer where they gain nothing any more; twice as many, never fewer, if
            balanced.
        sample: Items at most that centroids are fitted to, drawn evenly; all items are then assigned once, and the
            centroids moved to the middle of their own. None fits to all of them.
        device: Of PyTorch, such as "cpu" or "cuda"; None computes with NumPy. All draw the same random numbers, so
            results agree but for rounding.

    Returns:
        The codebook and int64 codes ``[n, levels]``. With ``balanced`` an item's code is not always its nearest
        centroid.

    Raises:
        GreamError: Fewer items than clusters, embeddings that `check_values` refuses, or a device that is not there.
    """
    if len(embeddings) < max(sizes):
        raise GreamError(f"{len(embeddings)} items cannot form {max(sizes)} clusters; lower semantic_ids.codebook_size")
    # Costs that are no numbers would keep the auction going for ever.
    check_values(embeddings, "embeddings")
    if restarts < 1:
        raise GreamError("semantic_ids.restarts must be 1 or more")
    xp, residual = _place(embeddings, device)
    random = np.random.default_rng(seed)
    levels: list[Floats] = []
    codes = np.empty((len(embeddings), len(sizes)), dtype=np.int64)
    drawn = None
    if sample is not None and len(embeddings) > sample:
        drawn = xp.asarray(np.sort(random.choice(len(embeddings), max(sample, *sizes), replace=False)))
    for level, size in enumerate(sizes):
        if drawn is None:
            fit = _kmeans(residual, size, random, xp, balanced, restarts, iterations)
        else:
            some = residual[drawn]
            fit = _kmeans(some, size, random, xp, balanced, restarts, iterations)
            fit = _extended(residual, some, fit.centroids, xp, balanced)
        for rows in _chunks(residual):
            residual[rows] -= fit.centroids[fit.assigned[rows]]
        levels.append(_to_numpy(fit.centroids))
        codes[:, level] = _to_numpy(fit.assigned)
    return Codebook(tuple(levels)), codes


def _place(embeddings: Floats, device: str | None) -> tuple[Any, Array]:
    """The array module, and a copy of the embeddings on its device."""
    dtype = np.float64 if embeddings.dtype == np.float64 else np.float32
    if device is None:
        return np, embeddings.astype(dtype, copy=True)
    import torch

    try:
        return torch, torch.tensor(embeddings.astype(dtype, copy=False), device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
        reason = str(error).splitlines()[0]
        raise GreamError(
            f"device '{device}' cannot hold the embeddings ({reason}); change semantic_ids.device"
        ) from None


def _to_numpy(array: Array) -> Any:
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def _chunks(points: Array) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, len(points), _CHUNK)]


def _kmeans(
    points: Array,
    size: int,
    random: np.random.Generator,
    xp: Any,
    balanced: bool,
    restarts: int,
    iterations: int,
) -> _Fit:
    norms = xp.concatenate([(points[rows] ** 2).sum(axis=1) for rows in _chunks(points)])
    rough = _ROUGH if balanced else None
    trials = [
        _lloyd(points, norms, _plus_plus(points, size, random, xp), xp, rough, min(_TRIAL, iterations))
        for _ in range(restarts)
    ]
    best = min(trials, key=lambda fit: fit.error)
    if balanced:
        return _anneal(points, norms, best, xp, 2 * iterations)
    return min(best, _lloyd(points, norms, best.centroids, xp, None, iterations), key=lambda fit: fit.error)


def _extended(points: Array, some: Array, centroids: Array, xp: Any, balanced: bool) -> _Fit:
    """All ``[n, d]`` points assigned at once to the ``[k, d]`` centroids of ``some`` of them."""
    size = len(centroids)
    prices = xp.zeros((size,), dtype=points.dtype, device=points.device)
    if balanced:
        # What seats are worth is the same for all points as for some, and most of the auction.
        _assigned(some, centroids, xp, prices)
        assigned = _assigned(points, centroids, xp, prices)
    else:
        assigned = xp.concatenate([xp.argmin(_costs(points[rows], centroids), axis=1) for rows in _chunks(points)])
    counts = xp.bincount(assigned, minlength=size)
    sums = _sums(points, assigned, size, xp)
    divisor = xp.asarray(xp.where(counts > 0, counts, 1), dtype=points.dtype)[:, None]
    centroids = xp.where(counts[:, None] > 0, sums / divisor, centroids)
    energy = sum(float((points[rows] ** 2).sum(dtype=xp.float64)) for rows in _chunks(points))
    error = energy - float((counts * (centroids**2).sum(axis=1, dtype=xp.float64)).sum())
    return _Fit(error, centroids, assigned)


def _assigned(points: Array, centroids: Array, xp: Any, prices: Array) -> Array:
    """The balanced assignment of ``[n, d]`` points; ``prices`` as `assign_balanced` has them."""
    costs = xp.zeros((len(points), len(centroids)), dtype=points.dtype, device=points.device)
    error = 0.0
    for rows in _chunks(points):
        costs[rows] = _costs(points[rows], centroids)
        error += float((xp.amin(costs[rows], axis=1) + (points[rows] ** 2).sum(axis=1)).sum(dtype=xp.float64))
    raise_by = _ANNEALED.raise_by * max(error / len(points), 0.0)
    return assign_balanced(costs, xp, raise_by=raise_by, rounds=_ANNEALED.rounds, prices=prices)


def _costs(points: Array, centroids: Array) -> Array:
    """Squared distances, ``[n, k]``, less the points' own squared norms."""
    costs = points @ (-2 * centroids).T
    costs += (centroids**2).sum(axis=1)
    return costs


def _lloyd(points: Array, norms: Array, centroids: Array, xp: Any, effort: _Effort | None, iterations: int) -> _Fit:
    """The best of the Lloyd iterations from ``centroids``, which end where they gain nothing.

    Args:
        points: ``[n, d]``.
        norms: Squared norm of each point, ``[n]``.
        centroids: ``[k, d]`` to start from.
        xp: ``numpy`` or ``torch``.
        effort: Of the balanced assignment; None: each point goes to its nearest centroid.
        iterations: At most.
    """
    size = len(centroids)
    energy = float(norms.sum(dtype=xp.float64))
    best: _Fit | None = None
    for _ in range(iterations):
        costs = _costs(points, centroids)
        lowest = xp.amin(costs, axis=1) + norms
        if effort is None:
            assigned = xp.argmin(costs, axis=1)
        else:
            mean = max(float(lowest.sum(dtype=xp.float64)) / len(points), 0.0)
            assigned = assign_balanced(costs, xp, raise_by=effort.raise_by * mean, rounds=effort.rounds)
        del costs
        counts = xp.bincount(assigned, minlength=size)
        filled = counts > 0
        # An integer divisor would turn float32 into float64 in NumPy.
        divisor = xp.asarray(xp.where(filled, counts, 1), dtype=points.dtype)
        centroids = _sums(points, assigned, size, xp) / divisor[:, None]
        error = energy - float((counts * (centroids**2).sum(axis=1, dtype=xp.float64)).sum())
        gain = math.inf if best is None else best.error - error
        if best is None or gain > 0:
            best = _Fit(error, centroids, assigned)
        if gain <= _TOLERANCE * abs(error):
            break
        if not bool(filled.all()):
            # A cluster that lost all members restarts at the points that are served worst.
            worst = xp.argsort(-lowest, stable=True)
            centroids[~filled] = points[worst[: int((~filled).sum())]]
    assert best is not None  # noqa: S101 - the caller asks for one iteration at least
    return best


def _anneal(points: Array, norms: Array, fit: _Fit, xp: Any, steps: int) -> _Fit:
    """The best of Lloyd iterations in which staying costs a point more than its distance, less so with every step.

    A Lloyd iteration asks what each point would cost elsewhere if no centroid moved, and ends where none would gain.
    But a cluster of m members that one of them leaves saves m / (m - 1) of its squared distance, and the one it joins
    pays m / (m + 1) of the new one (Hartigan and Wong 1979): some 2 / m in favour of going. ``_PUSH`` on top carries
    points across small rises of the error, as in simulated annealing, but without chance. Both fall to nothing in equal
    steps.

    Args:
        points: ``[n, d]``.
        norms: Squared norm of each point, ``[n]``.
        fit: Balanced clusters to start from.
        xp: ``numpy`` or ``torch``.
        steps: Number of iterations.
    """
    n, size = len(points), len(fit.centroids)
    energy = float(norms.sum(dtype=xp.float64))
    everyone = xp.arange(n, device=points.device)
    best, assigned, centroids = fit, fit.assigned, fit.centroids
    sums = _sums(points, assigned, size, xp)
    prices = xp.zeros((size,), dtype=points.dtype, device=points.device)
    for step in range(steps):
        costs = _costs(points, centroids)
        mean = max(float((xp.amin(costs, axis=1) + norms).sum(dtype=xp.float64)) / n, 0.0)
        push = (_PUSH + 2 * size / n) * (1 - step / steps)
        costs[everyone, assigned] += push * xp.clip(costs[everyone, assigned] + norms, 0, None)
        # Bids need not be finer than what is added anyway.
        raise_by = max(_ANNEALED.raise_by, push / 2) * mean
        before = assigned
        assigned = assign_balanced(costs, xp, raise_by=raise_by, rounds=_ANNEALED.rounds, prices=prices)
        del costs
        # Only some points move, so that what they change is less work than all sums.
        moved = everyone[assigned != before]
        sums += _sums(points[moved], assigned[moved], size, xp, left=before[moved])
        counts = xp.bincount(assigned, minlength=size)  # which clusters have the odd member may change
        centroids = sums / xp.asarray(counts, dtype=points.dtype)[:, None]
        error = energy - float((counts * (centroids**2).sum(axis=1, dtype=xp.float64)).sum())
        if error < best.error:
            best = _Fit(error, centroids, assigned)
    return best


def _sums(points: Array, assigned: Array, size: int, xp: Any, left: Array | None = None) -> Array:
    """Sum of each cluster's points, ``[k, d]``; less that of the points that ``left`` it, if given.

    A matrix product, because scattered additions are slower and, on a GPU, come in no fixed order.
    """
    total = xp.zeros((size, points.shape[1]), dtype=points.dtype, device=points.device)
    for rows in _chunks(points):
        of = assigned[rows]
        members = xp.zeros((size, len(of)), dtype=points.dtype, device=points.device)
        members[of, xp.arange(len(of), device=points.device)] = 1
        if left is not None:
            members[left[rows], xp.arange(len(of), device=points.device)] = -1
        total += members @ points[rows]
    return total


def _plus_plus(points: Array, size: int, random: np.random.Generator, xp: Any) -> Array:
    """Greedy k-means++ start: of some points drawn with a chance in proportion to their squared distance, the best."""
    width = points.shape[1]
    sketch = points
    if width > _SKETCH:
        projection = random.normal(scale=_SKETCH**-0.5, size=(width, _SKETCH))
        sketch = points @ xp.asarray(projection, dtype=points.dtype, device=points.device)
    norms = (sketch**2).sum(axis=1)
    # The first centroid is drawn evenly: all points are equally far from none.
    nearest = xp.ones_like(norms)
    chosen: list[int] = []
    while len(chosen) < size:
        # Draws by the running sum, and not Generator.choice, because float32 weights do not sum to 1 exactly.
        cumulative = xp.cumsum(nearest, axis=0, dtype=xp.float64)
        total = float(cumulative[-1])
        if total > 0:
            draws = xp.asarray(random.random(_CANDIDATES) * total, device=points.device)
            picks = xp.clip(xp.searchsorted(cumulative, draws, side="right"), 0, len(points) - 1)
        else:  # every point coincides with a centroid
            picks = xp.asarray(random.integers(len(points), size=_CANDIDATES), device=points.device)
        distances = norms[:, None] + (norms[picks] - 2 * (sketch @ sketch[picks].T))  # [n, candidates]
        reached = xp.clip(distances if not chosen else xp.minimum(nearest[:, None], distances), 0, None)
        best = int(xp.argmin(reached.sum(axis=0)))
        chosen.append(int(picks[best]))
        nearest = reached[:, best]
    return points[chosen]
