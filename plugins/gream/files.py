"""JSON and JSON lines on disk: whole files appear at once or not at all, broken ones are named by file and line."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any

from gream.errors import GreamError

# One JSON object of a JSONL file.
Row = dict[str, Any]


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; the file is moved to ``path`` when the block ends.

    Where the block fails, the file is removed and ``path`` is what it was. A killed process leaves the temporary file,
    which the next writer takes over: a path has one writer at a time. The mode follows the umask whoever writes the
    file (safetensors makes files that their owner alone can read).

    Raises:
        GreamError: The folder or the disk does not take the file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as stream:
                mode = os.fstat(stream.fileno()).st_mode & 0o777
            yield temporary
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise GreamError(f"{path}: cannot be written ({error.strerror or error})") from None


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, as `write_atomically` does."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, as `write_atomically` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


# `json.dumps` makes an encoder for each value where a setting is not the usual one.
_line = json.JSONEncoder(ensure_ascii=False).encode


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, non-ASCII text as it is, as `write_atomically` does."""
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(map(jsonl_line, rows))


def jsonl_line(row: Mapping[Any, Any]) -> str:
    """``row`` as a line of a JSONL file, its end included."""
    return _line(row) + "\n"


def read_json(path: Path, *, remedy: str) -> Any:
    """The value in a JSON file, plain or gzip'd as its name says.

    Args:
        path: The file.
        remedy: What to do where it is broken, for the error's last words.

    Raises:
        GreamError: It cannot be read or is no JSON; names file and line.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error, remedy) from None
    return _parsed(content, path, None, remedy, once_each)


def read_jsonl(
    path: Path,
    *,
    remedy: str = "make the file again",
    fields: Mapping[str, type | UnionType] | None = None,
    unfinished: bool = False,
) -> list[Row]:
    """All objects of a JSONL file. See `iterate_jsonl`."""
    return [row for _, row in iterate_jsonl(path, remedy=remedy, fields=fields, unfinished=unfinished)]


def iterate_jsonl(
    path: Path,
    *,
    remedy: str = "make the file again",
    fields: Mapping[str, type | UnionType] | None = None,
    unfinished: bool = False,
) -> Iterator[tuple[int, Row]]:
    """Number of the line, from 1, and object in it, of each line of a JSONL file that is not blank.

    Args:
        path: The file.
        remedy: What to do where it is broken, for the error's last words.
        fields: Keys that every row has, with the types of their values.
        unfinished: Its writer may have been killed or may still write: a last line without its end is left out.

    Raises:
        GreamError: The file cannot be read, or a line is no such object; names file and line.
    """
    try:
        with path.open("rb") as stream:
            yield from parse_jsonl(stream, path, remedy=remedy, fields=fields, unfinished=unfinished)
    except OSError as error:
        raise _unreadable(path, error, remedy) from None


def parse_jsonl(
    lines: Iterable[bytes],
    path: Path,
    *,
    remedy: str,
    fields: Mapping[str, type | UnionType] | None = None,
    unfinished: bool = False,
) -> Iterator[tuple[int, Row]]:
    """`iterate_jsonl` of ``lines``, which are those of ``path``, their ends included."""
    fields = fields or {}
    for number, line in enumerate(lines, start=1):
        if unfinished and not line.endswith(b"\n"):
            return
        if not line.strip():
            continue
        row = _parsed(line, path, number, remedy)
        if not isinstance(row, dict) or not all(isinstance(row.get(name), kind) for name, kind in fields.items()):
            with_fields = f" with {', '.join(fields)}" if fields else ""
            raise GreamError(f"{path}:{number}: a JSON object{with_fields} is expected; {remedy}")
        yield number, row


class DoubledKeyError(ValueError):
    """A key that stands twice in a JSON object.

    Attributes:
        key: The key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {json.dumps(key)[:60]} stands twice in an object, keep one")
        self.key = key


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` of JSON whose keys stand once: of two, the json module takes the last without a word.

    Raises:
        DoubledKeyError: A key stands twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        raise DoubledKeyError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return made


def _parsed(
    content: bytes,
    path: Path,
    number: int | None,
    remedy: str,
    objects: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None,
) -> Any:
    """The value in ``content``, which is line ``number`` of ``path``, or the whole of it where that is None."""
    try:
        # Windows marks the byte order of a text.
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=objects)
    except json.JSONDecodeError as error:
        line, reason = number or error.lineno, error.msg
    except UnicodeDecodeError as error:
        line, reason = number or content.count(b"\n", 0, error.start) + 1, f"{error.reason}, UTF-8 is expected"
    except (ValueError, RecursionError) as error:
        line, reason = number or 1, str(error)[:100]
    raise GreamError(f"{path}:{line}: not valid JSON ({reason}); {remedy}") from None


def _unreadable(path: Path, error: Exception, remedy: str) -> GreamError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return GreamError(f"{path}: cannot be read ({reason}); {remedy}")
