"""The platform ``cpu`` of verl, chosen by VERL_PLATFORM=cpu.

verl places its workers on Ray's "GPU" resource and on nothing else, so one logical GPU stands for the CPU:
``ray_kwargs.ray_init.num_gpus=1``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

from verl_srpo.cpu import device


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """Every question verl has about the machine; where it is about accelerators, the answer is no."""

    @property
    def device_name(self) -> str:
        """Device type of torch."""
        return "cpu"

    @property
    def vendor_name(self) -> str:
        """Chooses engines by vendor elsewhere; there is one for all CPUs."""
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        """Stands where ``torch.cuda`` would."""
        return device

    def is_available(self) -> bool:
        """Always."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Only on request: a machine with an accelerator has a CPU as well."""
        return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"

    def current_device(self) -> torch.device:
        """See `device.current_device`."""
        return device.current_device()

    def device_count(self) -> int:
        """See `device.device_count`."""
        return device.device_count()

    def set_device(self, device_index: int) -> None:
        """There is no choice."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Work on the CPU is complete when a call returns."""

    def manual_seed(self, seed: int) -> None:
        """See `device.manual_seed`."""
        device.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """See `device.manual_seed`."""
        device.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """The allocator has none."""

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """No compute capability."""
        return None, None

    def communication_backend_name(self) -> str:
        """Collectives on the CPU."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """Goes with the logical GPU."""
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """No profiler ranges."""
        yield

    def profiler_start(self) -> None:
        """No profiler."""

    def profiler_stop(self) -> None:
        """No profiler."""

    def ray_resource_name(self) -> str:
        """See the module."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """Ray shall leave the visible devices alone."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """No device memory to share."""
        return False

    def cudart(self) -> None:
        """No CUDA."""
        return None
