"""What the stub servers of the tests share: a thread of their own, a port of 127.0.0.1, and ports that are kept."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

# Seconds that something may take which takes a moment on an idle machine.
PATIENCE = 300


class LoopbackServer(ABC):
    """A server in a thread with an event loop of its own, between ``with`` and the end of its block."""

    port: int

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    @abstractmethod
    async def listen(self) -> None:
        """Start to listen, and set ``port``."""

    @abstractmethod
    async def close(self) -> None:
        """Stop to listen."""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self.listen()
        self._ready.set()
        await self._stop.wait()
        await self.close()


@contextmanager
def kept_ports(count: int) -> Iterator[int]:
    """The first of ``count`` ports in a row that refuse connections, and that nobody else is given meanwhile.

    They are bound and do not listen. Who sets SO_REUSEPORT may listen on them.
    """
    for _ in range(1000):
        held = [_bound(0)]
        try:
            first: int = held[0].getsockname()[1]
            held += [_bound(first + number) for number in range(1, count)]
        except (OSError, OverflowError):  # the next one is taken, or there is none
            continue
        else:
            yield first
            return
        finally:
            for each in held:
                each.close()
    raise AssertionError("no free ports")


def free_port() -> int:
    """A port for a server that does not set SO_REUSEPORT; none of those that the kernel hands out by itself."""
    for port in random.sample(range(20_000, 32_000), 1000):
        try:
            _bound(port).close()
        except OSError:  # taken
            continue
        return port
    raise AssertionError("no free ports")


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("127.0.0.1", port))
    except BaseException:
        made.close()
        raise
    return made
