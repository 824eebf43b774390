"""JSON requests to interchangeable inference servers: many in flight, retried, and failed over from one to the next."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

from gream.errors import GreamError
from gream.http import holds_secret, quoted, server_url

KEY_VARIABLE = "GREAM_API_KEY"
LONGEST_BACKOFF = 20.0  # seconds
# Statuses that a further try may mend: too busy, starting, restarting, or an engine that died under the request.
_PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class ServerSettings:
    """How servers are asked; none of it changes what they answer.

    Attributes:
        urls: One or more servers of the same model.
        in_flight: Requests under way at once, over all servers.
        timeout: Seconds until a request counts as failed.
        patience: Seconds for which a request that fails is tried again, over all servers.
        backoff: Seconds; the wait before the n-th further try is uniform in 0..backoff * 2^(n-1) ("full jitter").
        key: Sent as bearer token; none where empty. No error line shows it.
    """

    urls: tuple[str, ...]
    in_flight: int = 256
    timeout: float = 300.0
    patience: float = 600.0
    backoff: float = 0.5
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.urls:
            raise GreamError("--endpoint: at least one server needed, e.g. http://127.0.0.1:30000")
        if len(set(self.urls)) < len(self.urls):
            raise GreamError("--endpoint: a server is named twice")
        for url in self.urls:
            parts = server_url(url)
            if parts is None or holds_secret(parts):
                raise GreamError("--endpoint: the root of a server is expected, e.g. http://127.0.0.1:30000")
        if self.in_flight < 1 or not self.patience >= 0 or not self.timeout > 0:
            raise GreamError("--in-flight must be 1 or more, --patience 0 or more, --timeout above 0")


# Why an answer is none, though its status is 200; None where it is one.
Unfinished = Callable[[Any], str | None]


def _finished(answer: Any) -> None:
    """An answer with status 200 is one."""


class RefusedError(GreamError):
    """A server finds something wrong with one request, such as its length; others may do."""


class UnavailableError(GreamError):
    """No server answers, for as long as patience lasts: the request may be asked again later."""


@dataclass
class _Server:
    url: str
    under_way: int = 0
    rests_until: float = 0.0  # on the monotonic clock; it failed a moment ago
    problem: str = ""


class ServerClient:
    """A session with the servers; ``async with`` opens and closes its connections.

    Attributes:
        retries: Further tries so far, by cause.
        requests: Answers so far.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """See `ServerSettings`."""
        self.retries: Counter[str] = Counter()
        self.requests = 0
        self._settings = settings
        self._servers = [_Server(url.rstrip("/")) for url in settings.urls]
        self._random = random.Random()

    async def __aenter__(self) -> Self:
        self._slots = asyncio.Semaphore(self._settings.in_flight)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the semaphore limits
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout),
            headers={"Authorization": f"Bearer {self._settings.key}"} if self._settings.key else {},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def each(self, path: str) -> list[Any]:
        """The JSON answer of every server to ``GET path``, in the order of their URLs; None where it has no such path.

        Raises:
            GreamError: A server does not answer.
        """
        return list(await asyncio.gather(*(self._persist(path, only=server) for server in self._servers)))

    async def post(self, path: str, body: Mapping[str, Any], unfinished: Unfinished = _finished) -> Any:
        """The JSON answer to a request; it goes to the server with the fewest under way.

        A server that fails rests, and the request goes to another at once; where all have failed, it waits. Dropped
        connections, timeouts, passing statuses, bodies that are cut and unfinished answers are tried again.

        Args:
            path: Of the request.
            body: As JSON.
            unfinished: See `Unfinished`.

        Raises:
            RefusedError: A server refuses the request itself.
            UnavailableError: Every try failed.
        """
        return await self._persist(path, body, unfinished)

    async def _persist(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        unfinished: Unfinished = _finished,
        only: _Server | None = None,
    ) -> Any:
        async with self._slots:
            tries = 0
            first_failure = 0.0
            while True:
                server = only or self._choose()
                outcome = await self._try(server, path, body)
                if isinstance(outcome, _Answer) and (problem := unfinished(outcome.value)) is not None:
                    outcome = _Failure(problem, "abort")
                if isinstance(outcome, _Answer):
                    self.requests += 1
                    return outcome.value
                now = time.monotonic()
                first_failure = first_failure or now
                tries += 1
                server.problem = outcome.text
                if now - first_failure >= self._settings.patience:
                    raise UnavailableError(self._report(tries, now - first_failure))
                pause = self._random.uniform(0, min(LONGEST_BACKOFF, self._settings.backoff * 2 ** (tries - 1)))
                server.rests_until = now + pause
                self.retries[outcome.cause] += 1
                if only is not None or all(other.rests_until > now for other in self._servers):
                    await asyncio.sleep(pause)

    def _choose(self) -> _Server:
        now = time.monotonic()
        return min(self._servers, key=lambda server: (max(0.0, server.rests_until - now), server.under_way))

    async def _try(self, server: _Server, path: str, body: Mapping[str, Any] | None) -> _Answer | _Failure:
        server.under_way += 1
        try:
            method = "GET" if body is None else "POST"
            async with self._session.request(method, server.url + path, json=body, allow_redirects=False) as response:
                payload = await response.read()
        except TimeoutError:
            return _Failure(f"no answer within {self._settings.timeout:g} s", "timeout")
        except aiohttp.ClientError as error:
            return _Failure(f"connection failed ({' '.join(str(error).split())[:160]})", "connection")
        finally:
            server.under_way -= 1
        if response.status in _PASSING:
            return _Failure(f"status {response.status}{quoted(payload)}", f"status {response.status}")
        if response.status != 200:
            if body is None and response.status == 404:
                return _Answer(None)
            hint = "; is --engine the one that runs there?" if response.status in (404, 405) else ""
            line = f"{server.url}{path}: status {response.status}{quoted(payload)}{hint}"
            raise RefusedError(line) if response.status == 400 else GreamError(line)
        try:
            return _Answer(json.loads(payload))
        except ValueError:
            return _Failure("an answer that is no JSON", "cut body")

    def _report(self, tries: int, seconds: float) -> str:
        states = "; ".join(f"{server.url}: {server.problem}" for server in self._servers if server.problem)
        failed = f"{tries} tries in {seconds:.0f} s failed ({states})"
        return f"{failed}; see that the servers run, and start again"


@dataclass(frozen=True)
class _Answer:
    value: Any


@dataclass(frozen=True)
class _Failure:
    text: str
    cause: str


def settings_of(
    urls: Sequence[str], in_flight: int, timeout: float, patience: float, environment: Mapping[str, str]
) -> ServerSettings:
    """Settings from the command line, with the key from ``environment``."""
    return ServerSettings(tuple(urls), in_flight, timeout, patience, key=environment.get(KEY_VARIABLE, "").strip())
