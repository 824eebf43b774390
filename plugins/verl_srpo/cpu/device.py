"""What verl asks of ``torch.cuda``, answered for the CPU."""

from __future__ import annotations

import psutil
import torch
from torch.cpu import current_stream, is_available, set_device, stream, synchronize

__all__ = [
    "current_stream",
    "is_available",
    "set_device",
    "stream",
    "synchronize",
    "current_device",
    "device_count",
    "empty_cache",
    "get_device_name",
    "get_rng_state",
    "ipc_collect",
    "manual_seed",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "set_rng_state",
]


def current_device() -> torch.device:
    """The only device there is."""
    return torch.device("cpu")


def device_count() -> int:
    """One."""
    return 1


def get_device_name() -> str:
    """A name for log lines."""
    return "CPU"


def manual_seed(seed: int) -> None:
    """Seed torch's generator."""
    torch.manual_seed(seed)


def get_rng_state() -> torch.Tensor:
    """State of torch's generator."""
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor) -> None:
    """Restore what `get_rng_state` gave."""
    torch.set_rng_state(state)


def mem_get_info() -> tuple[int, int]:
    """Free and total main memory, bytes."""
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def empty_cache() -> None:
    """Nothing is cached."""


def ipc_collect() -> None:
    """Nothing is shared."""


def memory_allocated() -> int:
    """Bytes on the accelerator: none. verl reports main memory itself."""
    return 0


def memory_reserved() -> int:
    """See `memory_allocated`."""
    return 0


def max_memory_allocated() -> int:
    """See `memory_allocated`."""
    return 0


def max_memory_reserved() -> int:
    """See `memory_allocated`."""
    return 0
