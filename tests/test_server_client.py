"""Requests to servers: failures that pass are tried again, elsewhere where there is an elsewhere, then reported."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gream.decoding.server_client import ServerClient, ServerSettings, settings_of
from gream.decoding.server_protocol import aborted
from gream.errors import GreamError
from loopback import PATIENCE, kept_ports
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
    settings = ServerSettings(urls, **({"backoff": 0.01, "timeout": PATIENCE, "patience": PATIENCE} | changes))

    async def main() -> tuple[list[int], ServerClient]:
        async with ServerClient(settings) as client:
            answers = await asyncio.gather(
                *(client.post("/generate", body(number), aborted) for number in range(count))
            )
            return [answer["output_ids"][0] for answer in answers], client

    return asyncio.run(main())


@pytest.fixture
def dead() -> Iterator[str]:
    """The address of a server that refuses connections."""
    with kept_ports(1) as port:
        yield f"http://127.0.0.1:{port}"


def test_as_many_are_in_flight_as_may_be_and_answers_find_their_requests() -> None:
    with EchoServer(lambda number: Fault(until=lambda: server.most_in_flight == 256)) as server:
        answers, client = ask(300, server, in_flight=256)
        assert answers == list(range(300)) and client.requests == 300 and not client.retries
        assert server.most_in_flight == 256
    with EchoServer(lambda number: Fault(until=lambda: server.most_in_flight == 3)) as server:
        assert ask(20, server, in_flight=3)[0] == list(range(20))
        assert server.most_in_flight == 3


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault(status=503), "status 503"),
        (Fault(status=500), "status 500"),
        (Fault(status=429), "status 429"),
        (Fault(drop=True), "connection"),
        (Fault(cut=True), "cut body"),
        (Fault(abort=True), "abort"),
    ],
)
def test_what_passes_is_tried_again(fault: Fault, cause: str) -> None:
    with EchoServer(lambda number: fault if number < 3 else None) as server:
        answers, client = ask(5, server)
    assert answers == list(range(5))
    assert client.retries == {cause: 3}


def test_what_is_not_answered_in_time_is_tried_again() -> None:
    with EchoServer(lambda number: Fault(until=lambda: False) if number < 3 else None) as server:
        answers, client = ask(5, server, timeout=1.0)
    assert answers == list(range(5))
    # A busy machine may be late with the others as well.
    assert client.retries.keys() == {"timeout"} and client.retries["timeout"] >= 3


def test_a_dead_server_hands_its_requests_to_the_other_without_waiting(
    dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A wait would be one of hours.
    monkeypatch.setattr("gream.decoding.server_client.LONGEST_BACKOFF", 1e6)
    with EchoServer() as server:
        answers, client = ask(100, dead, server, in_flight=20, backoff=1e6)
    assert answers == list(range(100))
    assert set(client.retries) == {"connection"} and client.retries["connection"] <= 20


def test_a_slow_server_gets_fewer_requests() -> None:
    # The slow one gives no answer before the fast one has been asked most of the time.
    slow = EchoServer(lambda number: Fault(until=lambda: len(fast.requests) >= 150))
    with slow, EchoServer() as fast:
        assert ask(200, slow, fast, in_flight=10)[0] == list(range(200))
        assert len(slow.requests) <= 50


def test_when_all_tries_fail_one_line_names_the_servers_and_why(dead: str) -> None:
    with EchoServer(lambda number: Fault(status=503)) as server, pytest.raises(GreamError) as caught:
        ask(3, dead, server, patience=0.3)
    text = str(caught.value)
    assert re.match(r"\d+ tries in \d+ s failed \(", text) and "\n" not in text
    assert f"{dead}: connection failed" in text and f"{server.url}: status 503 (a fault)" in text
    assert text.endswith("start again")


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
        settings = settings_of([server.url + "/"], 4, PATIENCE, 0.0, {"GREAM_API_KEY": " secret "})
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


def test_a_server_that_comes_back_costs_retries_only() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # and does not listen yet
        port = listener.getsockname()[1]

        async def main() -> None:
            settings = ServerSettings((f"http://127.0.0.1:{port}",), backoff=0.01, patience=PATIENCE)
            async with ServerClient(settings) as client:
                asked = asyncio.create_task(client.post("/generate", body(7)))
                while not client.retries["connection"]:
                    await asyncio.sleep(0.001)
                server = EchoServer()
                await server.serve(listener)
                assert (await asked)["output_ids"] == [7]
                await server.close()

        asyncio.run(main())
