"""Content hashes of files and folders; what was hashed before is known by size, times and inode and not read again."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from gream.errors import GreamError
from gream.files import write_json

# What training needs to go on and nobody reads once it is over: transformers' and verl's.
_FOR_RESUMING = (
    *("checkpoint-*", "optimizer.pt", "scheduler.pt", "rng_state*.pth"),
    *("model_world_size_*", "optim_world_size_*", "extra_state_world_size_*", "data.pt", "transfer_queue"),
)
# A file may change again within the resolution of its time; younger ones are not remembered.
_SETTLED_NS = 2_000_000_000

# Size, time of change of content, of content or owner, and inode.
Stamp = tuple[int, int, int, int]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's relative file names and contents in sorted order.

    Raises:
        GreamError: ``path`` does not exist.
    """
    if path.is_dir():
        return _folder_hash({file: sha256_of(path / file) for file in _files(path, skip=())})
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise GreamError(f"{path}: cannot be read ({error.strerror})") from None


class Hashes:
    """Hashes of what stages of a run read and write, kept in the run folder between starts."""

    def __init__(self, run: Path) -> None:
        """Read those of ``run``; where they are broken, everything is hashed anew."""
        self._run = run.resolve()
        self._store = run / ".stages" / "hashes"
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._new = False
        try:
            for name, (stamp, digest) in json.loads(self._store.read_text(encoding="utf-8")).items():
                self._known[name] = tuple(stamp), str(digest)
        except (OSError, ValueError, TypeError, AttributeError):
            self._known = {}

    def of(self, path: Path) -> str:
        """SHA-256 of ``path`` as `sha256_of` has it, but of a folder without what only a resumed training reads.

        Raises:
            GreamError: It does not exist.
        """
        if path.is_dir():
            return _folder_hash({file: self.of(path / file) for file in _files(path)})
        name = os.path.relpath(path.resolve(), self._run)
        stamp = _stamp(path)
        if (known := self._known.get(name)) and known[0] == stamp:
            return known[1]
        digest = sha256_of(path)
        if stamp == _stamp(path) and time.time_ns() - max(stamp[1:3]) > _SETTLED_NS:
            self._known[name] = stamp, digest
            self._new = True
        return digest

    def save(self) -> None:
        """Keep what was learnt; of files that are gone nothing is kept."""
        if self._new:
            kept = {name: value for name, value in self._known.items() if (self._run / name).exists()}
            write_json(self._store, kept)
            self._new = False


def stamps(path: Path) -> dict[str, Stamp]:
    """What tells whether anything about a file, or about the files of a folder that are read, has changed."""
    return {file: _stamp(path / file) for file in _files(path)} if path.is_dir() else {"": _stamp(path)}


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise GreamError(f"{path}: cannot be read ({error.strerror})") from None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _folder_hash(files: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files, key=lambda name: Path(name).parts):
        digest.update(os.fsencode(f"{name}\0{files[name]}\0"))
    return digest.hexdigest()


def _files(folder: Path, skip: tuple[str, ...] = _FOR_RESUMING) -> Iterator[str]:
    """Files below ``folder``, relative to it."""

    def kept(names: list[str]) -> list[str]:
        return [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in skip)]

    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = kept(folders)
        for file in kept(files):
            yield os.path.relpath(os.path.join(place, file), folder)
