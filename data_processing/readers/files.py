"""Files of raw data as UTF-8 with plain line ends, plain, gzip'd or zstd'd, told by their content.

Where one is cut or damaged is named by line; what is no such file, such as an archive, is refused with its remedy.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
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

_UNPACK = "unpack it and name the file inside"
# How files start that are handed over by mistake, what they are, and what to do.
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive", f"{_UNPACK}, or export CSV if it is an Excel workbook"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", "export it as CSV in UTF-8"),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz file", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"SQLite format 3\x00", "an SQLite database", "export the table as CSV or Parquet"),
    (b"\x89HDF\r\n", "an HDF5 file", "export the table as CSV or Parquet"),
    (b"ARROW1", "an Arrow (Feather) file", "write the table as Parquet"),
    (b"ORC", "an ORC file", "write the table as Parquet"),
    (b"%PDF-", "a PDF document", "export the table as CSV"),
    (b"<?xml", "an XML document", "export the table as CSV in UTF-8"),
    (b"\x80\x04\x95", "a Python pickle", "write the table as CSV or Parquet"),
    # Seen here only inside another stream, which has been taken off.
    *((magic, "a compressed file inside another", _UNPACK) for magic in _MAGIC.values()),
)
_PAGE = (b"<!doctype html", b"<html")
# What is looked at to tell an encoding.
_HEAD = 1 << 12


def open_raw(path: Path) -> IO[bytes]:
    """The file as it lies on disk, compressed or not; decompressed and in memory where it is not plain UTF-8.

    A mark of byte order is left out, UTF-16 becomes UTF-8, and line ends of a single carriage return line feeds.

    Raises:
        GreamError: It is missing, empty, cut off within its first bytes, not compressed as its name says, or no file
            of lines or Parquet at all.
    """
    head = _start(path, _HEAD)
    _refuse_foreign(path, head)
    if head.startswith(b"PAR1"):
        # Parquet: whatever its bytes look like, they are no text.
        return _open(path)
    encoding = _encoding(head)
    returns = b"\r" in head and b"\n" not in head
    if encoding is None and not returns:
        return _open(path)
    content = b"".join(line for _, line in _numbered(path))
    if encoding is not None:
        try:
            content = content.decode(encoding).encode()
        except UnicodeError as error:
            says = getattr(error, "reason", "cut")
            raise GreamError(f"{path}: not valid {encoding} ({says}); convert the file to UTF-8") from None
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    return io.BytesIO(content)


def plain_name(path: Path) -> str:
    """The file's name without the suffix of a compression."""
    return path.stem if path.suffix in _MAGIC else path.name


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and content of each line, decompressed, in UTF-8, line end included.

    Raises:
        GreamError: See `open_raw`; or the compressed stream is cut or damaged, which the next line's number names.
    """
    with open_raw(path) as raw:
        if isinstance(raw, io.BytesIO):
            yield from enumerate(raw, start=1)
            return
    yield from _numbered(path)


def first_bytes(path: Path, count: int) -> bytes:
    """At most the first ``count`` bytes, decompressed and in UTF-8; fewer where the stream ends or is damaged before.

    Raises:
        GreamError: See `open_raw`.
    """
    with open_raw(path) as raw:
        if isinstance(raw, io.BytesIO):
            return raw.read(count)
    return _start(path, count)


def shown(value: object, limit: int = 60) -> str:
    """A value of a file in an error: as JSON, in one line of at most ``limit`` characters."""
    try:
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError, OverflowError):
        text = f"a {type(value).__name__}"
    return bounded(text, limit)


def bounded(text: str, limit: int = 200) -> str:
    """``text`` in one line of at most ``limit`` characters."""
    # Of megabytes, only the beginning is worth folding.
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 3] + "..."


def _refuse_foreign(path: Path, head: bytes) -> None:
    found = next(((kind, remedy) for magic, kind, remedy in _FOREIGN if head.startswith(magic)), None)
    if head.lstrip()[:20].lower().startswith(_PAGE):
        found = "a web page", "the download went wrong; download the file itself"
    elif head[257:262] == b"ustar":
        found = "a tar archive", _UNPACK
    elif found is not None and head.startswith(b"PK") and (path.suffix == ".xlsx" or b"[Content_Types]" in head):
        found = "an Excel workbook", "export it as CSV in UTF-8"
    if found is not None:
        raise GreamError(f"{path}: this is {found[0]}; {found[1]}")


def _encoding(head: bytes) -> str | None:
    """The encoding that the start of a file shows; None for UTF-8 without a mark, and for what shows none."""
    # UTF-32's mark starts like UTF-16's.
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name
    start = head[:64]
    if len(start) >= 4:
        if not any(start[1::2]) and all(start[::2]):
            return "utf-16-le"
        if not any(start[::2]) and all(start[1::2]):
            return "utf-16-be"
    return None


def _open(path: Path) -> IO[bytes]:
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


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    with _open(path) as raw:
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


def _start(path: Path, count: int) -> bytes:
    with _open(path) as raw:
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
