"""What SGLang uses of sglang-kernel on a CPU without AMX, for a dense text model: a test tool, not a back end.

Without AMX its layers compute in plain torch of themselves (``forward_native``). Of most CPU kernels it needs no more
than the names, at import: they belong to speculative decoding, hybrid models and the moving of cached keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

__version__ = "0.4.10"

_LOW = 0xFFFFFFFF


def _rotated(x: torch.Tensor, by: int) -> torch.Tensor:
    return ((x << by) | (x >> (32 - by))) & _LOW


def _mixed(h: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    k = _rotated(k * 0xCC9E2D51 & _LOW, 15) * 0x1B873593 & _LOW
    return (_rotated(h ^ k, 13) * 5 + 0xE6546B64) & _LOW


@torch.library.custom_op("sgl_kernel::murmur_hash32_cpu", mutates_args=())
def murmur_hash32_cpu(seed: torch.Tensor, positions: torch.Tensor, col_indices: torch.Tensor) -> torch.Tensor:
    """MurmurHash3 of (seed, position, column), uint32 ``[rows, columns]``, as in sglang.kernels.ops.sampling."""
    low = (seed.view(torch.int64) & _LOW)[:, None]
    high = ((seed.view(torch.int64) >> 32) & _LOW)[:, None]
    h = _mixed(_mixed(torch.zeros_like(low), low), high)
    h = _mixed(h, positions.to(torch.int64)[:, None] & _LOW)
    h = _mixed(h, col_indices.to(torch.int64)[None, :] & _LOW) ^ 16
    # The products fit in 64 bits but for the sign, which the mask drops.
    h = (h ^ (h >> 16)) * 0x85EBCA6B & _LOW
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & _LOW
    return (h ^ (h >> 16)).to(torch.uint32)


@murmur_hash32_cpu.register_fake
def _(seed: torch.Tensor, positions: torch.Tensor, col_indices: torch.Tensor) -> torch.Tensor:
    return torch.empty((seed.shape[0], col_indices.shape[0]), dtype=torch.uint32)


def refusing(name: str) -> Callable[..., NoReturn]:
    """A function in the place of one that is not here."""

    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name}: not in this stand-in for a CPU without AMX")

    return refuse


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if not name.endswith("_cpu"):
        raise AttributeError(name)
    return refusing(name)
