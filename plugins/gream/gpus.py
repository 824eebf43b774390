"""The machine: NVIDIA GPUs as ``nvidia-smi`` tells them, without torch, what they ask for, and main memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

# The oldest driver, by the CUDA release that torch was built with (NVIDIA, CUDA compatibility, table 2).
DRIVERS = {13: 580, 12: 525}
# bf16 and flash attention begin with Ampere.
OLDEST = (8, 0)


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: Its name.
        memory: Bytes.
        capability: Compute capability, major and minor.
        driver: Version of the driver.
    """

    name: str
    memory: int
    capability: tuple[int, int]
    driver: str


def find_gpus() -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; none where there is no driver."""
    query = "index,uuid,name,memory.total,compute_cap,driver_version"
    said = _smi(f"--query-gpu={query}", "--format=csv,noheader,nounits")
    found = {}
    for line in said.splitlines():
        index, uuid, name, mebibytes, capability, driver = (part.strip() for part in line.split(","))
        major, _, minor = capability.partition(".")
        found[index] = found[uuid] = Gpu(name, int(mebibytes) << 20, (int(major), int(minor)), driver)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [gpu for key, gpu in found.items() if key.isdigit()]
    return [found[key.strip()] for key in visible.split(",") if key.strip() in found]


def physical_memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def nvlink() -> bool | None:
    """Whether GPUs are joined by NVLink; None where nothing is known of it."""
    said = _smi("topo", "-m")
    rows = [line.split() for line in said.splitlines() if line.startswith("GPU")]
    if len(rows) < 2:
        return None
    return any(cell.startswith("NV") and cell[2:].isdigit() for row in rows for cell in row)


def too_old(gpu: Gpu, cuda: str) -> str | None:
    """Why a build of torch for ``cuda``, e.g. "13.0", cannot use a GPU, and the remedy; None where it can."""
    needed = DRIVERS.get(int(cuda.partition(".")[0]))
    if needed and int(gpu.driver.partition(".")[0]) < needed:
        return f"driver {gpu.driver}, CUDA {cuda} needs {needed} or later: update the driver"
    if gpu.capability < OLDEST:
        found = ".".join(map(str, gpu.capability))
        return f"compute capability {found}, bf16 needs 8.0 (Ampere) or later: take another GPU"
    return None


def _smi(*arguments: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
