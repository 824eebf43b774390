"""Whether the processes that make rollouts live and get on: verl itself would wait for a dead one without end."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import transfer_queue.interface as queue
from ray.exceptions import ActorUnavailableError, RayActorError

# A process is asked again this many seconds after it answered.
_ASK_AGAIN = 2.0


class Liveness:
    """Asks Ray actors for a sign of life, and notices when work stands still."""

    def __init__(self, actors: Sequence[tuple[str, Any]], *, patience: float) -> None:
        """Begin to watch.

        Args:
            actors: Name and handle of each.
            patience: Seconds that may pass without progress.
        """
        self._asked = {actor.__ray_ready__.remote(): (name, actor) for name, actor in actors}
        self._patience = patience
        self.start()

    def start(self) -> None:
        """Count the time without progress from now."""
        self._progress: Any = None
        self._since = time.monotonic()
        self._next = self._since

    def check(self, progress: Any) -> None:
        """Look once; cheap enough for every turn of a waiting loop.

        Args:
            progress: Anything that changes when work gets done.

        Raises:
            RuntimeError: A process has died, or nothing has changed for longer than patience allows.
        """
        now = time.monotonic()
        if progress != self._progress:
            self._progress, self._since = progress, now
        elif now - self._since > self._patience:
            raise RuntimeError(
                f"no rollout has come for {self._patience:.0f} s: a rollout server or an agent loop hangs; where "
                "single rollouts take that long, raise algorithm.srpo.rollout_timeout"
            )
        if now < self._next:
            return
        self._next = now + _ASK_AGAIN
        answers, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        for answer in answers:
            name, actor = self._asked.pop(answer)
            try:
                ray.get(answer)
            except ActorUnavailableError:
                pass  # for now; whether it has died will be known when it is asked again
            except RayActorError as error:
                raise RuntimeError(f"{name} has died; what it printed last is above: {error}") from error
            self._asked[actor.__ray_ready__.remote()] = name, actor


def queue_actors() -> list[tuple[str, Any]]:
    """Name and handle of the processes that hold the rollouts, of the queue that this process opened."""
    units = (queue._TQ_STORAGE or {}).get("SimpleStorage", {})
    return [
        ("TransferQueue's controller", queue._TQ_CONTROLLER),
        *(("a storage unit of TransferQueue", unit) for unit in units.values()),
    ]


@contextmanager
def ending_with(actors: Sequence[tuple[str, Any]]) -> Iterator[None]:
    """End this process when one of these dies: a call to TransferQueue waits for it without end, and raises nothing.

    Args:
        actors: Name and handle of each.
    """
    over = threading.Event()

    def watch() -> None:
        liveness = Liveness(actors, patience=math.inf)
        while not over.wait(_ASK_AGAIN):
            try:
                liveness.check(None)
            except RuntimeError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                over.wait(_ASK_AGAIN)  # Ray copies what is printed, and not from a process that has ended
                os._exit(1)

    threading.Thread(target=watch, daemon=True, name="srpo-liveness").start()
    try:
        yield
    finally:
        over.set()
