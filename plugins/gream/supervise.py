"""``python -m gream.supervise PARENT COMMAND...``: run a command none of whose processes outlives it or the parent.

The supervisor adopts every process below it that loses its parent, also one in a session of its own, as torchrun's and
Ray's are. When the command ends, or process PARENT ends, however it ends, it kills all of them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36


def supervised(command: Sequence[str]) -> list[str]:
    """``command`` as a child of this process that is to be supervised."""
    return [sys.executable, "-m", "gream.supervise", str(os.getpid()), *command]


def adopt_orphans() -> None:
    """From now on, whatever below this process loses its parent becomes its child."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def children() -> frozenset[int]:
    """Processes whose parent is this one."""
    return frozenset(pid for pid, parent in _parents().items() if parent == os.getpid())


def kill_descendants(spare: frozenset[int] = frozenset()) -> None:
    """End all processes below this one but those in and below ``spare``, and wait until they are gone."""
    while below := _descendants(os.getpid(), spare):
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for pid in below:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
        time.sleep(0.01)


def main(parent: int, command: Sequence[str]) -> int:
    """Run ``command``.

    Args:
        parent: Process whose end is the command's end.
        command: Program and arguments.

    Returns:
        Its exit status as a shell has it: 128 and the signal that ended it, 127 where it cannot be started.
    """
    adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the line above
        return 128 + signal.SIGTERM
    try:
        # SIGKILL of the supervisor reaches at least its child.
        child = subprocess.Popen(command, preexec_fn=lambda: _prctl(_SET_PDEATHSIG, signal.SIGKILL))
        status = child.wait()
    except OSError as error:
        print(f"cannot start {command[0]} ({error.strerror}); run scripts/install.sh", flush=True)
        return 127
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        kill_descendants()
    return status if status >= 0 else 128 - status


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _descendants(root: int, spare: frozenset[int]) -> set[int]:
    parents = _parents()
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below - spare:
        below |= more
    return below - {root}


def _parents() -> dict[int, int]:
    """Parent of every process; ended ones count until their parent has taken note."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # "PID (NAME) STATE PARENT ...", and a name may hold anything.
                stat = (folder / "stat").read_text(errors="replace")
            except OSError:
                continue
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    return parents


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), sys.argv[2:]))
