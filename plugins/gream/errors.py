"""Errors a user can act on: one line of bounded length that names the place and the remedy."""

from __future__ import annotations

import errno
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST = 2000  # characters of an error line, whatever foreign text it shows
_TAIL = 500  # of them from its end, where the remedy stands

# What is wrong with a disk, a folder or a name, and not with this program.
_FILE_SYSTEM = frozenset(
    (
        *(errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.EMFILE),
        *(errno.ENAMETOOLONG, errno.ENFILE, errno.ENOSPC, errno.ENOTDIR, errno.ENOTEMPTY, errno.EPERM, errno.EROFS),
    )
)


class GreamError(Exception):
    """A mistake in input or configuration; its message is shown to the user as it is, without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def shown(value: object) -> str:
    """``value`` as in an error line: its `repr`, cut where it is long or nested, whatever it holds."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = shortened.maxlong = 200
    try:
        return shortened.repr(value)
    except ValueError:  # an integer with more digits than Python writes
        return f"a value of type {type(value).__name__}"


@contextmanager
def file_system_errors(work: str) -> Iterator[None]:
    """Turn what the file system refuses into a `GreamError`; every other exception passes.

    Libraries in Rust (polars, safetensors, tokenizers) say the error's number in the text of errors of their own.

    Args:
        work: What was being done, for the error line.

    Raises:
        GreamError: The disk is full, the folder cannot be written to, a name is too long or the like.
    """
    try:
        yield
    except GreamError:
        raise
    except Exception as error:
        link: BaseException | None = error
        while link is not None:
            number = link.errno if isinstance(link, OSError) else None
            if number is None and (said := re.search(r"\(os error (\d+)\)", str(link)[-LONGEST:])):
                number = int(said.group(1))
            if number is not None and number in _FILE_SYSTEM:
                names = [getattr(link, "filename", None), getattr(link, "filename2", None)]
                where = "".join(f"{os.fsdecode(name)}: " for name in names if isinstance(name, str | bytes))
                raise GreamError(f"{where}{os.strerror(number)}, in {work}; mend that and start again") from error
            link = link.__cause__ or link.__context__
        raise


def exit_with_error_line(main: Callable[[], object]) -> None:
    """Run ``main``; turn a `GreamError`, and what the file system refuses, into one line on stderr and exit status 2.

    Any other exception is a defect of ours and keeps its traceback.
    """
    try:
        with file_system_errors("this command"):
            main()
    except GreamError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def _one_line(message: str) -> str:
    if len(message) > LONGEST:
        message = f"{message[: LONGEST - _TAIL - 5]} ... {message[-_TAIL:]}"
    return "".join(sign if sign.isprintable() else " " for sign in " ".join(message.splitlines()))
