"""What both HTTP clients share: the check of a server's URL, and what its refusal says."""

from __future__ import annotations

import json
from urllib.parse import SplitResult, urlsplit


def server_url(url: str) -> SplitResult | None:
    """The parts of an HTTP URL; None where ``url`` is none."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def holds_secret(parts: SplitResult) -> bool:
    """Whether a URL has parts that may hold a secret, or that no root of a server has."""
    return parts.username is not None or bool(parts.query or parts.fragment)


def quoted(payload: bytes, *, secret: str = "", limit: int = 300) -> str:
    """What the body of a refusal says, in brackets and one line, for the end of an error; empty where it says nothing.

    Args:
        payload: The body; the message of an error in JSON is taken out of it.
        secret: Never repeated.
        limit: In characters.
    """
    said = payload.decode("utf-8", "replace")
    try:
        error = json.loads(said)["error"]
        said = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    said = " ".join(said.split())
    if secret:
        said = said.replace(secret, "***")
    return f" ({said[:limit]})" if said else ""
