"""The vectors that semantic ids are made from: read from a file that may have been made elsewhere, and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gream.errors import GreamError

# Largest value of a set, at least and at most: with room for sums over millions of items, its squares fit float32.
_SMALLEST, _LARGEST = 1e-12, 1e12


def read_embeddings(path: Path, items: int, source: Path | str = "items.parquet") -> npt.NDArray[np.float32]:
    """The vectors of ``items`` items, float32 ``[items, d]``, from a safetensors file with numbers of any type.

    Args:
        path: The file.
        items: How many there are.
        source: What says so, for the error line.

    Raises:
        GreamError: The file holds none under "embeddings", or not a usable one of numbers for each item.
    """
    from safetensors import SafetensorError, safe_open

    remedy = f"write one vector per item of {source}, in its order, under 'embeddings': float32 [{items}, d]"
    try:
        with safe_open(str(path), framework="np") as file:
            if "embeddings" not in file.keys():  # noqa: SIM118 - it is no mapping
                raise GreamError(f"{path}: has no tensor 'embeddings'; {remedy}")
            # NumPy has no bfloat16 and no float8.
            foreign = file.get_slice("embeddings").get_dtype().startswith(("BF", "F8"))
            vectors = _through_torch(path) if foreign else file.get_tensor("embeddings")
    except (OSError, SafetensorError) as error:
        raise GreamError(f"{path}: cannot be read as safetensors ({str(error)[:200]}); {remedy}") from None
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise GreamError(f"{path}: holds a tensor of shape {list(vectors.shape)}; {remedy}")
    if len(vectors) != items:
        raise GreamError(
            f"{path}: holds {len(vectors):,} embeddings, but {source} has {items:,} items; take both of the same "
            f"data, or {remedy}"
        )
    if vectors.dtype.kind not in "fiu":
        raise GreamError(f"{path}: holds values of type {vectors.dtype}; {remedy}")
    check_values(vectors, str(path))
    return vectors.astype(np.float32, copy=False)


def check_values(vectors: npt.NDArray[Any], source: str) -> None:
    """Refuse ``[n, d]`` vectors between which squared distances cannot be computed in float32.

    Raises:
        GreamError: A value is not finite, or the largest is far from 1.
    """
    largest = np.maximum(np.abs(vectors.max(axis=1)), np.abs(vectors.min(axis=1)))
    if not np.isfinite(largest).all():
        bad = int(np.flatnonzero(~np.isfinite(largest))[0])
        raise GreamError(f"{source}: embedding of item {bad} is not finite; embed again")
    top = float(largest.max())
    if top and not _SMALLEST <= top <= _LARGEST:
        raise GreamError(
            f"{source}: the largest value is {top:.3g}, of item {largest.argmax()}, and float32 cannot hold its square "
            "well; multiply all vectors by one number that brings it near 1, which leaves the clusters as they are"
        )


def _through_torch(path: Path) -> npt.NDArray[np.float32]:
    from safetensors.torch import load_file

    vectors: npt.NDArray[np.float32] = load_file(str(path))["embeddings"].float().numpy()
    return vectors
