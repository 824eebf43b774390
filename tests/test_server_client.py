"""Requests to servers: failures that pass are tried again, elsewhere where there is an elsewhere, then reported."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gream.decoding.server_client import ServerClient, ServerSettings, settings_of
from gream.errors import GreamError
from server_support import Fault, StubServer


class EchoServer(StubServer):
    """Answers every prompt with its sum, so that answers can be told apart."""

    def __init__(self, faults: Callable[[int], Fault | None] = lambda number: None) -> None:
        super().__init__(_Sums(), faults)  # type: ignore[arg-type]


class _Sums:
    def write(self, prompt: list[int], *_: Any) -> tuple[list[int], str]:
        return [sum(prompt)], "stop"


def body(number: int) -> dict[str, Any]:
    sampling = {
        **{"max_new_tokens": 1, "no_stop_trim": True, "top_k": -1, "top_p": 1.0},
        **{"stop": [], "stop_token_ids": [], "temperature": 0.0},
    }
    return {"input_ids": [number], "sampling_params": sampling}


def ask(count: int, *servers: StubServer | str, **changes: Any) -> tuple[list[int], ServerClient]:
    urls = tuple(server if isinstance(server, str) else server.url for server in servers)
    settings = ServerSettings(urls, **({"backoff": 0.01, "timeout": 5.0} | changes))

    async def main() -> tuple[list[int], ServerClient]:
        async with ServerClient(settings) as client:
            answers = await asyncio.gather(*(client.post("/generate", body(number)) for number in range(count)))
            return [answer["output_ids"][0] for answer in answers], client

    return asyncio.run(main())


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_as_many_are_in_flight_as_may_be_and_answers_find_their_requests() -> None:
    with EchoServer(lambda number: Fault(delay=0.3)) as server:
        answers, client = ask(300, server, in_flight=256)
        assert answers == list(range(300)) and client.requests == 300 and not client.retries
        assert server.most_in_flight == 256
    with EchoServer(lambda number: Fault(delay=0.01)) as server:
        assert ask(20, server, in_flight=3)[0] == list(range(20))
        assert server.most_in_flight <= 3


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault(status=503), "status 503"),
        (Fault(status=500), "status 500"),
        (Fault(status=429), "status 429"),
        (Fault(drop=True), "connection"),
        (Fault(cut=True), "cut body"),
        (Fault(delay=3.0), "timeout"),
    ],
)
def test_what_passes_is_tried_again(fault: Fault, cause: str) -> None:
    with EchoServer(lambda number: fault if number < 3 else None) as server:
        answers, client = ask(5, server, timeout=0.5)
    assert answers == list(range(5))
    assert client.retries == {cause: 3}


def test_a_dead_server_hands_its_requests_to_the_other_without_waiting() -> None:
    dead = f"http://127.0.0.1:{unused_port()}"
    with EchoServer() as server:
        began = time.monotonic()
        answers, client = ask(100, dead, server, in_flight=20, backoff=60.0)
        assert answers == list(range(100)) and time.monotonic() - began < 10
        assert set(client.retries) == {"connection"} and client.retries["connection"] <= 20


def test_a_slow_server_gets_fewer_requests() -> None:
    with EchoServer(lambda number: Fault(delay=0.2)) as slow, EchoServer() as fast:
        assert ask(200, slow, fast, in_flight=10)[0] == list(range(200))
        assert len(slow.requests) < len(fast.requests)


def test_when_all_tries_fail_one_line_names_the_servers_and_why() -> None:
    dead = f"http://127.0.0.1:{unused_port()}"
    with EchoServer(lambda number: Fault(status=503)) as server, pytest.raises(GreamError) as caught:
        ask(3, dead, server, patience=0.3)
    text = str(caught.value)
    assert re.match(r"\d+ tries in \d+ s failed \(", text) and "\n" not in text
    assert f"{dead}: connection failed" in text and f"{server.url}: status 503 (a fault)" in text
    assert text.endswith("start again: finished requests are kept")


def test_a_refusal_is_not_tried_again() -> None:
    with EchoServer(lambda number: Fault(status=400)) as server:
        with pytest.raises(GreamError, match=r"/generate: status 400 \(a fault\)$"):
            ask(1, server)
        assert len(server.requests) == 1

    async def elsewhere() -> None:
        async with ServerClient(ServerSettings((server.url,))) as client:
            await client.post("/nowhere", {})

    with EchoServer() as server, pytest.raises(GreamError, match=r"status 404 .*is --engine the one that runs there"):
        asyncio.run(elsewhere())


def test_the_key_is_sent_and_never_shown() -> None:
    with EchoServer(lambda number: Fault(status=401)) as server:
        settings = settings_of([server.url + "/"], 4, 5.0, 0.0, {"GREAM_API_KEY": " secret "})
        assert "secret" not in repr(settings)

        async def main() -> None:
            async with ServerClient(settings) as client:
                await client.post("/generate", body(1))

        with pytest.raises(GreamError) as caught:
            asyncio.run(main())
        assert server.keys == {"Bearer secret"} and "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ((), "at least one server needed"),
        (("localhost:8000",), "the root of a server is expected"),
        (("http://:80",), "the root of a server is expected"),
        (("http://u:p@host:1",), "the root of a server is expected"),
        (("http://host:99999",), "the root of a server is expected"),
        (("http://a", "http://a"), "a server is named twice"),
    ],
)
def test_what_is_no_server_is_refused(urls: tuple[str, ...], message: str) -> None:
    with pytest.raises(GreamError, match=message):
        ServerSettings(urls)


def test_the_stub_is_killed_and_comes_back(tmp_path: Path) -> None:
    """A server that is away for a second costs retries only."""
    port = unused_port()

    async def main() -> None:
        settings = ServerSettings((f"http://127.0.0.1:{port}",), backoff=0.1)
        async with ServerClient(settings) as client:
            asked = asyncio.create_task(client.post("/generate", body(7)))
            await asyncio.sleep(0.5)
            server = EchoServer()
            await server.serve(port)
            assert (await asked)["output_ids"] == [7] and client.retries["connection"] >= 1

    asyncio.run(main())
