"""One model behind many callers: a bounded queue, and a worker that decodes what waits in batches."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gream.decoding.server_client import UnavailableError
from gream.engine.settings import Mode
from gream.errors import GreamError

from .recommend import Recommendation

# Lists for some histories in one mode, at most so many items each, with or without what the histories hold.
Recommend = Callable[[Mode, Sequence[Sequence[int]], int, bool], list[Recommendation]]

# Share of the latest batch in the running mean of seconds per request.
_RECENT = 0.2


class BusyError(Exception):
    """The queue is full.

    Attributes:
        retry_after: Whole seconds until there is probably room, 1 or more.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True, eq=False)
class _Request:
    mode: Mode
    history: Sequence[int]
    k: int
    exclude_history: bool
    answer: asyncio.Future[Recommendation]


class Dispatcher:
    """Hands requests to a model, oldest first, several of one kind at a time; ``async with`` runs and stops it."""

    def __init__(self, recommend: Recommend, *, batch_size: int, limit: int) -> None:
        """Take the model.

        Args:
            recommend: Called in a thread of its own, one call at a time.
            batch_size: Requests of one call.
            limit: Requests that may wait; further ones are refused.
        """
        self._recommend = recommend
        self._batch_size = batch_size
        self.limit = limit
        self._waiting: deque[_Request] = deque()
        self._arrived = asyncio.Event()
        self._seconds = 0.0  # per request, running mean

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    async def __aenter__(self) -> Dispatcher:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        for request in self._waiting:
            request.answer.cancel()
        self._thread.shutdown()

    async def ask(self, mode: Mode, history: Sequence[int], k: int, *, exclude_history: bool = False) -> Recommendation:
        """A list of ``k`` items for ``history``; a caller who no longer waits gives the place back.

        Raises:
            BusyError: Too many requests wait.
            GreamError: The model refuses the request.
        """
        if len(self._waiting) >= self.limit:
            raise BusyError(max(1, math.ceil(self._seconds * len(self._waiting))))
        answer: asyncio.Future[Recommendation] = asyncio.get_running_loop().create_future()
        request = _Request(mode, history, k, exclude_history, answer)
        self._waiting.append(request)
        self._arrived.set()
        try:
            return await answer
        finally:
            if answer.cancelled() and request in self._waiting:
                self._waiting.remove(request)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if batch:
                await self._run(batch)
            else:
                self._arrived.clear()

    def _next_batch(self) -> list[_Request]:
        """The oldest request, and those like it that wait behind it, as far as the batch holds them."""
        batch: list[_Request] = []
        for request in tuple(self._waiting):
            first = batch[0] if batch else request
            alike = (request.mode, request.exclude_history) == (first.mode, first.exclude_history)
            if len(batch) < self._batch_size and alike:
                batch.append(request)
                self._waiting.remove(request)
        return batch

    async def _run(self, batch: Sequence[_Request]) -> None:
        began = time.monotonic()
        first, histories, k = batch[0], [request.history for request in batch], max(part.k for part in batch)
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._recommend, first.mode, histories, k, first.exclude_history
            )
        except UnavailableError as error:  # of no request's doing: each alone would only wait as long again
            self._fail(batch, error)
        except GreamError as error:
            if len(batch) > 1:  # one prompt that is too long must not take down those it was batched with
                for request in batch:
                    await self._run([request])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
        except Exception as error:
            self._fail(batch, error)
        else:
            taken = (time.monotonic() - began) / len(batch)
            self._seconds += (taken - self._seconds) * (_RECENT if self._seconds else 1.0)
            for request, recommendation in zip(batch, found, strict=True):
                if not request.answer.done():
                    items = recommendation.items[: request.k]
                    request.answer.set_result(recommendation.model_copy(update={"items": items}))

    @staticmethod
    def _fail(batch: Sequence[_Request], error: Exception) -> None:
        for request in batch:
            if not request.answer.done():
                request.answer.set_exception(error)
