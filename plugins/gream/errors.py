"""Errors a user can act on: one line that names the place and the remedy."""

from __future__ import annotations

import sys
from collections.abc import Callable


class GreamError(Exception):
    """A mistake in input or configuration; its message is shown to the user as it is, without a traceback."""


def exit_with_error_line(main: Callable[[], object]) -> None:
    """Run ``main``; turn a `GreamError` into one line on stderr and exit status 2.

    Any other exception is a defect of ours and keeps its traceback.
    """
    try:
        main()
    except GreamError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
