"""Evaluation over servers: the lists of the evaluation in process, whatever fails on the way and in whatever order."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from eval_support import exact_scores, make_checkpoint, make_run
from gream.decoding.chain_text import ChainText
from gream.decoding.choices import ServerEngine
from gream.decoding.server_client import ServerClient, ServerSettings
from gream.decoding.server_protocol import PROTOCOLS, Draw, Written
from gream.dialogue import Form, reasoning_prompt, render_prompt
from gream.engine.settings import Combine, Settings
from gream.errors import GreamError
from gream.protocol import held_out, read_interactions
from gream.semantic_ids.catalog import Catalog
from gream.stage import StageResult
from loopback import PATIENCE
from server_support import Fault, StubModel, StubServer, insist_on_their_logs
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.__main__ import app
from eval.generative import InProcess, OnServers
from eval.metrics import pass_at_k
from eval.results import PREDICTIONS_SCHEMA, Result, read_results
from eval.stages import evaluate_model

ROOT = Path(__file__).resolve().parent.parent
DIRECT = Settings(beams=12, history=3, form=Form.question)
REASONING = dataclasses.replace(DIRECT, chain_tokens=12)
SEQUENCE = dataclasses.replace(DIRECT, form=Form.sequence)
NEW_ONLY = dataclasses.replace(REASONING, exclude_history=True)
SAMPLED = dataclasses.replace(REASONING, chains=6, chain_tokens=6, temperature=1.5, combine=Combine.answers)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("remote") / "run")
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> StubModel:
    return StubModel(run / "checkpoints" / "alignment")


def evaluate(
    run: Path,
    name: str,
    asked: Settings,
    *servers: StubServer | str,
    users: int | None = None,
    engine: ServerEngine = ServerEngine.sglang,
    **changes: Any,
) -> StageResult:
    more = {"in_flight": 8, "backoff": 0.01, "timeout": PATIENCE, "patience": PATIENCE} | changes
    where = ServerSettings(tuple(server if isinstance(server, str) else server.url for server in servers), **more)
    checkpoint, place = run / "checkpoints" / "alignment", OnServers(engine=engine, servers=where)
    done = evaluate_model(run, checkpoint, name, asked, place, "test", users, "python -m eval remote", overwrite=False)
    assert done is not None
    return done


def predictions(run: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(run / "eval" / name / "predictions.parquet")


def result_of(run: Path, name: str) -> Result:
    return next(result for result in read_results(run) if result.name == name)


def file_of(run: Path, name: str) -> bytes:
    return (run / "eval" / name / "predictions.parquet").read_bytes()


@pytest.mark.parametrize("engine", ServerEngine)
@pytest.mark.parametrize(
    "remote", [DIRECT, REASONING, SEQUENCE, NEW_ONLY], ids=["direct", "reasoning", "sequence", "new-only"]
)
def test_lists_are_those_in_process(run: Path, model: StubModel, engine: ServerEngine, remote: Settings) -> None:
    name = f"{engine}-{remote.mode}-{remote.form}-{remote.exclude_history}"
    checkpoint = run / "checkpoints" / "alignment"
    place = InProcess(batch_size=4, device="cpu")
    evaluate_model(run, checkpoint, f"{name}-here", remote, place, "test", 10, "", overwrite=False)
    with StubServer(model) as server:
        assert evaluate(run, name, remote, server, users=10, engine=engine).ran
    ours, theirs = predictions(run, name), predictions(run, f"{name}-here")
    assert ours.schema == pl.Schema(PREDICTIONS_SCHEMA)
    assert ours.drop("scores").equals(theirs.drop("scores"))
    np.testing.assert_allclose(ours["scores"].to_list(), theirs["scores"].to_list(), atol=1e-4)
    result, local = result_of(run, name), result_of(run, f"{name}-here")
    assert result.settings["engine"] == engine and result.seconds_per_user > 0
    for figure in ("mode", "metrics", "exposure", "invalid_rate", "malformed_rate", "pass_at"):
        assert getattr(result, figure) == getattr(local, figure)
    assert result.cost is not None and local.cost is not None
    assert result.cost.prompt_tokens == local.cost.prompt_tokens
    assert result.cost.written_tokens == local.cost.written_tokens
    assert 0 < result.cost.latency_p50 <= result.cost.latency_p95


@pytest.mark.parametrize(
    "remote",
    [DIRECT, REASONING, NEW_ONLY, dataclasses.replace(REASONING, chains=2, temperature=1.0, chain_tokens=6)],
    ids=["direct", "reasoning", "new-only", "two-chains"],
)
def test_servers_that_hold_the_catalogue_are_asked_once_for_a_list(
    run: Path, model: StubModel, remote: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"native-{remote.mode}-{remote.exclude_history}-{remote.chains}"
    with StubServer(model) as plain:
        evaluate(run, f"{name}-stepwise", remote, plain, users=6)
    assert "by a beam search here: they do not hold its trie" in capsys.readouterr().err
    monkeypatch.setattr(model, "catalogue", Catalog.load(run / "index.json").ids)
    with StubServer(model) as server:
        evaluate(run, name, remote, server, users=6)
    assert "by their own beam search" in capsys.readouterr().err
    ours, theirs = predictions(run, name), predictions(run, f"{name}-stepwise")
    assert ours.drop("scores").equals(theirs.drop("scores"))
    np.testing.assert_allclose(ours["scores"].to_list(), theirs["scores"].to_list(), atol=1e-5)
    lists = [body for body in server.requests if "beam_width" in body["sampling_params"]]
    assert len(lists) == 6 * remote.chains
    assert len(server.requests) == 6 * remote.chains * (1 if remote.chain_tokens is None else 2) < len(plain.requests)


def test_one_server_without_the_catalogue_and_all_are_asked_step_by_step(run: Path, model: StubModel) -> None:
    holding = StubModel(run / "checkpoints" / "alignment")
    holding.catalogue = Catalog.load(run / "index.json").ids
    with StubServer(holding) as one, StubServer(model) as other:
        evaluate(run, "mixed", DIRECT, one, other, users=4)
        assert not any("beam_width" in str(body) for body in one.requests + other.requests)


def test_drawn_at_temperature_1_a_chain_comes_with_its_score_and_unseeded_servers_are_named(
    run: Path, model: StubModel, capsys: pytest.CaptureFixture[str]
) -> None:
    at_1 = dataclasses.replace(SAMPLED, temperature=1.0, chains=3)
    with StubServer(model) as server:
        evaluate(run, "at-1", at_1, server, users=3)
        assert "--enable-deterministic-inference" not in capsys.readouterr().err
        server.deterministic = False
        evaluate(run, "at-1-again", at_1, server, users=3)
        assert "started with --enable-deterministic-inference" in capsys.readouterr().err
    assert sum("logprob_start_len" in body for body in server.requests) == 0
    assert all(
        body["sampling_params"]["temperature"] == 1
        for body in server.requests
        if "beam" not in str(body) and isinstance(body["sampling_params"], dict)
    )
    table = predictions(run, "at-1")
    assert file_of(run, "at-1") == file_of(run, "at-1-again") and np.isfinite(table["scores"].to_list()).all()


def test_a_refused_prompt_ends_its_user_alone(run: Path, model: StubModel) -> None:
    with StubServer(model, lambda number: Fault(status=400) if number == 4 else None) as server:
        with pytest.raises(
            GreamError, match=r"1 of 8 prompts were refused, first that of \d+: .*status 400 \(a fault\)"
        ):
            evaluate(run, "one-refused", DIRECT, server, users=8, in_flight=1)
        before = len(server.requests)
        evaluate(run, "one-refused", DIRECT, server, users=8, in_flight=1)
    assert len(server.requests) - before <= 3  # that user's; the others' are kept


@pytest.mark.parametrize("engine", ServerEngine)
def test_sampled_answers_are_one_item_per_chain_by_the_chains_probability(
    run: Path, model: StubModel, engine: ServerEngine
) -> None:
    name = f"{engine}-sampled"
    with StubServer(model) as server:
        evaluate(run, name, SAMPLED, server, users=4, engine=engine)
    folder = run / "checkpoints" / "alignment"
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    catalog = Catalog.load(run / "index.json")
    ids = [tokenizer.convert_tokens_to_ids(list(tokens)) for tokens in catalog.ids]
    cases = held_out(read_interactions(run / "interactions.parquet"), "test").sample(4, seed=0)
    where, key = ("sampling_params", "input_ids") if engine == "sglang" else ("sampling_params", "token_ids")
    table, hits, malformed, written = predictions(run, name), [], [], []
    for user, row in enumerate(table.iter_rows(named=True)):
        prompt = tokenizer(
            render_prompt(reasoning_prompt([catalog.text(item) for item in cases.histories[user][-3:]]))
        )["input_ids"]
        # The chains that were asked for, drawn again, and scored by plain forward passes.
        settings = [
            body[where]
            for body in server.requests
            if body[key] == prompt and isinstance(body[where], dict) and body[where]["temperature"] == 1.5
        ]
        assert len(settings) == 6
        answers = []
        for one in settings:
            seed = one["sampling_seed" if engine == "sglang" else "seed"]
            tokens, _ = model.write(prompt, 6, ["<answer>"], [2], 1.5, seed)
            with torch.no_grad():
                logs = network(torch.tensor([[*prompt, *tokens]])).logits[0].double().log_softmax(1)
            score = sum(float(logs[len(prompt) + at - 1, token]) for at, token in enumerate(tokens))
            chain = ChainText(tokenizer).read(tokens)
            items = np.array(exact_scores(network, [*prompt, *chain.tokens], ids))
            answers.append((score + items.max(), int(items.argmax())))
            malformed.append(not chain.complete)
            written.append(len(chain.tokens))
        answers.sort(reverse=True)
        assert row["items"] == [item for _, item in answers]
        np.testing.assert_allclose(row["scores"], [score for score, _ in answers], atol=1e-3)
        hits.append(row["items"].count(row["target"]))
    result = result_of(run, name)
    assert (result.mode, result.k) == ("sampled", 6)
    assert result.pass_at is not None and result.pass_at.keys() == {"pass@1", "pass@5"}
    for k in (1, 5):
        assert result.pass_at[f"pass@{k}"].value == pytest.approx(pass_at_k(np.array(hits), 6, k).mean())
    assert result.malformed_rate == np.mean(malformed)
    assert result.cost is not None and result.cost.written_tokens == pytest.approx(sum(written) / 4)


@pytest.mark.parametrize("combine", Combine)
def test_the_order_of_answers_the_number_of_servers_and_failures_change_nothing(
    run: Path, model: StubModel, combine: Combine
) -> None:
    warm = dataclasses.replace(REASONING, chains=3, chain_tokens=6, temperature=1.3, combine=combine)
    calm, rough = f"calm-{combine}", f"rough-{combine}"
    with StubServer(model) as server:
        evaluate(run, calm, warm, server, users=5, in_flight=1)
    chance = random.Random(0)
    faults = [Fault(status=503), Fault(drop=True), Fault(cut=True)]

    def often(number: int) -> Fault | None:
        late = time.monotonic() + 0.05
        return chance.choice([*faults, Fault(until=lambda: time.monotonic() > late), *[None] * 6])

    with StubServer(model, often) as one, StubServer(model, often) as other:
        evaluate(run, rough, warm, one, other, users=5, in_flight=64)
        assert one.requests and other.requests
    assert file_of(run, calm) == file_of(run, rough)


def test_several_chains_are_combined_by_log_sum_exp(run: Path, model: StubModel) -> None:
    # As many beams as items: every list is whole, and so is the sum.
    warm = dataclasses.replace(REASONING, chains=2, temperature=1.5, beams=30, chain_tokens=6)
    with StubServer(model) as server:
        evaluate(run, "two", warm, server, users=3)
        evaluate(run, "seed", dataclasses.replace(warm, chains=1, seed=1), server, users=3)
        evaluate(run, "one", dataclasses.replace(warm, chains=1), server, users=3)
    two, one = predictions(run, "two"), predictions(run, "one")
    assert predictions(run, "seed")["chain"].to_list() != one["chain"].to_list()
    catalog = Catalog.load(run / "index.json")
    folder = run / "checkpoints" / "alignment"
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.convert_tokens_to_ids(list(tokens)) for tokens in catalog.ids]
    written = [body for body in server.requests if isinstance(body["sampling_params"], dict)][:6]
    for user in range(3):
        prompt = written[2 * user]["input_ids"]
        chains = [body for body in written if body["input_ids"] == prompt]
        assert len(chains) == 2  # of the first evaluation, one user's chains are asked for together
        logs = []
        for body in chains:
            sampling = body["sampling_params"]
            tokens, _ = model.write(prompt, 6, ["<answer>"], [2], 1.5, sampling["sampling_seed"])
            logs.append(exact_scores(network, [*prompt, *ChainText(tokenizer).read(tokens).tokens], ids))
        exact = np.logaddexp(*np.array(logs)) - np.log(2)
        best = np.argsort(-exact)[:10]
        row = next(row for row in two.iter_rows(named=True) if row["items"] == best.tolist())
        np.testing.assert_allclose(row["scores"], exact[best], atol=1e-4)
    with pytest.raises(GreamError, match="greedy chains are all the same"):
        dataclasses.replace(REASONING, chains=2)


@pytest.mark.parametrize(
    "decoding",
    [DIRECT, REASONING, dataclasses.replace(SAMPLED, chains=3)],
    ids=["direct", "reasoning", "sampled"],
)
def test_a_start_after_a_failure_asks_for_what_is_missing_only(run: Path, model: StubModel, decoding: Settings) -> None:
    name = f"resumed-{decoding.mode}-{decoding.combine}"
    with StubServer(model) as server:
        evaluate(run, f"{name}-whole", decoding, server, users=14)
        whole = Counter(map(repr, server.requests))
    with StubServer(model, lambda number: Fault(status=400) if number >= 30 else None) as failing:
        with pytest.raises(GreamError, match="status 400"):
            evaluate(run, name, decoding, failing, users=14, in_flight=2)
        answered = Counter(map(repr, failing.requests[:30]))
    assert not (run / "eval" / name).exists()
    with StubServer(model) as server:
        evaluate(run, name, decoding, server, users=14)
        rest = Counter(map(repr, server.requests))
    assert file_of(run, name) == file_of(run, f"{name}-whole")
    assert len(server.requests) < sum(whole.values())
    # What was under way in the 2 workers, up to 3 requests of a list and a chain each, may be asked for again.
    assert sum((answered & rest).values()) <= 8 * decoding.chains
    chains = [body for body in failing.requests[:30] if isinstance(body["sampling_params"], dict)]
    assert len(chains) == 0 if decoding.chain_tokens is None else len(chains) > 4
    assert sum(repr(body) in rest for body in chains) <= 2


def test_an_unchanged_evaluation_is_not_made_again_whatever_the_servers(run: Path, model: StubModel) -> None:
    with StubServer(model) as server:
        assert evaluate(run, "same", DIRECT, server, users=3).ran
    with StubServer(model) as other:
        assert not evaluate(run, "same", DIRECT, other, users=3, in_flight=1).ran
        assert not other.requests
        with pytest.raises(GreamError, match=r"another configuration \(beams: 12 -> 13\)"):
            evaluate(run, "same", dataclasses.replace(DIRECT, beams=13), other, users=3)
        with pytest.raises(GreamError, match=r"up to 5.. follow, but the model has 506 positions"):
            evaluate(run, "long", dataclasses.replace(REASONING, chain_tokens=512), other)
        with pytest.raises(GreamError, match="name of a baseline"):
            evaluate(run, "popularity", DIRECT, other)


def start_stub(run: Path, listener: socket.socket, last: int = 0, end: str = "") -> subprocess.Popen[str]:
    """See `server_support`; the socket stays this process's as well, so that nobody else gets the port."""
    checkpoint = str(run / "checkpoints" / "alignment")
    script = str(ROOT / "tests" / "server_support.py")
    command = [sys.executable, script, checkpoint, str(listener.fileno()), str(last), end]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[listener.fileno()])
    assert process.stdout is not None and process.stdout.readline().startswith("listening")
    return process


def remote_command(run: Path, name: str, port: int, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "eval", "remote", "--run", str(run), "--name", name, *more),
        *("--checkpoint", str(run / "checkpoints" / "alignment"), "--endpoint", f"http://127.0.0.1:{port}"),
    ]


def test_the_modes_have_the_settings_that_they_have_in_process(run: Path, model: StubModel) -> None:
    with StubServer(model) as server:
        for mode, chains, temperature, form in (("sampled", 10, 1.0, "question"), ("direct", 1, 0.0, "sequence")):
            more = ["--mode", mode, "--form", form, "--users", "1", "--chain-tokens", "3", "--history", "3"]
            app(remote_command(run, f"cli-{mode}", server.port, *more)[3:], standalone_mode=False)
            result = result_of(run, f"cli-{mode}")
            assert (result.mode, result.settings["chains"], result.settings["temperature"]) == (
                mode,
                chains,
                temperature,
            )
            assert result.settings["form"] == form


@pytest.mark.parametrize("option", [("--chains", "4"), ("--temperature", "1")])
def test_settings_of_chains_are_refused_where_there_are_none(run: Path, option: tuple[str, str]) -> None:
    with pytest.raises(GreamError, match="--mode direct writes no chains: leave --chains and --temperature out"):
        app(remote_command(run, "refused", 1, "--mode", "direct", *option)[3:], standalone_mode=False)
    assert not (run / "eval" / "refused").exists()


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_server_and_client_are_killed_and_the_file_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    users = int(os.environ.get("GREAM_KILL_USERS", "120"))
    run = make_run(tmp_path / "run", users=users)
    make_checkpoint(run)
    journal = run / ".partial" / "eval-killed" / "answers.jsonl"
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    settings = ["--mode", "direct", "--form", "question", "--beams", "12", "--history", "3", "--in-flight", "16"]
    command = remote_command(run, "killed", port, *settings)
    asked = 3 * users // 4  # requests, of three for each user, after which the first server falls silent

    def answered() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    with listener, ExitStack() as stack:

        def started(last: int = 0, end: str = "") -> subprocess.Popen[str]:
            server = start_stub(run, listener, last, end)
            stack.callback(server.wait)
            stack.callback(server.kill)
            return server

        # The client is killed in the middle: answers are there, and the server falls silent before all of them are.
        server = started(asked, "hold")
        client = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE
        while answered() < users // 8:
            assert client.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        client.kill()
        client.wait()
        server.kill()
        server.wait()
        before = answered()
        assert users // 8 <= before <= users // 4
        # So is the next server, by itself, at a request that is under way.
        server = started(asked, "die")
        client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        server.wait()
        assert client.poll() is None
        server = started()
        output, _ = client.communicate(timeout=3 * PATIENCE)
        assert client.returncode == 0 and "tried again: " in output
        evaluate(run, "calm", DIRECT, f"http://127.0.0.1:{port}")
    assert file_of(run, "calm") == file_of(run, "killed")


on_vllm = pytest.mark.skipif(
    "GREAM_VLLM" not in os.environ, reason="GREAM_VLLM names no root of a vLLM server (see docs/servers.md)"
)


@on_vllm
@pytest.mark.parametrize("remote", [DIRECT, REASONING], ids=["direct", "reasoning"])
def test_lists_over_a_real_vllm_are_those_in_process(remote: Settings, tmp_path: Path) -> None:
    """``GREAM_VLLM``: the server's root; ``GREAM_VLLM_RUN``, ``GREAM_VLLM_CHECKPOINT``: the run and what it serves."""
    run, checkpoint = Path(os.environ["GREAM_VLLM_RUN"]), Path(os.environ["GREAM_VLLM_CHECKPOINT"])
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("interactions.parquet", "index.json"):
        (copy / name).write_bytes((run / name).read_bytes())
    asked = dataclasses.replace(remote, history=None, form=None, chain_tokens=remote.chain_tokens and 256)
    here, servers = InProcess(batch_size=16, device="cpu"), ServerSettings((os.environ["GREAM_VLLM"],), in_flight=32)
    evaluate_model(copy, checkpoint, "here", asked, here, "test", 40, "", overwrite=False)
    there = OnServers(engine=ServerEngine.vllm, servers=servers)
    evaluate_model(copy, checkpoint, "there", asked, there, "test", 40, "", overwrite=False)
    ours, theirs = predictions(copy, "there"), predictions(copy, "here")
    assert ours["chain"].to_list() == theirs["chain"].to_list()
    assert ours["items"].to_list() == theirs["items"].to_list()
    np.testing.assert_allclose(ours["scores"].to_list(), theirs["scores"].to_list(), atol=1e-4)


@on_vllm
def test_sampled_chains_of_a_real_vllm_come_with_their_log_probabilities() -> None:
    checkpoint = Path(os.environ["GREAM_VLLM_CHECKPOINT"])
    network, tokenizer = (
        AutoModelForCausalLM.from_pretrained(checkpoint).eval(),
        AutoTokenizer.from_pretrained(checkpoint),
    )
    catalog = Catalog.load(Path(os.environ["GREAM_VLLM_RUN"]) / "index.json")
    prompt = tokenizer(render_prompt(reasoning_prompt([catalog.text(item) for item in (0, 1, 2)])))["input_ids"]

    async def main() -> list[Written]:
        protocol, end = PROTOCOLS[ServerEngine.vllm](), ChainText(tokenizer).end
        async with ServerClient(ServerSettings((os.environ["GREAM_VLLM"],))) as client:
            draws = [Draw(0.7, seed) for seed in range(8)]
            return list(
                await asyncio.gather(*(protocol.write(client, prompt, 256, end, draw, scored=True) for draw in draws))
            )

    insist_on_their_logs(network, prompt, asyncio.run(main()))
