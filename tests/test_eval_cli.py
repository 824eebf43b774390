"""``python -m eval`` as a user meets it: one error line, a table that fits, nothing done twice."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from eval_support import make_checkpoint, make_run
from gream.dialogue import Form
from rich.console import Console

from eval.results import Interval, Result, read_results
from eval.rewards import RewardComparison
from eval.table import print_table


def python_eval(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "eval", *arguments], capture_output=True, text=True, check=False)


def a_result(name: str, mode: str, value: float, malformed: float | None = None) -> Result:
    return Result(
        name=name,
        mode=mode,  # type: ignore[arg-type]
        split="test",
        history="excluded",
        checkpoint=None,
        users=22363,
        k=10,
        metrics={
            metric: Interval(value=value, low=value - 0.01, high=value + 0.01)
            for metric in ("recall@1", "recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr")
        },
        invalid_rate=0.0,
        duplicates=0,
        malformed_rate=malformed,
        seconds_per_user=0.0214,
        seed=0,
        settings={},
        versions={},
        command="",
    )


def test_the_table_fits_a_hundred_columns() -> None:
    out = io.StringIO()
    fewer = a_result("any", "direct", 0.1111).metrics
    results = [
        a_result("popularity", "popularity", 0.0213),
        a_result("reasoning-after-srpo", "reasoning", 0.1457, 0.021).model_copy(
            update={"alone": {"model": fewer, "transitions": fewer}}
        ),
    ]
    change = Interval(value=0.05, low=0.03, high=0.07)
    rewards = RewardComparison(prompts=200, before_step=0, after_step=9, before=change, after=change, difference=change)
    print_table(results, rewards, Console(file=out, width=100, highlight=False))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    [value_line] = [line for line in lines if line.startswith("reasoning-after-srpo")]
    assert value_line.split() == ["reasoning-after-srpo", *["0.1457"] * 6, "0.0%", "0.021"]
    below = lines[lines.index(value_line) + 1]
    assert below.split() == ["reasoning,", "22,363", *[".136-.156"] * 6, "0", "2.1%"]
    assert [line.split() for line in lines if line.startswith("  transitions")] == [["transitions", *["0.1111"] * 6]]
    assert "difference +0.0500 (95 % +0.0300 to +0.0700)" in " ".join(line.strip() for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table", "--run", "nowhere"], "error: nowhere: holds no eval/*/metrics.json; run 'python -m eval baselines'"),
        (["baselines", "--run", "nowhere"], "error: nowhere/interactions.parquet: missing input of stage"),
        (["direct", "--run", "nowhere", "--checkpoint", "none", "--name", "x"], "error: none: no config.json"),
        (["rewards", "--run", "nowhere"], "error: nowhere/checkpoints/srpo/validation: 0 validation dumps found"),
        (["report", "--run", "nowhere"], "error: nowhere: holds nothing to report"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    done = python_eval(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    "asked", [["compare", "one", "other"], ["import", "--run", "r", "--lists", "l", "--name", "n"]]
)
def test_a_seed_is_0_or_more(asked: list[str]) -> None:
    done = python_eval(*asked, "--seed", "-1")
    assert done.returncode == 2 and "Invalid value for '--seed'" in done.stderr


def test_a_run_is_evaluated_shown_and_reported_from_the_command_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", users=6)
    checkpoint = make_checkpoint(run, form=Form.question)
    direct = ["direct", "--run", str(run), "--checkpoint", str(checkpoint), "--name", "sft", "--device", "cpu"]
    direct.append("--exclude-history")
    for arguments in (["baselines", "--run", str(run)], direct, ["report", "--run", str(run)]):
        done = python_eval(*arguments)
        assert done.returncode == 0, done.stderr
    again = python_eval(*direct)
    made = r", 6 users, Recall@10 0\.\d{4}, NDCG@10 0\.\d{4} -> "
    assert re.fullmatch(
        f"eval-sft: up to date{made}eval/sft/predictions.parquet, eval/sft/metrics.json\n", again.stdout
    )
    table = python_eval("table", "--run", str(run)).stdout
    assert [line.split()[0] for line in table.splitlines() if "0.0%" in line] == [
        "popularity",
        "cooccurrence",
        "markov",
        "transitions",
        "sft",
    ]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"--checkpoint {checkpoint} --name sft" in page


def test_the_checkpoint_of_the_best_validation_figure_is_named_last(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for step in (5, 10):
        make_checkpoint(run, f"alignment/checkpoint-{step}")
    asked = ["--run", str(run), "--checkpoint", str(run / "checkpoints" / "alignment"), "--name", "valid"]
    done = python_eval("select", *asked, "--form", "question", "--history", "3", "--exclude-history", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    values = {result.name: result.metrics["ndcg@10"].value for result in read_results(run)}
    assert all(result.split == "valid" for result in read_results(run))
    best = "checkpoint-5" if values["valid-5"] >= values["valid-10"] else "checkpoint-10"
    assert done.stdout.splitlines()[-1] == str(run / "checkpoints" / "alignment" / best)
    assert "valid-10: Recall@10 0." in done.stdout
    nothing = python_eval("select", "--run", str(run), "--checkpoint", str(tmp_path), "--name", "x")
    assert nothing.returncode == 2 and "holds no checkpoint-N" in nothing.stderr
