"""The promise of the README's first screen: one command, from raw reviews to recommendations, on two CPU cores."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_support import ROOT, hashes, insist_on_full_lists

MODES = ("direct-sft", "direct-srpo", "reasoning-sft", "reasoning-srpo")
FUSED = ("direct-fused",)
EVALUATIONS = (*MODES, *FUSED)
COUNTED = ("popularity", "cooccurrence", "markov", "transitions")


@dataclass(frozen=True)
class Finished:
    """A run in a folder of its own: what an earlier one left takes no part."""

    arguments: tuple[str, ...]
    steps: int
    runs: Path

    @property
    def run(self) -> Path:
        (folder,) = self.runs.iterdir()
        return folder

    def again(self) -> subprocess.CompletedProcess[str]:
        return quickstart(*self.arguments, runs=self.runs)


def quickstart(*arguments: str, runs: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "scripts" / "quickstart.sh"), *arguments]
    environment = {**os.environ, "GREAM_RUNS": str(runs)}
    return subprocess.run(command, capture_output=True, text=True, timeout=3000, env=environment)


def finish(runs: Path, *arguments: str, steps: int) -> Finished:
    done = quickstart(*arguments, runs=runs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Finished(arguments, steps, runs)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """All stages, cut to few steps."""
    return finish(tmp_path_factory.mktemp("runs"), "--tiny", steps=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """What the README shows."""
    return finish(tmp_path_factory.mktemp("runs"), steps=30)


@pytest.fixture(params=["tiny", pytest.param("whole", marks=pytest.mark.slow)])
def finished(request: pytest.FixtureRequest) -> Finished:
    done: Finished = request.getfixturevalue(request.param)
    return done


def metrics(run: Path, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "eval" / name / "metrics.json").read_text())
    return result


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(3100)
def test_both_modes_are_ahead_of_every_counted_list(whole: Finished) -> None:
    best = max(metrics(whole.run, name)["metrics"]["recall@10"]["high"] for name in COUNTED)
    for name in MODES:
        assert metrics(whole.run, name)["metrics"]["recall@10"]["low"] > best


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(3100)
def test_fused_with_transitions_lists_are_ahead_of_the_model_alone(whole: Finished) -> None:
    for name in FUSED:
        fused = metrics(whole.run, name)
        assert fused["metrics"]["ndcg@10"]["value"] > fused["alone"]["model"]["ndcg@10"]["value"]


@pytest.mark.e2e
@pytest.mark.timeout(3100)
def test_every_list_is_full_of_distinct_items_that_exist(finished: Finished) -> None:
    insist_on_full_lists(finished.run, EVALUATIONS)
    for name in EVALUATIONS:
        reported = metrics(finished.run, name)
        assert (reported["invalid_rate"], reported["duplicates"]) == (0, 0)
    for name in FUSED:
        alone = metrics(finished.run, name)["alone"]["transitions"]
        assert alone == metrics(finished.run, "transitions")["metrics"]


@pytest.mark.e2e
@pytest.mark.timeout(3100)
def test_srpo_ran_and_was_compared_on_the_same_prompts(finished: Finished) -> None:
    rows = [json.loads(line) for line in (finished.run / "checkpoints/srpo/metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "srpo/reward" in row["data"]]
    assert [row["step"] for row in trained] == list(range(1, finished.steps + 1))
    for row in trained:
        assert {"srpo/exact_hits", "srpo/zero_variance_groups"} <= set(row["data"])
        # Rollout and actor are two implementations of one policy.
        assert row["data"]["training/rollout_probs_diff_max"] < 1e-4
    comparison = json.loads((finished.run / "eval" / "rewards.json").read_text())
    assert comparison["prompts"] == len(pl.read_parquet(finished.run / "rl" / "val.parquet"))


@pytest.mark.e2e
@pytest.mark.timeout(3100)
def test_run_again_it_only_prints_the_table(finished: Finished) -> None:
    before = hashes(finished.run)
    again = finished.again()
    assert again.returncode == 0, again.stderr[-3000:]
    stages = re.findall(r"^[a-z-]+: (.+) ->", again.stdout, flags=re.MULTILINE)
    assert len(stages) >= 15
    assert {stage.partition(",")[0] for stage in stages} == {"up to date"}
    assert "cooccurrence" in again.stdout
    assert "report.html" in again.stdout
    assert hashes(finished.run) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--revews", "x"), "unknown option '--revews'"),
        (("--reviews", "r.gz"), "--reviews, --meta and --name go together"),
        (("--name",), "--name needs a value"),
    ],
)
def test_wrong_options_are_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = quickstart(*arguments, runs=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr
