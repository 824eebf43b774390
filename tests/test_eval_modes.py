"""Several chains per user, sampled answers, several processes, and checkpoints trained elsewhere."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import ROOT
from eval_support import exact_scores, make_checkpoint, make_model, make_run
from gream.decoding.chain import ChainWriter
from gream.decoding.chain_text import Chain
from gream.dialogue import Form, reasoning_prompt, render_prompt
from gream.engine.prompt import PromptTemplate
from gream.engine.settings import Combine, Settings
from gream.errors import GreamError
from gream.protocol import held_out, read_interactions
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.item_ids import ItemIds
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from eval.generative import InProcess
from eval.metrics import pass_at_k
from eval.results import read_results
from eval.stages import evaluate_model

SAMPLED = Settings(beams=30, history=3, form=Form.question, chain_tokens=6, temperature=2.0, chains=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("modes") / "run")
    make_checkpoint(folder)
    return folder


def evaluate(run: Path, name: str, asked: Settings, batch_size: int = 8, **changes: Any) -> pl.DataFrame:
    settings = {"users": 5, "split": "test", "command": "", "overwrite": False} | changes
    checkpoint = settings.pop("checkpoint", run / "checkpoints" / "alignment")
    evaluate_model(run, checkpoint, name, asked, InProcess(batch_size=batch_size, device="cpu"), **settings)
    return pl.read_parquet(run / "eval" / name / "predictions.parquet")


@pytest.fixture
def chains_of(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[Chain]]:
    """The chains that each user got."""
    written: dict[int, list[Chain]] = {}
    write = ChainWriter.write

    def noted(self: ChainWriter, prompts: Any, keys: Any, *, per_prompt: int = 1) -> Any:
        chains, read = write(self, prompts, keys, per_prompt=per_prompt)
        for at, key in enumerate(keys):
            written[key] = chains[at * per_prompt : (at + 1) * per_prompt]
        return chains, read

    monkeypatch.setattr(ChainWriter, "write", noted)
    return written


def exact_table(run: Path, user: int, chains: list[Chain]) -> np.ndarray:
    """Log-probability of every item after every chain of a user, by plain forward passes: ``[m, items]``."""
    folder = run / "checkpoints" / "alignment"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    catalog = Catalog.load(run / "index.json")
    cases = held_out(read_interactions(run / "interactions.parquet"), "test")
    history = cases.histories[cases.users.tolist().index(user)]
    prompt = tokenizer(render_prompt(reasoning_prompt([catalog.text(item) for item in history[-3:]])))["input_ids"]
    ids = [tokenizer.convert_tokens_to_ids(list(tokens)) for tokens in catalog.ids]
    return np.array([exact_scores(model, [*prompt, *chain.tokens], ids) for chain in chains])


def test_items_count_with_their_probability_over_all_chains(run: Path, chains_of: dict[int, list[Chain]]) -> None:
    table = evaluate(run, "combined", SAMPLED)
    user = table["user"][2]
    chains = chains_of[user]
    assert len({chain.tokens for chain in chains}) > 1
    exact = exact_table(run, user, chains)
    mean = np.log(np.exp(exact).mean(axis=0))
    best = np.argsort(-mean)[:10]
    assert table["items"][2].to_list() == best.tolist()
    np.testing.assert_allclose(table["scores"][2].to_list(), mean[best], atol=1e-4)
    assert table["chain"][2] == chains[exact[:, best[0]].argmax()].text
    [result] = [result for result in read_results(run) if result.name == "combined"]
    assert result.mode == "reasoning" and result.settings["chains"] == 4
    assert result.malformed_rate == np.mean([not chain.complete for chains in chains_of.values() for chain in chains])
    assert result.cost is not None
    tokens = [sum(len(chain.tokens) for chain in chains) for chains in chains_of.values()]
    assert result.cost.written_tokens == pytest.approx(np.mean(tokens))
    assert 0 < result.cost.latency_p50 <= result.cost.latency_p95


def test_sampled_answers_are_one_item_per_chain_by_the_chains_probability(
    run: Path, chains_of: dict[int, list[Chain]]
) -> None:
    table = evaluate(run, "sampled", dataclasses.replace(SAMPLED, combine=Combine.answers, chains=12))
    chains = chains_of[table["user"][3]]
    exact = exact_table(run, table["user"][3], chains)
    total = np.array([chain.score for chain in chains]) + exact.max(axis=1)
    np.testing.assert_allclose(table["scores"][3].to_list(), np.sort(total)[::-1], atol=1e-3)
    assert sorted(table["items"][3].to_list()) == sorted(exact.argmax(axis=1).tolist())
    [result] = [result for result in read_results(run) if result.name == "sampled"]
    assert (result.mode, result.k) == ("sampled", 12)
    hits = np.array(
        [items.count(target) for items, target in zip(table["items"].to_list(), table["target"], strict=True)]
    )
    assert result.pass_at is not None and result.pass_at.keys() == {"pass@1", "pass@5", "pass@10"}
    for k in (1, 5, 10):
        assert result.pass_at[f"pass@{k}"].value == pytest.approx(pass_at_k(hits, 12, k).mean())


def test_sampled_lists_are_not_measured_beyond_their_end(run: Path) -> None:
    with pytest.raises(GreamError, match="--at 20: sampled lists have an item per chain; raise --chains 12"):
        evaluate(run, "x", dataclasses.replace(SAMPLED, combine=Combine.answers, chains=12), cutoffs=(1, 5, 10, 20))


def test_several_greedy_chains_are_refused(run: Path) -> None:
    with pytest.raises(GreamError, match="--chains 4: 1 or more needed, and above 1 a --temperature above 0"):
        evaluate(run, "greedy", dataclasses.replace(SAMPLED, temperature=0.0))


def test_two_processes_make_the_predictions_of_one(run: Path, tmp_path: Path) -> None:
    settings = ["--run", run, "--checkpoint", run / "checkpoints/alignment", "--batch-size", "2"]
    settings += ["--device", "cpu", "--form", "question", "--history", "20"]
    evaluate(run, "one", dataclasses.replace(SAMPLED.direct, beams=20, history=20), batch_size=2, users=None)
    # Twice in one go, as starting processes takes longest: made, then found up to date.
    script = tmp_path / "twice.py"
    script.write_text(
        "import sys\nfrom eval.__main__ import app\nfor _ in range(2):\n    app(sys.argv[1:], standalone_mode=False)\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--"]
    command = [*launcher, script, "direct", *settings, "--name", "two"]
    # A script's folder stands where the current one would.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(ROOT)]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # the last bits of sums depend on it; torchrun sets 1
    }
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    one, two = (run / "eval" / name / "predictions.parquet" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    cases = held_out(read_interactions(run / "interactions.parquet"), "test")
    assert pl.read_parquet(two)["user"].to_list() == cases.users.tolist()
    assert {result.name: result.settings.get("processes") for result in read_results(run)}["two"] == 2
    # The leading process alone speaks.
    made, found = (line for line in done.stdout.splitlines() if line.startswith("eval-two"))
    assert re.search(r": [\d.]+ s, \d+ users, .* -> ", made) and "up to date" in found


def make_foreign(folder: Path, tokens: list[str], words: str) -> tuple[Any, PreTrainedTokenizerFast]:
    """A checkpoint whose tokenizer has a token per character of ``words`` and the given tokens, and no ChatML."""
    vocabulary = {character: at for at, character in enumerate(["<unk>", *sorted(set(words))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.add_tokens(["<s>", *tokens])
    model = make_model(len(fast), seed=3)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return model, fast


def test_a_model_trained_elsewhere_needs_its_own_files_only(run: Path, tmp_path: Path) -> None:
    # Ids of unequal length in another spelling; items 3 and 17 share one.
    ids = [[f"<a_{item // 8}>", f"<b_{item % 8}>"] for item in range(30)]
    ids[5] += ["<c_0>"]
    ids[9] = ["[SID-9]"]
    ids[17] = ids[3]
    index = tmp_path / "their.index.json.gz"
    with gzip.open(index, "wt") as stream:
        json.dump({str(item): tokens for item, tokens in enumerate(ids)}, stream)
    template = tmp_path / "prompt.txt"
    template.write_text("<s>### Bought:\n{history:, }\n### Next:\n\n")
    tokens = sorted({token for each in ids for token in each})
    model, tokenizer = make_foreign(tmp_path / "their", tokens, template.read_text())
    decoding = dataclasses.replace(SAMPLED.direct, history=2)
    theirs = {"checkpoint": tmp_path / "their", "index": index, "template": template, "users": None}
    table = evaluate(run, "their", decoding, **theirs)
    unseen = evaluate(run, "unseen", dataclasses.replace(decoding, exclude_history=True), **theirs)

    cases = held_out(read_interactions(run / "interactions.parquet"), "test")
    distinct = [item for item in range(30) if item != 17]
    token_ids = [tokenizer.convert_tokens_to_ids(ids[item]) for item in distinct]
    has_one = [row for row, history in enumerate(cases.histories) if (3 in history) != (17 in history)]
    for row in (0, 7, 20, has_one[0]):
        history = ", ".join("".join(ids[item]) for item in cases.histories[row][-2:])
        prompt = tokenizer(f"<s>### Bought:\n{history}\n### Next:\n")["input_ids"]
        assert tokenizer.unk_token_id not in prompt
        exact = exact_scores(model, prompt, token_ids)
        ranked = sorted(zip(exact, distinct, strict=True), key=lambda pair: -pair[0])
        expanded = [(item, score) for score, one in ranked for item in ([3, 17] if one == 3 else [one])]
        new = [(item, score) for item, score in expanded if item not in cases.histories[row]]
        for lists, wanted in ((table, expanded), (unseen, new)):
            assert lists["items"][row].to_list() == [item for item, _ in wanted[:10]]
            np.testing.assert_allclose(lists["scores"][row].to_list(), [score for _, score in wanted[:10]], atol=1e-4)
    [result] = [result for result in read_results(run) if result.name == "their"]
    assert (result.invalid_rate, result.duplicates) == (0, 0)
    assert (result.settings["index"], result.settings["prompt"]) == ("their.index.json.gz", "prompt.txt")

    with pytest.raises(GreamError, match=r"the tokenizer lacks <\|a_1\|> and \d+ other .* --index"):
        evaluate(run, "wrong", decoding, checkpoint=tmp_path / "their")


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{history}", "A B"),
        ("<s>{history:, } then {what}?\n", "<s>A, B then {what}?"),
        ("{history:\\n}\n\n", "A\nB\n"),
        ("x{history:}", "xAB"),
    ],
)
def test_a_template_is_its_text_with_the_history_in_it(tmp_path: Path, text: str, rendered: str) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(text)
    assert PromptTemplate.load(path).render(["A", "B"]) == rendered


@pytest.mark.parametrize(("text", "count"), [("no place", 0), ("{history} and {history:,}", 2)])
def test_a_template_names_the_history_once(tmp_path: Path, text: str, count: int) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(text)
    with pytest.raises(GreamError, match=rf"prompt\.txt: names the history {count} times"):
        PromptTemplate.load(path)
    with pytest.raises(GreamError, match=r"absent\.txt: cannot be read as text"):
        PromptTemplate.load(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"0": ["<a_1>"], "2": ["<a_2>"]}', "items must be numbered 0 to 1, found '2'"),
        ('{"0": "<a_1>"}', "item 0 must have a list of tokens"),
        ('{"0": ["<a_1>", 7]}', "item 0 has 7, no token"),
        ('{"0": [""]}', 'item 0 has "", no token'),
    ],
)
def test_a_foreign_index_that_is_none_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "index.json"
    path.write_text(content)
    with pytest.raises(GreamError, match=message):
        ItemIds.load(path)
