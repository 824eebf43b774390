"""A JSONL file of finished work, keyed: appended to as work finishes, and read by the next start.

Each line is handed to the operating system when it is written, so a killed process loses no finished line and at most
leaves half of one, which the next start cuts off. No key is ever in the file twice.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gream.errors import GreamError
from gream.files import Row, jsonl_line, parse_jsonl


class Journal:
    """Rows by key, in memory and on disk; open to one process at a time.

    Attributes:
        path: The file.
        rows: What it holds, by key.
    """

    def __init__(self, path: Path) -> None:
        """Open or create ``path`` and read it.

        Raises:
            GreamError: It cannot be opened, another process has it open, or a line is no row of a journal.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a+b")
        except OSError as error:
            raise GreamError(f"{path}: cannot be opened for writing ({error.strerror})") from None
        try:
            try:
                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise GreamError(f"{path}: in use by another process; wait for it to end, or stop it") from None
            self._stream.seek(0)
            content = self._stream.read()
            end = content.rfind(b"\n") + 1
            if end < len(content):
                self._stream.truncate(end)
            self.rows: dict[str, Row] = {}
            lines = parse_jsonl(BytesIO(content[:end]), path, fields={"key": str}, remedy="delete the line")
            for number, row in lines:
                if row["key"] in self.rows:
                    raise GreamError(f"{path}:{number}: its key is in the file already; delete the line")
                self.rows[row["key"]] = row
        except BaseException:
            self._stream.close()
            raise

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Append ``row`` under a new ``key``.

        Raises:
            GreamError: The disk is full or the like.
        """
        if key in self.rows:
            raise ValueError(f"{self.path}: {key} is already there")
        whole = {"key": key, **row}
        try:
            self._stream.write(jsonl_line(whole).encode())
            self._stream.flush()
        except OSError as error:
            raise GreamError(f"{self.path}: cannot be written ({error.strerror}); make room and start again") from None
        self.rows[key] = whole

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()
