"""One chat completion from an OpenAI-compatible endpoint, however often the connection fails on the way."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, NoReturn, Self, cast

import openai
from gream.dialogue import Message
from gream.errors import GreamError
from gream.http import holds_secret, quoted, server_url
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

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
        base_url: What stands before ``/chat/completions``.
        model: Name under which the endpoint knows the model.
        key: Sent as bearer token; none where empty. No error line and no file shows it.
    """

    base_url: str
    model: str
    key: str = field(default="", repr=False)

    @classmethod
    def parse(cls, base_url: str, model: str, environment: Mapping[str, str]) -> Endpoint:
        """An endpoint from the command line, with its key from the environment.

        Raises:
            GreamError: The URL is none, or holds what does not belong there, or the key cannot be sent.
        """
        parts = server_url(base_url)
        if parts is None:
            raise GreamError("--base-url: a URL such as http://localhost:8000/v1 is expected")
        # What may hold a secret is not repeated.
        if holds_secret(parts):
            raise GreamError(
                "--base-url: no user, query or fragment may stand in it; "
                f"a key is read from {' or '.join(KEY_VARIABLES)} in the environment"
            )
        name = next((name for name in KEY_VARIABLES if environment.get(name, "").strip()), "")
        key = environment[name].strip() if name else ""
        if not (key.isascii() and key.isprintable()):
            raise GreamError(f"{name}: holds characters that cannot be sent as a key; set it again")
        return cls(base_url.rstrip("/"), model, key)

    @property
    def url(self) -> str:
        """Of the chat completions."""
        return f"{self.base_url}/chat/completions"


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


class _PassingError(Exception):
    """A failure that a further try may mend."""

    def __init__(self, problem: str, cause: str, pause: float = 0.0) -> None:
        super().__init__(problem)
        self.cause = cause
        self.pause = pause  # seconds that the endpoint asks for


class ChatClient:
    """A session with one endpoint; ``async with`` opens and closes its connections.

    The openai client sends, with its own retries off, and tenacity says when to try again: the openai client's do not
    count, know no pause longer than a minute, and do not cover bodies that are no completion.

    Attributes:
        retries: Further tries so far, by cause.
    """

    def __init__(self, config: TeacherConfig, endpoint: Endpoint) -> None:
        """See `TeacherConfig` and `Endpoint`."""
        self.retries: Counter[str] = Counter()
        self._config = config
        self._endpoint = endpoint
        self._backoff = wait_random_exponential(multiplier=config.backoff, max=LONGEST_BACKOFF)

    async def __aenter__(self) -> Self:
        self._client = openai.AsyncOpenAI(
            base_url=self._endpoint.base_url,
            api_key=self._endpoint.key or "none",
            max_retries=0,
            timeout=None,  # theirs counts from byte to byte; ours is of the whole request
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.close()

    async def complete(self, messages: Sequence[Message]) -> Completion:
        """The model's answer to a conversation.

        Dropped connections, timeouts, status 429 and 5xx, and bodies that are cut are tried again. The wait before the
        n-th further try is uniform in 0..backoff * 2^(n-1) ("full jitter"), and no shorter than Retry-After asks for.

        Raises:
            GreamError: The endpoint refuses in a way that no further try mends, or all tries failed.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_PassingError),
            stop=stop_after_attempt(self._config.retries + 1),
            wait=lambda state: max(_failure(state).pause, self._backoff(state)),
            before_sleep=lambda state: self.retries.update([_failure(state).cause]),
            retry_error_callback=self._give_up,
        )
        return await retrying(self._try, messages)

    async def _try(self, messages: Sequence[Message]) -> Completion:
        try:
            async with asyncio.timeout(self._config.timeout):
                answer = await self._client.chat.completions.with_raw_response.create(
                    model=self._endpoint.model,
                    messages=cast("Any", messages),
                    extra_body=self._config.sampling(),
                    # The client insists on a key; an endpoint without one must not be sent any.
                    extra_headers=None if self._endpoint.key else {"Authorization": openai.Omit()},
                )
            return _completion(answer.content)
        except TimeoutError:
            raise _PassingError(f"no answer within {self._config.timeout:g} s", "timeout") from None
        except openai.APIStatusError as error:
            raise self._refusal(error.status_code, error.response.headers, error.response.content) from None
        except openai.APIConnectionError as error:
            said = " ".join(str(error.__cause__ or error).split())[:200]
            if "SSL" in said or "certificate" in said.lower():
                raise self._failed(f"no connection ({said})", "correct --base-url or the certificate") from None
            raise _PassingError(f"connection failed ({said})", "connection") from None
        except ValueError as error:
            raise _PassingError(str(error), "cut body") from None

    def _refusal(self, status: int, headers: Mapping[str, str], payload: bytes) -> GreamError | _PassingError:
        problem = f"status {status}"
        if status in _PASSING:
            pause = _retry_after(headers.get("Retry-After", ""))
            if pause > LONGEST_PAUSE:
                return self._failed(f"{problem}, to be tried again in {pause:.0f} s", "start again then")
            return _PassingError(problem, problem, pause)
        # An endpoint may repeat the key in what it says about it.
        said = "" if status in (401, 403) else quoted(payload, secret=self._endpoint.key, limit=200)
        remedy = _REMEDIES.get(status, "no chat completions are served there; correct --base-url")
        return self._failed(problem + said, remedy)

    def _give_up(self, state: RetryCallState) -> NoReturn:
        raise self._failed(
            f"{_failure(state)}, {state.attempt_number} tries failed",
            "see that the server runs, lower teacher.concurrency or raise teacher.timeout, and start again",
        )

    def _failed(self, problem: str, remedy: str) -> GreamError:
        return GreamError(f"{self._endpoint.url}: {problem}; {remedy}")


def _failure(state: RetryCallState) -> _PassingError:
    """Why the last try failed."""
    failure = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(failure, _PassingError)  # noqa: S101 - nothing else is tried again
    return failure


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
