"""The service on servers instead of a model of its own: the same lists, and named refusals while no server answers."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from eval_support import make_checkpoint, make_run
from gream.decoding.choices import ServerEngine
from gream.decoding.server_client import ServerSettings
from gream.dialogue import Form
from gream.engine.settings import Device, Mode, Settings
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from loopback import kept_ports
from server_support import StubModel, StubServer
from test_service import client_of

from serving.items import Items
from serving.recommend import OnServers, Recommendation, Recommender
from serving.service import make_service
from serving.users import Users

HISTORIES = [[0], [3, 4], [1, 2, 5], [3, 4], [7]]
CLIENTS = 6


class Restartable(StubServer):
    """A stub on a port that is kept for it."""

    def __init__(self, model: StubModel, port: int) -> None:
        super().__init__(model)
        self.port = port

    async def listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        await self.serve(listener)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("servers") / "run")


@pytest.fixture(scope="module")
def checkpoint(run: Path) -> Path:
    return make_checkpoint(run)


@pytest.fixture(scope="module")
def stub(run: Path, checkpoint: Path) -> StubModel:
    model = StubModel(checkpoint)
    model.catalogue = Catalog.load(run / "index.json").ids
    return model


def recommender(run: Path, checkpoint: Path, *urls: str, patience: float = 0.2) -> Recommender:
    # A stub that is stopped in the middle of a request never says so.
    servers = ServerSettings(urls, timeout=30, patience=patience, backoff=0.05) if urls else None
    return Recommender(
        checkpoint,
        Items.load(run),
        Settings(beams=8, history=20, chain_tokens=6, form=Form.question),
        device=Device.cpu,
        batch_size=4,
        on_servers=None if servers is None else OnServers(engine=ServerEngine.sglang, servers=servers),
    )


def essence(found: Recommendation) -> Any:
    chain = None if found.reasoning is None else found.reasoning.text
    return chain, [item.item_id for item in found.items]


def test_lists_are_those_of_a_model_in_this_process(run: Path, checkpoint: Path, stub: StubModel) -> None:
    here = recommender(run, checkpoint)
    with StubServer(stub) as server:
        there = recommender(run, checkpoint, server.url)
        for mode in Mode:
            # Two of the histories are the same, and so are their keys.
            found, expected = there.recommend(mode, HISTORIES, 5), here.recommend(mode, HISTORIES, 5)
            assert list(map(essence, found)) == list(map(essence, expected))
            scores = [[item.score for item in each.items] for each in found]
            for own, other in zip(scores, expected, strict=True):
                assert own == pytest.approx([item.score for item in other.items], abs=1e-4)
        assert not (run / ".partial").exists()  # nothing is written


def test_item_scores_are_added_in_process_only(run: Path, checkpoint: Path) -> None:
    fusion: Any = object()
    servers = OnServers(engine=ServerEngine.vllm, servers=ServerSettings(("http://127.0.0.1:9",)))
    with pytest.raises(GreamError, match=r"--fuse: .*; leave --endpoint out"):
        Recommender(
            checkpoint,
            Items.load(run),
            Settings(),
            device=Device.cpu,
            batch_size=1,
            fusion=fusion,
            on_servers=servers,
        )


def test_a_server_that_is_killed_and_started_again_costs_named_refusals_only(
    run: Path, checkpoint: Path, stub: StubModel
) -> None:
    here = recommender(run, checkpoint)
    expected = {
        tuple(history): essence(found)[1]
        for history, found in zip(HISTORIES, here.recommend(Mode.direct, HISTORIES, 5), strict=True)
    }
    statuses: list[int] = []

    async def main(port: int, stack: ExitStack) -> None:
        first = Restartable(stub, port)
        first.__enter__()
        there = recommender(run, checkpoint, f"http://127.0.0.1:{port}")
        items = Items.load(run)
        app = make_service(
            items,
            there.recommend,
            users=Users(run),
            exclude_history=False,
            longest_list=8,
            name="run",
            batch_size=4,
        )
        over = asyncio.Event()

        async with client_of(app) as client:

            async def ask_again_and_again(number: int) -> None:
                history = HISTORIES[number % len(HISTORIES)]
                body = {"history": [items[item].item_id for item in history], "k": 5}
                while not over.is_set():
                    answer = await client.post("/recommend", json=body, timeout=60)
                    statuses.append(answer.status_code)
                    if answer.status_code == 200:
                        assert [item["item_id"] for item in answer.json()["items"]] == expected[tuple(history)]
                    else:
                        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
                        assert "tries in " in answer.json()["detail"] and f":{port}" in answer.json()["detail"]

            async def until(status: int) -> None:
                seen = len(statuses)
                while status not in statuses[seen:]:
                    await asyncio.sleep(0.01)

            async with asyncio.TaskGroup() as clients:
                for number in range(CLIENTS):
                    clients.create_task(ask_again_and_again(number))
                await until(200)
                await asyncio.to_thread(first.__exit__)
                await until(503)
                stack.enter_context(Restartable(stub, port))
                await until(200)
                over.set()
            assert set(statuses) == {200, 503}

    with kept_ports(1) as port, ExitStack() as stack:
        asyncio.run(main(port, stack))
