"""Files of raw data: plain, gzip'd or zstd'd, told by their content; where one is cut or damaged is named by line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from backports.zstd import ZstdError, ZstdFile
from gream.errors import GreamError

_MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
_NAMES = {".gz": "gzip", ".zst": "zstd"}
# Bytes of a stream of nothing. Of fewer, not every reader can tell that they are compressed.
_SMALLEST = {".gz": 18, ".zst": 9}


def open_raw(path: Path) -> IO[bytes]:
    """The file as it lies on disk, compressed or not.

    Raises:
        GreamError: It is missing, empty, cut off within its first bytes, or not compressed as its name says.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise GreamError(f"{path}: cannot be read ({error.strerror}); name an existing raw dump") from None
    start = stream.read(max(_SMALLEST.values()))
    stream.seek(0)
    if not start:
        stream.close()
        raise GreamError(f"{path}: the file is empty; download it again")
    magic = _MAGIC.get(path.suffix)
    if magic and not start.startswith(magic):
        stream.close()
        raise GreamError(
            f"{path}: named {path.suffix}, but it is no {_NAMES[path.suffix]} file; download it again, or rename it "
            "if it is plain text"
        )
    suffix = _told_by(start)
    if suffix and len(start) < _SMALLEST[suffix]:
        stream.close()
        raise GreamError(f"{path}: the {_NAMES[suffix]} stream is cut or damaged at its beginning; download it again")
    return stream


def plain_name(path: Path) -> str:
    """The file's name without the suffix of a compression."""
    return path.stem if path.suffix in _MAGIC else path.name


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and content of each line, decompressed, line end included.

    Raises:
        GreamError: See `open_raw`; or the compressed stream is cut or damaged, which the next line's number names.
    """
    number = 0
    with open_raw(path) as raw:
        suffix = _compression(raw)
        stream = _decompressed(raw, suffix)
        try:
            for number, line in enumerate(stream, start=1):
                yield number, line
        except (EOFError, OSError, zlib.error, ZstdError) as error:
            raise GreamError(
                f"{path}:{number + 1}: the {_NAMES.get(suffix, 'file')} stream is cut or damaged here ({error}); "
                "download the file again"
            ) from None


def first_bytes(path: Path, count: int) -> bytes:
    """At most the first ``count`` bytes, decompressed; fewer where the stream ends or is damaged before.

    Raises:
        GreamError: See `open_raw`.
    """
    with open_raw(path) as raw:
        stream = _decompressed(raw, _compression(raw))
        head = b""
        try:
            while len(head) < count and (more := stream.read(1 << 12)):
                head += more
        except (EOFError, OSError, zlib.error, ZstdError):
            # Whoever reads the file whole will name the place; here the part before it is enough.
            pass
    return head[:count]


def _compression(raw: IO[bytes]) -> str:
    start = raw.read(4)
    raw.seek(0)
    return _told_by(start)


def _told_by(start: bytes) -> str:
    return next((suffix for suffix, magic in _MAGIC.items() if start.startswith(magic)), "")


def _decompressed(raw: IO[bytes], suffix: str) -> IO[bytes] | gzip.GzipFile | ZstdFile:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    return ZstdFile(raw) if suffix == ".zst" else raw
