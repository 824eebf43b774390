"""Who works in a run folder: each output has one writer at a time, and nobody reads what another is replacing.

Every stage at work holds a lock on a file of its own, in which it says who it is, what it reads and what it writes. The
kernel takes the lock away when the process that holds it ends, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gream.errors import GreamError

_held: list[int] = []


def held_locks() -> tuple[int, ...]:
    """File descriptors of the locks of this process: a child that is given one holds the lock as well."""
    return tuple(_held)


@contextmanager
def claim(run: Path, name: str, *, reads: Sequence[Path], writes: Sequence[Path]) -> Iterator[None]:
    """Work in ``run`` as stage ``name``.

    Args:
        run: Run folder.
        name: Of the stage.
        reads: Files or folders that must not be replaced meanwhile.
        writes: Files or folders that nobody else may read or replace meanwhile.

    Raises:
        GreamError: A living process stands in the way; names it.
    """
    folder = run / ".stages" / "working"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # as below /proc, where nobody makes folders
        raise GreamError(f"{run}: no folder can be made there; choose another run folder") from None
    mine = {
        "stage": name,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "reads": [os.path.realpath(path) for path in reads],
        "writes": [os.path.realpath(path) for path in writes],
    }
    own = folder / name
    with (folder / ".entry").open("ab") as entry:
        # Held while one looks around, no longer.
        fcntl.flock(entry, fcntl.LOCK_EX)
        for path in sorted(folder.glob("[!.]*")):
            if (other := _at_work(path)) and (path == own or _collide(mine, other)):
                raise GreamError(
                    f"{run}: stage '{other['stage']}' is at work there: process {other['pid']} on {other['host']} "
                    f"since {other['since']}; wait for it to end, or stop it, before '{name}' starts"
                )
        stream = own.open("r+b" if own.exists() else "w+b")
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stream.truncate()
        stream.write(json.dumps(mine).encode())
        stream.flush()
    _held.append(stream.fileno())
    try:
        yield
    finally:
        _held.remove(stream.fileno())
        stream.close()


def _at_work(path: Path) -> dict[str, object] | None:
    """What a living process says in its file; None where it is a dead one's."""
    stream: BinaryIO
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            said: dict[str, object] = json.loads(stream.read())
            return said
    return None


def _collide(one: dict[str, object], other: dict[str, object]) -> bool:
    return any(
        _overlap(first, second)
        for ours, theirs in (("writes", "writes"), ("writes", "reads"), ("reads", "writes"))
        for first in _paths(one, ours)
        for second in _paths(other, theirs)
    )


def _paths(said: dict[str, object], key: str) -> list[str]:
    paths = said[key]
    return paths if isinstance(paths, list) else []


def _overlap(one: str, other: str) -> bool:
    """Whether they are the same, or one lies in the other."""
    return os.path.commonpath([one, other]) in (one, other)
