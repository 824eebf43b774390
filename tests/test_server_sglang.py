"""Evaluation over a real SGLang on a CPU: ``python -m pytest -m slow tests/test_server_sglang.py``; docs/servers.md.

Needs the environment of ``scripts/install.sh --sglang``, and starts three servers, of which one is killed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from eval_support import make_checkpoint, make_run
from gream.decoding.beam import TrieBeamSearch
from gream.decoding.chain_text import ChainText
from gream.decoding.choices import ServerEngine
from gream.decoding.native_beam import NativeBeamSearch
from gream.decoding.server_client import RefusedError, ServerClient, ServerSettings
from gream.decoding.server_protocol import Draw, SGLangProtocol
from gream.dialogue import Form, reasoning_prompt, render_prompt
from gream.engine.checkpoint import catalogue_token_ids, load_tokenizer, load_weights, positions
from gream.engine.contract import ids_digest
from gream.engine.settings import Combine, Settings
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.item_ids import ItemIds
from gream.semantic_ids.trie import PrefixTrie
from loopback import free_port
from server_support import insist_on_their_logs

from eval.generative import InProcess, OnServers
from eval.stages import evaluate_model

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-sglang" / "bin" / "python"
STARTED = 900  # seconds in which a server starts on a machine that is busy
DIRECT = Settings(beams=12, history=3, form=Form.question)
REASONING = dataclasses.replace(DIRECT, chain_tokens=40)
NEW_ONLY = dataclasses.replace(DIRECT, exclude_history=True)
LONG = dataclasses.replace(DIRECT, chain_tokens=200, temperature=1.5)
SAMPLED = dataclasses.replace(REASONING, chains=3, temperature=1.0, combine=Combine.answers)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3 * STARTED),
    pytest.mark.skipif(not PYTHON.exists(), reason="no SGLang here: bash scripts/install.sh --sglang"),
]


@dataclass
class Server:
    """A server, its run and its model.

    Attributes:
        short: Items whose ids are cut to one to three levels: a catalogue with ids of unequal length.
    """

    url: str
    run: Path
    checkpoint: Path
    short: Path

    def evaluate(self, name: str, asked: Settings, **changes: Any) -> pl.DataFrame:
        servers = ServerSettings((self.url,), **({"in_flight": 8, "patience": STARTED} | changes))
        place = OnServers(engine=ServerEngine.sglang, servers=servers)
        return self._evaluated(name, asked, place)

    def here(self, name: str, asked: Settings) -> pl.DataFrame:
        return self._evaluated(name, asked, InProcess(batch_size=8, device="cpu"))

    def _evaluated(self, name: str, asked: Settings, place: Any) -> pl.DataFrame:
        evaluate_model(self.run, self.checkpoint, name, asked, place, "test", 12, "", overwrite=False)
        return pl.read_parquet(self.run / "eval" / name / "predictions.parquet")


def deploy(checkpoint: Path, port: int, *catalogues: str) -> subprocess.Popen[str]:
    command = ["bash", str(ROOT / "scripts" / "deploy.sh"), str(checkpoint), "test", "cpu", "--port", str(port)]
    named = [word for catalogue in catalogues for word in ("--catalogue", catalogue)]
    process = subprocess.Popen(
        [*command, *named, "--", "--enable-deterministic-inference"],
        cwd=checkpoint.parent,
        env=os.environ | {"GREAM_DEPLOY_PATIENCE": str(STARTED)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(said)


def uneven(run: Path, target: Path) -> Path:
    """The run's items with ids of one to three of their tokens, all different."""
    ids = Catalog.load(run / "index.json").ids
    taken: set[tuple[str, ...]] = set()
    for item, tokens in enumerate(ids):
        length = next((n for n in (1 + item % 3, 2, 3) if n <= len(tokens) and tuple(tokens[:n]) not in taken), None)
        taken.add(tuple(tokens[:length]))
    target.write_text(json.dumps({str(at): list(tokens) for at, tokens in enumerate(sorted(taken))}))
    return target


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sglang")
    run = make_run(folder / "run")
    checkpoint = make_checkpoint(run)
    short = uneven(run, folder / "short.json")
    with ExitStack() as stack:
        port = free_port()
        process = deploy(checkpoint, port, f"shop={run / 'index.json'}", f"short={short}")
        stack.callback(process.wait)
        stack.callback(process.send_signal, signal.SIGTERM)
        wait_for(process, "ready: ")
        yield Server(f"http://127.0.0.1:{port}", run, checkpoint, short)


@pytest.mark.parametrize("asked", [DIRECT, REASONING, NEW_ONLY], ids=["direct", "reasoning", "new-only"])
def test_lists_are_those_in_process(
    server: Server, asked: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{asked.mode}-{asked.exclude_history}"
    here, native = server.here(f"{name}-here", asked), server.evaluate(f"{name}-native", asked)
    assert "by their own beam search" in capsys.readouterr().err
    monkeypatch.setattr("gream.engine.remote.FEWEST_BEAMS", 1000)
    for table in (native, server.evaluate(f"{name}-stepwise", asked)):
        assert table.drop("scores").equals(here.drop("scores"))
        np.testing.assert_allclose(table["scores"].to_list(), here["scores"].to_list(), atol=2e-5)


@pytest.mark.parametrize("catalogue", ["whole", "part", "short"])
def test_several_catalogues_a_part_of_one_and_ids_of_unequal_length(server: Server, catalogue: str) -> None:
    ids = ItemIds.load(server.short if catalogue == "short" else server.run / "index.json")
    digest = ids_digest(ids.of_items)
    ids = ids.only(range(0, 30, 3)) if catalogue == "part" else ids
    trie = PrefixTrie.build(catalogue_token_ids(ids.ids, load_tokenizer(server.checkpoint)))
    prompts, exclude = [[5, 6, 7, 8], [9] * 30], [[], [0, 2, 3]]
    search = TrieBeamSearch(load_weights(server.checkpoint, "cpu"), trie, k=8, beams=10)
    here = search.search(prompts, exclude)

    async def main() -> list[Any]:
        native = NativeBeamSearch(ids, digest, k=8, beams=10)
        async with ServerClient(ServerSettings((server.url,))) as client:
            both = zip(prompts, exclude, strict=True)
            return await asyncio.gather(*(native.search(client, prompt, out) for prompt, out in both))

    for (items, scores), items_here, scores_here in zip(asyncio.run(main()), here.items, here.scores, strict=True):
        assert items.tolist() == [item for item in items_here.tolist() if item >= 0]
        np.testing.assert_allclose(scores, scores_here[: len(scores)], atol=2e-5)


def test_sampled_chains_can_be_drawn_again_and_come_with_their_scores(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = server.evaluate("sampled", SAMPLED), server.evaluate("again", SAMPLED, in_flight=2)
    assert "--enable-deterministic-inference" not in capsys.readouterr().err
    assert first["chain"].to_list() == again["chain"].to_list() and first["items"].to_list() == again["items"].to_list()
    np.testing.assert_allclose(first["scores"].to_list(), again["scores"].to_list(), atol=1e-5)
    network, tokenizer = load_weights(server.checkpoint, "cpu"), load_tokenizer(server.checkpoint)
    catalog, text = Catalog.load(server.run / "index.json"), ChainText(tokenizer)
    prompt = tokenizer(render_prompt(reasoning_prompt([catalog.text(item) for item in (0, 1, 2)])))["input_ids"]

    async def main() -> list[Any]:
        async with ServerClient(ServerSettings((server.url,))) as client:
            draws = [Draw(temperature, seed) for temperature in (1.0, 0.7) for seed in range(4)]
            writing = (SGLangProtocol().write(client, prompt, 40, text.end, draw, scored=True) for draw in draws)
            return list(await asyncio.gather(*writing))

    insist_on_their_logs(network, prompt, asyncio.run(main()))


def test_what_is_aborted_is_asked_again(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    calm = server.evaluate("calm-chains", LONG)
    ended = threading.Event()

    def abort() -> None:
        asked = server.run / ".partial" / "eval-rough-chains" / "answers.jsonl"
        while not asked.exists() and not ended.is_set():
            time.sleep(0.05)
        for _ in range(6):
            time.sleep(0.5)
            host = HTTPConnection(server.url.removeprefix("http://"), timeout=STARTED)
            host.request("POST", "/abort_request", '{"abort_all": true}', {"Content-Type": "application/json"})
            host.getresponse().read()
            if ended.is_set():
                break

    aborting = threading.Thread(target=abort)
    aborting.start()
    rough = server.evaluate("rough-chains", LONG)
    ended.set()
    aborting.join()
    assert "after abort" in capfd.readouterr().out
    assert rough.drop("scores").equals(calm.drop("scores"))


def test_prompts_may_be_as_long_as_the_client_says_and_a_longer_one_is_refused_alone(server: Server) -> None:
    ids = ItemIds.load(server.run / "index.json")
    longest = positions(server.checkpoint) - 6

    async def main() -> list[Any]:
        native = NativeBeamSearch(ids, ids_digest(ids.of_items), k=3, beams=4)
        async with ServerClient(ServerSettings((server.url,))) as client:
            prompts = [[5] * (longest - len(ids.ids[0])), [5] * (longest + 1), [5] * 9]
            return await asyncio.gather(*(native.search(client, prompt) for prompt in prompts), return_exceptions=True)

    fits, too_long, short = asyncio.run(main())
    assert isinstance(too_long, RefusedError) and "status 400" in str(too_long)
    assert len(fits[0]) == len(short[0]) == 3


def test_a_server_killed_and_started_again_changes_nothing(server: Server, tmp_path: Path) -> None:
    slow = dataclasses.replace(REASONING, chain_tokens=120, temperature=1.2)
    with ExitStack() as stack:
        port = free_port()
        catalogue = f"shop={server.run / 'index.json'}"
        own = dataclasses.replace(server, url=f"http://127.0.0.1:{port}")
        first = deploy(server.checkpoint, port, catalogue)
        stack.callback(first.wait)
        wait_for(first, "ready: ")
        found: list[pl.DataFrame] = []
        client = threading.Thread(target=lambda: found.append(own.evaluate("killed", slow, in_flight=1)))
        client.start()
        journal = server.run / ".partial" / "eval-killed" / "answers.jsonl"
        while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
            assert client.is_alive()
            time.sleep(0.05)
        [engine] = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit()
            and b"launch_server" in _command(entry)
            and str(port).encode() in _command(entry)
            and b"bash" not in _command(entry)
        ]
        os.killpg(engine, signal.SIGKILL)
        first.wait()
        assert client.is_alive()
        second = deploy(server.checkpoint, port, catalogue)
        stack.callback(second.wait)
        stack.callback(second.send_signal, signal.SIGTERM)
        wait_for(second, "ready: ")
        client.join()
    calm = server.evaluate("never-killed", slow, in_flight=1)
    assert found[0].drop("scores").equals(calm.drop("scores"))
    np.testing.assert_allclose(found[0]["scores"].to_list(), calm["scores"].to_list(), atol=1e-5)


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
