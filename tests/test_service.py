"""The HTTP service: what it answers, what it refuses, how it queues, and its page in a real browser."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import polars as pl
import pytest
from browser_support import CHROMIUM, Browser
from eval_support import MALICIOUS, make_checkpoint, make_run
from fastapi import FastAPI
from gream.decoding.server_client import UnavailableError
from gream.engine.settings import Mode
from gream.errors import GreamError
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import PATIENCE

from serving.dispatch import BusyError, Dispatcher
from serving.items import Items
from serving.recommend import RankedItem, Recommendation, shown
from serving.service import LARGEST_BODY, LONGEST_ENTRY, MOST_ENTRIES, make_service
from serving.users import Users

ROOT = Path(__file__).resolve().parent.parent


class FakeModel:
    """A model that recommends the items after the last one, and waits at a gate where it is told to."""

    def __init__(self, items: Items) -> None:
        self.items = items
        self.calls: list[tuple[Mode, list[list[int]]]] = []
        self.excluded: list[bool] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(
        self, mode: Mode, histories: Sequence[Sequence[int]], k: int, exclude_history: bool = False
    ) -> list[Recommendation]:
        self.calls.append((mode, [list(history) for history in histories]))
        self.excluded.append(exclude_history)
        assert self.gate.wait(PATIENCE)
        if any(len(history) > 3 for history in histories):
            raise GreamError("too long for the model")
        return [
            Recommendation(
                mode=mode,
                history=tuple(shown(self.items[item]) for item in history),
                left_out=0,
                reasoning=None,
                items=tuple(
                    RankedItem(rank=rank, score=-float(rank), **dict(shown(self.items[(history[-1] + rank) % 30])))
                    for rank in range(1, k + 1)
                ),
            )
            for history in histories
        ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("service") / "run")


@pytest.fixture(scope="module")
def items(run: Path) -> Items:
    return Items.load(run)


@contextlib.asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        yield client


def call(app: FastAPI, method: str, path: str, **arguments: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        async with client_of(app) as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(once())


def service(run: Path, model: FakeModel, **more: Any) -> FastAPI:
    return make_service(model.items, model, users=Users(run), exclude_history=True, **{"longest_list": 20} | more)


@pytest.fixture(scope="module")
def app(run: Path, items: Items) -> FastAPI:
    return service(run, FakeModel(items), name="A <run>")


def test_a_user_of_the_run_is_asked_for_by_id(run: Path, items: Items) -> None:
    model = FakeModel(items)
    app = service(run, model, name="run")
    names = pl.read_parquet(run / "users.parquet", glob=False)["user_id"].to_list()
    rows = pl.read_parquet(run / "interactions.parquet", glob=False).filter(pl.col("user") == 4).sort("position")
    had = rows["item"].to_list()
    found = call(app, "GET", "/history", params={"user": names[4]}).json()
    assert [item["item_id"] for item in found["items"]] == [items[item].item_id for item in had]
    call(app, "POST", "/recommend", json={"user": names[4], "k": 1})
    assert model.calls[-1] == (Mode.direct, [had])
    for said, excluded in ((None, True), (True, True), (False, False)):
        body = {"history": ["B00003"], "k": 1} | ({} if said is None else {"exclude_history": said})
        assert call(app, "POST", "/recommend", json=body).status_code == 200
        assert model.excluded[-1] is excluded
    unknown = call(app, "GET", "/history", params={"user": names[4] + "x"})
    assert unknown.status_code == 404 and f"the nearest id is '{names[4]}'" in unknown.json()["detail"]
    both = call(app, "POST", "/recommend", json={"user": names[4], "history": ["B00003"]})
    assert both.status_code == 422 and "either a history or a user is needed" in both.json()["detail"]


def test_a_caller_who_hangs_up_gives_the_place_back(run: Path, items: Items) -> None:
    model = FakeModel(items)
    app = service(run, model, name="run", batch_size=1, limit=1)
    body = {"history": ["B00001"], "k": 1}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/recommend",
        "raw_path": b"/recommend",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"service")],
        "http_version": "1.1",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("service", 80),
    }

    async def main() -> None:
        leaves = asyncio.Event()
        messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await leaves.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        async with client_of(app) as client:

            async def waiting(count: int) -> None:
                while (await client.get("/health")).json()["waiting"] != count:
                    await asyncio.sleep(0.001)

            model.gate.clear()
            first = asyncio.create_task(client.post("/recommend", json=body))
            while not model.calls:
                await asyncio.sleep(0.001)
            second = asyncio.create_task(app(scope, receive, send))  # type: ignore[arg-type]
            await waiting(1)
            assert (await client.post("/recommend", json=body)).status_code == 503
            leaves.set()
            await second
            await waiting(0)
            third = asyncio.create_task(client.post("/recommend", json=body))
            await waiting(1)
            model.gate.set()
            assert [(await one).status_code for one in (first, third)] == [200, 200]
            assert len(model.calls) == 2

    asyncio.run(main())


def test_a_body_that_stops_coming_is_given_up(run: Path, items: Items, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.service.BODY_SECONDS", 0.05)

    async def parts() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    headers = {"Content-Type": "application/json"}
    found = call(service(run, FakeModel(items), name="run"), "POST", "/recommend", content=parts(), headers=headers)
    assert found.status_code == 408 and "no more of the body came" in found.json()["detail"]


def test_recommendations_items_and_health_are_answered(app: FastAPI) -> None:
    body = {"history": ["B00003", "item number 5", "<|a_1|><|b_2|><|c_3|>"], "k": 2, "mode": "reasoning"}
    found = call(app, "POST", "/recommend", json=body)
    assert found.status_code == 200
    assert [item["item_id"] for item in found.json()["history"]] == ["B00003", "B00005", "B00006"]
    assert [(item["rank"], item["item_id"], item["score"]) for item in found.json()["items"]] == [
        (1, "B00007", -1.0),
        (2, "B00008", -2.0),
    ]
    assert found.json()["items"][0]["semantic_id"] == ["<|a_1|>", "<|b_2|>", "<|c_4|>"]
    searched = call(app, "GET", "/items", params={"query": "number 7", "limit": 3}).json()
    assert searched["total"] == 30 and searched["items"][0]["title"] == "Item number 7"
    health = call(app, "GET", "/health").json()
    assert (health["status"], health["items"], health["longest_list"], health["waiting"]) == ("ok", 30, 20, 0)


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"history": []}, 422, "body.history: List should have at least 1 item"),
        ({}, 422, "body: Value error, either a history or a user is needed"),
        ({"user": "nobody at all"}, 404, "no user of the run has the id 'nobody at all'"),
        ({"history": [""]}, 422, "body.history.0: String should have at least 1 character"),
        ({"history": ["B00001"], "mode": "both"}, 422, "body.mode: Input should be 'direct' or 'reasoning'"),
        ({"history": ["B00001"], "k": 0}, 422, "body.k: Input should be greater than or equal to 1"),
        ({"history": ["B00001"], "more": 1}, 422, "body.more: Extra inputs are not permitted"),
        ({"history": ["x" * (LONGEST_ENTRY + 1)]}, 422, "body.history.0: String should have at most"),
        ({"history": ["B00001"] * (MOST_ENTRIES + 1)}, 422, "body.history: List should have at most"),
        ({"history": ["B00001"], "k": 21}, 422, "body.k: Input should be less than or equal to 20"),
        ({"history": ["B00001"], "k\n" * 50_000: 1}, 422, "body.k k k k"),
        ({"history": ["zzzz"]}, 404, "no item has the id or title 'zzzz'; no title is near it"),
        ({"history": ["   "]}, 404, "an empty entry names no item"),
        ({"history": ["B00001"] * 4}, 400, "too long for the model"),
    ],
)
def test_a_mistake_gets_a_clear_refusal(app: FastAPI, body: Any, status: int, detail: str) -> None:
    answer = call(app, "POST", "/recommend", json=body)
    assert answer.status_code == status and answer.json().keys() == {"detail"}
    assert answer.json()["detail"].startswith(detail)
    assert len(answer.json()["detail"]) < 3000 and "\n" not in answer.json()["detail"]


def test_broken_and_oversized_bodies_and_wrong_paths_are_refused(app: FastAPI) -> None:
    headers = {"Content-Type": "application/json"}
    assert call(app, "POST", "/recommend", content=b"{", headers=headers).status_code == 422
    assert call(app, "POST", "/recommend", content=b'"\xff"', headers=headers).status_code in (400, 422)
    large = call(app, "POST", "/recommend", content=b" " * (LARGEST_BODY + 1), headers=headers)
    assert (large.status_code, large.json()["detail"]) == (413, f"the body exceeds {LARGEST_BODY} bytes")

    async def parts() -> AsyncIterator[bytes]:  # no length is announced
        for _ in range(LARGEST_BODY // 1000 + 2):
            yield b" " * 1000

    assert call(app, "POST", "/recommend", content=parts(), headers=headers).status_code == 413
    assert call(app, "GET", "/recommend").status_code == 405
    assert call(app, "GET", "/nowhere").status_code == 404
    assert call(app, "GET", "/items", params={"limit": 51}).json()["detail"].startswith("query.limit: Input should be")


def test_waiting_requests_of_one_mode_are_decoded_together_and_one_mistake_stays_alone(items: Items) -> None:
    model = FakeModel(items)

    async def main() -> list[Any]:
        async with Dispatcher(model, batch_size=3, limit=20) as dispatcher:
            model.gate.clear()
            first = asyncio.create_task(dispatcher.ask(Mode.direct, [0], 1))
            while not model.calls:
                await asyncio.sleep(0.001)
            modes: list[Mode] = [Mode.direct, Mode.reasoning, Mode.direct, Mode.direct, Mode.direct, Mode.reasoning]
            histories = [[1], [2], [3, 3, 3, 3], [4], [5], [6]]
            rest = [
                asyncio.create_task(dispatcher.ask(mode, history, k))
                for mode, history, k in zip(modes, histories, (1, 2, 3, 4, 5, 6), strict=True)
            ]
            await asyncio.sleep(0.01)
            assert dispatcher.waiting == 6
            model.gate.set()
            return await asyncio.gather(first, *rest, return_exceptions=True)

    answers = asyncio.run(main())
    assert model.calls == [
        (Mode.direct, [[0]]),
        (Mode.direct, [[1], [3, 3, 3, 3], [4]]),
        (Mode.direct, [[1]]),  # each alone, as one of the three cannot be decoded
        (Mode.direct, [[3, 3, 3, 3]]),
        (Mode.direct, [[4]]),
        (Mode.reasoning, [[2], [6]]),
        (Mode.direct, [[5]]),
    ]
    assert isinstance(answers[3], GreamError)
    good = [answer for answer in answers if isinstance(answer, Recommendation)]
    assert [len(answer.items) for answer in good] == [1, 1, 2, 4, 5, 6]
    assert [answer.history[0].item_id for answer in good] == [f"B0000{item}" for item in (0, 1, 2, 4, 5, 6)]


def test_a_batch_that_no_server_answers_is_not_asked_again_one_by_one(items: Items) -> None:
    calls: list[int] = []

    def recommend(
        mode: Mode, histories: Sequence[Sequence[int]], k: int, exclude_history: bool
    ) -> list[Recommendation]:
        calls.append(len(histories))
        raise UnavailableError("http://127.0.0.1:1: connection failed")

    async def main() -> None:
        async with Dispatcher(recommend, batch_size=3, limit=3) as dispatcher:
            asked = [dispatcher.ask(Mode.direct, [number], 1) for number in range(3)]
            problems = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(problem) for problem in problems] == [UnavailableError] * 3

    asyncio.run(main())
    assert calls == [3]


def test_a_full_queue_refuses_with_a_time_to_come_back_and_recovers(run: Path, items: Items) -> None:
    model = FakeModel(items)
    app = service(run, model, name="run", batch_size=1, limit=2)

    async def main() -> None:
        async with client_of(app) as client:
            model.gate.clear()
            body = {"history": ["B00001"], "k": 1}
            under_way = [asyncio.create_task(client.post("/recommend", json=body))]
            while not model.calls:
                await asyncio.sleep(0.001)
            under_way += [asyncio.create_task(client.post("/recommend", json=body)) for _ in range(2)]
            while (await client.get("/health")).json()["waiting"] < 2:
                await asyncio.sleep(0.001)
            refused = await client.post("/recommend", json=body)
            assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["detail"].startswith("2 requests wait already; try again in ")
            assert (await client.get("/items")).status_code == 200  # the rest goes on
            model.gate.set()
            assert [answer.status_code for answer in await asyncio.gather(*under_way)] == [200] * 3
            assert (await client.post("/recommend", json=body)).status_code == 200

    asyncio.run(main())


def test_a_defect_of_the_model_is_not_taken_for_a_refusal_and_does_not_stop_the_queue(items: Items) -> None:
    answers: list[Any] = [ValueError("a defect"), []]

    def recommend(
        mode: Mode, histories: Sequence[Sequence[int]], k: int, exclude_history: bool
    ) -> list[Recommendation]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return FakeModel(items)(mode, histories, k)

    async def main() -> None:
        async with Dispatcher(recommend, batch_size=1, limit=1) as dispatcher:
            with pytest.raises(ValueError, match="a defect"):
                await dispatcher.ask(Mode.direct, [1], 1)
            assert (await dispatcher.ask(Mode.direct, [1], 1)).items[0].item_id == "B00002"

    asyncio.run(main())
    with pytest.raises(BusyError, match="try again in 7 s"):
        raise BusyError(7)


_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-200, 200),
        st.floats(allow_nan=False, allow_infinity=False),  # JSON has neither
        st.text(max_size=20),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_ENTRY = st.one_of(
    st.sampled_from(["B00001", "item number 4", "<|a_1|><|b_1|><|c_1|>", MALICIOUS]), st.text(max_size=30)
)
_SOUND = st.fixed_dictionaries({"history": st.lists(_ENTRY, min_size=1, max_size=3)})
_BODY = st.fixed_dictionaries(
    {},
    optional={
        "history": st.lists(_ENTRY, max_size=5) | _JSON,
        "mode": st.sampled_from(["direct", "reasoning"]) | _JSON,
        "k": st.integers(-1, 101) | _JSON,
        "user": st.sampled_from(["A<1>", "A<2>"]) | _JSON,
        "exclude_history": st.booleans() | _JSON,
        "other": _JSON,
    },
)


def test_every_answer_is_one_that_the_openapi_description_announces(app: FastAPI) -> None:
    description = app.openapi()
    assert set(description["paths"]) == {"/recommend", "/items", "/history", "/health"}
    text = st.text(st.characters(codec="utf-8"), max_size=40)
    requests = st.one_of(
        st.tuples(
            st.just("post"), st.just("/recommend"), st.builds(lambda body: {"json": body}, _SOUND | _BODY | _JSON)
        ),
        st.tuples(
            st.just("post"), st.just("/recommend"), st.builds(lambda body: {"content": body}, st.binary(max_size=40))
        ),
        st.tuples(
            st.just("get"),
            st.just("/items"),
            st.builds(
                lambda query: {"params": query},
                st.fixed_dictionaries({}, optional={"query": text, "limit": st.integers(-5, 60) | text, "x": text}),
            ),
        ),
        st.tuples(
            st.just("get"),
            st.just("/history"),
            st.builds(
                lambda query: {"params": query},
                st.fixed_dictionaries({}, optional={"user": text | st.just("A<3>"), "x": text}),
            ),
        ),
        st.tuples(st.just("get"), st.just("/health"), st.just({})),
    )
    statuses = set()

    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        client = runner.run(stack.enter_async_context(client_of(app)))

        @settings(max_examples=150)
        @given(requests)
        def fuzz(request: tuple[str, str, dict[str, Any]]) -> None:
            method, path, arguments = request
            answer = runner.run(client.request(method, path, **arguments))
            announced = description["paths"][path][method]["responses"]
            assert str(answer.status_code) in announced, (request, answer.text)
            schema = announced[str(answer.status_code)]["content"]["application/json"]["schema"]
            jsonschema.validate(answer.json(), schema | {"components": description["components"]})
            statuses.add(answer.status_code)

        fuzz()
        runner.run(stack.aclose())
    assert {200, 422} <= statuses


def test_the_page_holds_all_it_needs_and_lets_nothing_else_run(app: FastAPI) -> None:
    page = call(app, "GET", "/")
    policy = page.headers["Content-Security-Policy"]
    [script] = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert "A &lt;run&gt;" in page.text and "A <run>" not in page.text
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://", page.text)
    # Texts of the data reach the page as text only.
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    """The service as the command starts it, around a real model."""
    checkpoint = make_checkpoint(run)
    command = [sys.executable, "-m", "eval", "serve", "--run", str(run), "--checkpoint", str(checkpoint)]
    command += ["--form", "question", "--history", "20"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--chain-tokens", "8", "--device", "cpu"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("serving 30 items on http://127.0.0.1:"), process.stderr.read()
        yield line.split()[-1]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in errors
    finally:
        process.kill()


def test_the_command_serves_a_real_model(address: str) -> None:
    for mode in ("direct", "reasoning"):
        body = {"history": ["B00001", "item number 2"], "mode": mode, "k": 5}
        answer = httpx.post(f"{address}/recommend", json=body, timeout=PATIENCE)
        found = answer.json()
        assert len({item["item_id"] for item in found["items"]}) == 5
        assert (found["reasoning"] is None) == (mode == "direct")


def test_a_loopback_service_answers_to_its_own_names_and_waits_for_no_half_request(address: str) -> None:
    url = httpx.URL(address)
    foreign = httpx.get(f"{address}/health", headers={"Host": f"elsewhere.example:{url.port}"}, timeout=PATIENCE)
    assert foreign.status_code == 400
    assert foreign.json()["detail"].startswith(
        f"Host 'elsewhere.example:{url.port}': this service answers to localhost"
    )
    assert httpx.head(address, timeout=PATIENCE).status_code == 200
    assert httpx.get(f"http://localhost:{url.port}/health", timeout=PATIENCE).status_code == 200
    with socket.create_connection((url.host, url.port or 80), timeout=PATIENCE) as half:
        half.sendall(b"GET /health HTTP/1.1\r\nHost: 127")
        assert half.recv(1) == b""  # closed by the service


def test_a_port_that_is_taken_is_named(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "eval", "serve", "--run", "nowhere", "--checkpoint", "nowhere"]
        done = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: 127.0.0.1:{port}: cannot be listened on (Address already in use); choose another --port\n"
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the page is not tried in a browser")
def test_the_page_in_a_browser_from_search_to_both_lists_by_keyboard_alone(address: str) -> None:
    async def main() -> None:
        async with Browser() as browser:
            await browser.open(address)
            await browser.until("document.activeElement.id === 'search'")
            assert await browser.run("document.querySelector('#go').disabled")
            assert await browser.run("[...document.querySelectorAll('.state .idle')].length") == 2
            for query, title in (("number 7", "Item number 7"), ("script alert", MALICIOUS)):
                await browser.type(query)
                await browser.until("document.querySelector('#options li[aria-selected=true]')")
                shown_title = "document.querySelector('#options li').firstChild.textContent"
                assert await browser.run(shown_title) == title
                await browser.press("Enter")
                await browser.until(
                    f"document.querySelector('#history li:last-child div').innerText.includes('{title[:12]}')"
                )
            await browser.press("Enter")  # an empty search box starts
            await browser.until("document.querySelectorAll('.state.done').length === 2")
            for mode in ("direct", "reasoning"):
                rows = f"document.querySelectorAll('[data-mode={mode}] .ranked li')"
                assert await browser.run(f"{rows}.length") == 10
                paths = await browser.run(f"[...{rows}].map(row => row.dataset.path)")
                leaves = await browser.run(
                    f"[...document.querySelectorAll('[data-mode={mode}] .trie li')]"
                    ".filter(row => row.querySelector(':scope > .node .title')).map(row => row.dataset.path)"
                )
                assert len(set(paths)) == 10 and set(leaves) == set(paths)
            assert await browser.run("document.querySelector('[data-mode=reasoning] .raw-chain').innerText.length > 8")
            assert await browser.run("document.querySelector('[data-mode=direct] .raw-chain')") is None
            # A recommended item joins the history by keyboard, and its path lights up meanwhile.
            await browser.run("document.querySelector('[data-mode=direct] .add').focus()")
            assert await browser.run("document.querySelectorAll('[data-mode=direct] .trie .on').length") >= 1
            await browser.press("Enter")
            assert await browser.run("document.querySelectorAll('#history li').length") == 3
            assert await browser.run("document.querySelectorAll('.stale .outdated').length") == 2
            # Removing and moving keeps the focus in the list.
            await browser.run("document.querySelector('#history li:nth-child(2) button[title=Remove]').focus()")
            await browser.press(" ")
            assert await browser.run("document.querySelectorAll('#history li').length") == 2
            assert await browser.run("document.activeElement.closest('#history') !== null")
            # What the service says against a request stands on the page, with a way on.
            await browser.run("document.querySelector('#k').max = '100'; document.querySelector('#k').value = '50'")
            await browser.run("document.querySelector('#go').click()")
            await browser.until("document.querySelectorAll('[role=alert]').length === 2")
            assert "less than or equal to 20" in await browser.run("document.querySelector('[role=alert]').innerText")
            assert await browser.run("document.querySelector('script[src], img') === null")
            assert await browser.run("document.documentElement.scrollWidth <= innerWidth")
            assert all(url.startswith((address, "data:")) for url in browser.requests)
            assert not [text for text in browser.complaints if "422" not in text], browser.complaints
            # Nobody there: said, not spun for ever.
            await browser.call(
                "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
            )
            await browser.run("document.querySelector('#k').value = '5'; document.querySelector('#go').click()")
            await browser.until("document.querySelector('[role=alert]')?.innerText.includes('does not answer')")

    asyncio.run(main())
