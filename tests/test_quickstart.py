"""The promise of the README's first screen: one command, from raw reviews to recommendations, on two CPU cores."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_support import ROOT, hashes, insist_on_full_lists

FUSED = ("direct-fused", "reasoning-fused")
EVALUATIONS = ("direct-sft", "direct-srpo", "reasoning-sft", "reasoning-srpo", *FUSED)
STEPS = 22


def quickstart(*arguments: str, runs: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "scripts" / "quickstart.sh"), *arguments]
    environment = {**os.environ, "GREAM_RUNS": str(runs)}
    return subprocess.run(command, capture_output=True, text=True, timeout=3000, env=environment)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default run, in a folder of its own: what an earlier one left takes no part."""
    runs = tmp_path_factory.mktemp("runs")
    done = quickstart(runs=runs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return runs / "quickstart"


def metrics(run: Path, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "eval" / name / "metrics.json").read_text())
    return result


@pytest.mark.e2e
@pytest.mark.timeout(3100)
def test_direct_recommendations_beat_both_baselines(finished: Path) -> None:
    recall = metrics(finished, "direct-sft")["metrics"]["recall@10"]["value"]
    assert recall >= 2 * metrics(finished, "popularity")["metrics"]["recall@10"]["value"]
    assert recall > metrics(finished, "cooccurrence")["metrics"]["recall@10"]["value"]


@pytest.mark.e2e
def test_fused_with_transitions_lists_are_ahead_of_the_model_alone(finished: Path) -> None:
    transitions = metrics(finished, "transitions")["metrics"]
    for name in FUSED:
        fused = metrics(finished, name)
        assert fused["metrics"]["ndcg@10"]["value"] > fused["alone"]["model"]["ndcg@10"]["value"]
        assert fused["alone"]["transitions"] == transitions


@pytest.mark.e2e
def test_every_list_is_full_of_distinct_items_that_exist(finished: Path) -> None:
    insist_on_full_lists(finished, EVALUATIONS)
    for name in EVALUATIONS:
        reported = metrics(finished, name)
        assert (reported["invalid_rate"], reported["duplicates"]) == (0, 0)


@pytest.mark.e2e
def test_srpo_ran_and_was_compared_on_the_same_prompts(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "checkpoints/srpo/metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "srpo/reward" in row["data"]]
    assert [row["step"] for row in trained] == list(range(1, STEPS + 1))
    for row in trained:
        assert {"srpo/exact_hits", "srpo/zero_variance_groups"} <= set(row["data"])
        # Rollout and actor are two implementations of one policy.
        assert row["data"]["training/rollout_probs_diff_max"] < 1e-4
    comparison = json.loads((finished / "eval" / "rewards.json").read_text())
    assert comparison["prompts"] == len(pl.read_parquet(finished / "rl" / "val.parquet"))


@pytest.mark.e2e
def test_run_again_it_only_prints_the_table(finished: Path) -> None:
    before = hashes(finished)
    again = quickstart(runs=finished.parent)
    assert again.returncode == 0, again.stderr[-3000:]
    stages = re.findall(r"^[a-z-]+: (.+) ->", again.stdout, flags=re.MULTILINE)
    assert len(stages) >= 15
    assert {stage.partition(",")[0] for stage in stages} == {"up to date"}
    assert "cooccurrence" in again.stdout
    assert "report.html" in again.stdout
    assert hashes(finished) == before


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
