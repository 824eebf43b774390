"""One chat completion from an OpenAI-compatible endpoint, however often the connection fails on the way."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from gream.dialogue import Message
from gream.errors import GreamError

from ..config import TeacherConfig

KEY_VARIABLES = ("GREAM_API_KEY", "OPENAI_API_KEY")
LONGEST_BACKOFF = 60.0  # seconds
# An endpoint that asks for a longer pause than this, in seconds, has run out of quota.
LONGEST_PAUSE = 600.0

_PASSING = {408, 409, 425, 429, *range(500, 600)} - {501}  # 501: the server knows no POST
_REMEDIES = {
    400: "correct --model or the recipe's teacher section",
    401: f"set {KEY_VARIABLES[0]} to a valid key",
    402: "the account has no credit left",
    403: f"set {KEY_VARIABLES[0]} to a key that may use this model",
    404: "correct --base-url (most end in /v1) or --model",
    413: "lower teacher.max_tokens, or take a model with a longer context",
    422: "correct --model or the recipe's teacher section",
}


@dataclass(frozen=True)
class Endpoint:
    """Where to ask.

    Attributes:
        url: Of the chat completions.
        model: Name under which the endpoint knows the model.
        key: Sent as bearer token; none where empty. No error line and no file shows it.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)

    @classmethod
    def parse(cls, base_url: str, model: str, environment: Mapping[str, str]) -> Endpoint:
        """An endpoint from the command line, with its key from the environment.

        Raises:
            GreamError: The URL is none, or holds what does not belong there, or the key cannot be sent.
        """
        try:
            parts = urlsplit(base_url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise GreamError("--base-url: a URL such as http://localhost:8000/v1 is expected")
        # What may hold a secret is not repeated.
        if parts.username is not None or parts.query or parts.fragment:
            raise GreamError(
                "--base-url: no user, query or fragment may stand in it; "
                f"a key is read from {' or '.join(KEY_VARIABLES)} in the environment"
            )
        name = next((name for name in KEY_VARIABLES if environment.get(name, "").strip()), "")
        key = environment[name].strip() if name else ""
        if not (key.isascii() and key.isprintable()):
            raise GreamError(f"{name}: holds characters that cannot be sent as a key; set it again")
        return cls(base_url.rstrip("/") + "/chat/completions", model, key)


@dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        text: What the model said; may be empty.
        cut: Whether it ends where ``max_tokens`` cut it off.
        prompt_tokens: As the endpoint counts them, 0 where it does not.
        completion_tokens: Likewise.
    """

    text: str
    cut: bool
    prompt_tokens: int
    completion_tokens: int


class ChatClient:
    """A session with one endpoint; ``async with`` opens and closes its connections.

    aiohttp rather than httpx or the openai client: with 64 requests in flight it sends several times as many per second
    (``scripts/bench/teacher.py``), and the one call made here needs nothing that only those two have.

    Attributes:
        retries: Further tries so far, by cause.
    """

    def __init__(self, config: TeacherConfig, endpoint: Endpoint) -> None:
        """See `TeacherConfig` and `Endpoint`."""
        self.retries: Counter[str] = Counter()
        self._config = config
        self._endpoint = endpoint
        self._random = random.Random()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._config.concurrency),
            timeout=aiohttp.ClientTimeout(total=self._config.timeout),
            headers={"Authorization": f"Bearer {self._endpoint.key}"} if self._endpoint.key else {},
            trust_env=True,  # HTTPS_PROXY and NO_PROXY, as in other tools
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def complete(self, messages: Sequence[Message]) -> Completion:
        """The model's answer to a conversation.

        Dropped connections, timeouts, status 429 and 5xx, and bodies that are cut are tried again. The wait before the
        n-th further try is uniform in 0..backoff * 2^(n-1) ("full jitter"), and no shorter than Retry-After asks for.

        Raises:
            GreamError: The endpoint refuses in a way that no further try mends, or all tries failed.
        """
        body = {**self._config.sampling(), "model": self._endpoint.model, "messages": list(messages)}
        tries = 0
        while True:
            pause = 0.0
            try:
                async with self._session.post(self._endpoint.url, json=body, allow_redirects=False) as response:
                    payload = await response.read()
            except TimeoutError:
                problem, cause = f"no answer within {self._config.timeout:g} s", "timeout"
            except (aiohttp.ClientSSLError, aiohttp.InvalidURL) as error:
                raise self._failed(f"no connection ({error})", "correct --base-url or the certificate") from None
            except aiohttp.ClientError as error:
                problem, cause = f"connection failed ({' '.join(str(error).split())})", "connection"
            else:
                if response.status == 200:
                    try:
                        return _completion(payload)
                    except ValueError as error:
                        problem, cause = str(error), "cut body"
                elif response.status in _PASSING:
                    problem = cause = f"status {response.status}"
                    pause = _retry_after(response.headers.get("Retry-After", ""))
                else:
                    raise self._failed(
                        f"status {response.status}{self._quoted(payload, response.status)}",
                        _REMEDIES.get(response.status, "no chat completions are served there; correct --base-url"),
                    )
            if pause > LONGEST_PAUSE:
                raise self._failed(f"{problem}, to be tried again in {pause:.0f} s", "start again then")
            if tries == self._config.retries:
                raise self._failed(
                    f"{problem}, {tries + 1} tries failed",
                    "see that the server runs, lower teacher.concurrency or raise teacher.timeout, and start again",
                )
            ceiling = min(LONGEST_BACKOFF, self._config.backoff * 2**tries)
            tries += 1
            self.retries[cause] += 1
            await asyncio.sleep(max(pause, self._random.uniform(0, ceiling)))

    def _failed(self, problem: str, remedy: str) -> GreamError:
        return GreamError(f"{self._endpoint.url}: {problem}; {remedy}")

    def _quoted(self, payload: bytes, status: int) -> str:
        """What the endpoint says about its refusal; not where it is about the key, which it may repeat."""
        if status in (401, 403):
            return ""
        said = " ".join(payload.decode("utf-8", "replace").split())
        try:
            error = json.loads(said)["error"]
            said = error["message"] if isinstance(error, dict) else str(error)
        except (ValueError, KeyError, TypeError):
            pass
        if self._endpoint.key:
            said = str(said).replace(self._endpoint.key, "***")
        return f" ({str(said)[:200]})" if said else ""


def _completion(payload: bytes) -> Completion:
    """Raises ValueError for what is no chat completion."""
    try:
        body: dict[str, Any] = json.loads(payload)
        choice: dict[str, Any] = (body["choices"] or [{}])[0]
        text = choice.get("message", {}).get("content")
        usage: dict[str, Any] = body.get("usage") or {}
        return Completion(
            # A lone surrogate is legal in JSON and not in UTF-8.
            text=text.encode("utf-8", "replace").decode("utf-8") if isinstance(text, str) else "",
            cut=choice.get("finish_reason") == "length",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ValueError("status 200, but the body is no chat completion") from None


def _retry_after(header: str) -> float:
    """Seconds to wait; 0 where the header does not say."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
