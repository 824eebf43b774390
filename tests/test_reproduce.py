"""Reproduction scripts: the whole chain on some of the real data, and what is said before anything starts.

The chain takes minutes and is left to ``-m slow``: the quickstart's, of the same stages, is part of every run.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from data_support import ROOT, hashes, insist_on_full_lists
from pretrained_support import write_base

MODELS = ("direct-sft", "direct-srpo", "reasoning-sft", "reasoning-srpo")
BASELINES = ("popularity", "cooccurrence", "markov", "sasrec")


def reproduce(name: str, *arguments: str, runs: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "scripts" / f"reproduce_{name}.sh"), *arguments]
    environment = {**os.environ, "GREAM_RUNS": str(runs)} if runs else None
    return subprocess.run(command, capture_output=True, text=True, timeout=3000, env=environment)


def commands(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^\$ (.+)$", done.stdout, flags=re.MULTILINE)


@dataclass(frozen=True)
class Finished:
    """The tiny run of Beauty, in a folder of its own: what an earlier one left takes no part."""

    run: Path
    arguments: tuple[str, ...]
    output: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def finished(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    runs = tmp_path_factory.mktemp("runs")
    arguments = ("--raw", str(real_data / "Beauty"), "--tiny")
    done = reproduce("beauty", *arguments, runs=runs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Finished(runs / "beauty-tiny", arguments, done)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(3100)
def test_the_chain_ends_with_a_table_of_every_evaluation(finished: Finished) -> None:
    table = finished.output.stdout.partition("== 8. Results")[2]
    for name in (*BASELINES, *MODELS):
        assert re.search(rf"^{name} ", table, flags=re.MULTILINE), name
    assert "Validation reward of 16 prompts" in table
    assert (finished.run / "report.html").exists()


@pytest.mark.e2e
@pytest.mark.slow
def test_every_list_is_full_of_distinct_items_that_exist(finished: Finished) -> None:
    insist_on_full_lists(finished.run, (*BASELINES, *MODELS))


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(3100)
def test_run_again_it_does_nothing_and_a_dry_run_prints_the_same_commands(finished: Finished) -> None:
    before = hashes(finished.run)
    again = reproduce("beauty", *finished.arguments, runs=finished.run.parent)
    assert again.returncode == 0, again.stderr[-3000:]
    stages = re.findall(r"^[a-z-]+: (.+) ->", again.stdout, flags=re.MULTILINE)
    assert len(stages) >= 20
    assert {stage.partition(",")[0] for stage in stages} == {"up to date"}

    dry = reproduce("beauty", *finished.arguments, "--dry-run", runs=finished.run.parent)
    assert dry.returncode == 0, dry.stderr
    # The frameworks' own commands are printed by their stages, where these run.
    trained = ("llamafactory-gream train", "verl.trainer.main_ppo")
    planned = commands(dry)
    assert [command for command in planned if not any(name in command for name in trained)] == commands(again)
    assert [sum(name in command for command in planned) for name in trained] == [2, 1]
    assert set(commands(finished.output)) <= set(planned)
    assert hashes(finished.run) == before


def test_a_dry_run_finds_the_raw_dump_and_plans_for_the_gpus_named(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    review = {"reviewerID": "u", "asin": "i", "unixReviewTime": 1, "summary": "", "reviewText": ""}
    with gzip.open(tmp_path / "reviews_Sports_and_Outdoors_5.json.gz", "wt") as stream:
        stream.write(json.dumps(review) + "\n")
    (tmp_path / "meta_Sports_and_Outdoors.json").write_text("{'asin': 'i', 'title': 't', 'categories': [['c']]}\n")
    done = reproduce("sports", "--raw", str(tmp_path), "--base", str(base), "--gpus", "4", "--dry-run")
    for line in ("data: amazon-2014: ", f"base model: {base}: 0.0 million parameters", "SFT recipes: ", "RL recipe: "):
        assert f"  ok  {line}" in done.stdout
    # 3 passes over 1.38 rows per target, 4 per item, 2 per user; counts of the paper.
    assert f"{3 * round(1.38 * 189_543 + 4 * 18_357 + 2 * 35_598):,} rows" in done.stdout
    assert "150 steps of 256 prompts x 10 responses" in done.stdout
    assert "not a measurement" in done.stdout
    # No machine of the tests has four GPUs, what they need, and slots for Ray: that, and nothing else, is wrong.
    assert set(re.findall(r"^  x   (\w+):", done.stdout, flags=re.MULTILINE)) <= {"GPUs", "machine", "packages"}
    assert done.returncode == (2 if "\n  x " in done.stdout else 0)
    planned = "\n".join(commands(done))
    for part in (
        "interactions.format=amazon-2014",
        f"torchrun --nproc-per-node 4 -m -- data_processing embed --config recipes/data/paper.yaml "
        f"embed.encoder=language-model embed.model={base}",
        "--passes 3",
        "NPROC_PER_NODE=4 llamafactory-gream train recipes/sft/paper_alignment.yaml",
        "gradient_accumulation_steps=8",
        "--config-name paper",
        "run_folder=runs/sports",
        "trainer.n_gpus_per_node=4",
        "eval sasrec",
        "torchrun --nproc-per-node 4 -m -- eval reasoning --checkpoint "
        "runs/sports/checkpoints/srpo/global_step_N/actor/huggingface",
    ):
        assert part in planned


def test_nothing_starts_where_something_is_missing_and_all_of_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "Beauty.inter.json").write_text("{}")
    done = reproduce("beauty", "--raw", str(tmp_path), "--base", str(tmp_path), runs=tmp_path / "runs")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: not started: mend what is marked x above"
    wrong = dict(re.findall(r"^  x   ([\w ]+): (.+)$", done.stdout, flags=re.MULTILINE))
    assert {"data", "base model"} <= set(wrong)
    assert "reviews_Beauty_5.json and meta_Beauty.json" in wrong["data"]
    assert "Beauty.inter.json and Beauty.item.json" in wrong["data"]
    assert "Qwen3-4B-Instruct-2507" in wrong["base model"]
    assert commands(done) == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--row", "x"), "unknown option '--row'"),
        (("--raw",), "--raw needs a value"),
        (("--gpus", "3"), "--gpus 3: 1, 2, 4, 8 or 16"),
        (("--tiny", "--base", "x"), "leave out --base and --gpus"),
    ],
)
def test_wrong_options_are_one_clear_line(arguments: tuple[str, ...], said: str) -> None:
    done = reproduce("instruments", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--data and --name are needed"),
        (("--data", "."), "--data and --name are needed"),
        (("--data", ".", "--name", "a/b"), "--name 'a/b': letters"),
        (("--data", "docs", "--name", "x"), "docs: 0 files named *.inter.json*, one needed"),
        (("--datum",), "unknown option '--datum'"),
    ],
)
def test_what_is_learned_from_nothing_is_looked_for_first(arguments: tuple[str, ...], said: str) -> None:
    script = ["bash", str(ROOT / "scripts" / "from_nothing.sh"), *arguments]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and said in done.stderr
