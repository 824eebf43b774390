"""Two evaluations compared: known differences, groups, the test's error rate, and what cannot be compared."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from eval_support import make_run
from gream.errors import GreamError
from gream.protocol import Protocol, held_out, read_interactions, training_matrix
from rich.console import Console

from eval.compare import Comparison, compare, rival_of
from eval.metrics import measure
from eval.results import Result, predictions_table, read_results, write_result
from eval.stages import evaluate_baselines
from eval.table import print_comparison

ITEMS = 30


def evaluation(run: Path, name: str, ranks: np.ndarray, *, users: slice = slice(None), split: str = "test") -> Path:
    """An evaluation of ``run`` that finds each target at the given rank; 0 is a miss."""
    cases = held_out(read_interactions(run / "interactions.parquet"), split)  # type: ignore[arg-type]
    items = []
    for target, rank in zip(cases.targets[users].tolist(), ranks.tolist(), strict=True):
        row = [item for item in range(ITEMS) if item != target][:10]
        items.append([*row[: rank - 1], target, *row[rank - 1 :]][:10] if rank else row)
    table = predictions_table(
        cases.users[users],
        cases.targets[users],
        np.array(items),
        np.zeros((len(items), 10)),
        [None] * len(items),
        [None] * len(items),
    )
    result = Result(
        name=name,
        mode="direct",
        history="excluded",
        split=split,  # type: ignore[arg-type]
        checkpoint=None,
        **measure(np.array(items), cases.targets[users], catalogue=ITEMS, seed=0),
        malformed_rate=None,
        seconds_per_user=0.1,
        seed=0,
        settings={},
        versions={},
        command="",
    )
    write_result(run, result, table)
    return run / "eval" / name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("compare") / "run", users=12)


def test_differences_are_those_of_the_metrics_and_groups_add_up(run: Path) -> None:
    first = evaluation(run, "first", np.array([0, 1, 2, 0, 1, 3, 0, 0, 10, 5, 1, 2]))
    second = evaluation(run, "second", np.array([0, 1, 1, 4, 0, 1, 1, 0, 1, 4, 1, 0]))
    comparison = compare(first, second, seed=0)
    whole = comparison.groups[0]
    assert (whole.name, whole.users, comparison.only_first) == ("all users", 12, 0)
    recall = whole.metrics["recall@10"]
    assert (recall.first, recall.second) == (pytest.approx(8 / 12), pytest.approx(8 / 12))
    assert recall.difference.value == pytest.approx(0) and recall.p_value == 1.0
    mrr = whole.metrics["mrr"]
    expected = np.array([0, 0, 1 / 2, 1 / 4, -1, 2 / 3, 1, 0, 0.9, 1 / 4 - 1 / 5, 0, -1 / 2])
    assert mrr.difference.value == pytest.approx(expected.mean())
    assert mrr.difference.low < expected.mean() < mrr.difference.high
    # Exhaustive exchange of the nine users who differ.
    moved = expected[expected != 0]
    sums = np.array([np.dot(signs, moved) for signs in product((-1, 1), repeat=len(moved))])
    assert mrr.p_value == pytest.approx((np.abs(sums) >= moved.sum() - 1e-9).mean(), abs=0.02)

    cases = held_out(read_interactions(run / "interactions.parquet"), "test")
    train = training_matrix(read_interactions(run / "interactions.parquet"), ITEMS)
    had = np.bincount(train[1], minlength=ITEMS)[cases.targets]
    by_length = [group for group in comparison.groups if group.name.startswith("history")]
    by_target = [group for group in comparison.groups if group.name.startswith("target")]
    for groups in (by_length, by_target):
        assert sum(group.users for group in groups) == 12
        weighted = sum(group.users * group.metrics["mrr"].difference.value for group in groups)
        assert weighted == pytest.approx(expected.sum())
    cold = [group for group in by_target if group.name == "target never seen"]
    assert sum(group.users for group in cold) == (had == 0).sum() > 0
    shortest = min(len(history) for history in cases.histories)
    assert by_length[0].name.split()[-1].split("-")[0] == str(shortest)


def test_equal_systems_are_seldom_told_apart_and_better_ones_are(run: Path) -> None:
    random = np.random.default_rng(1)
    values = []
    for number in range(6):
        one, other = (evaluation(run, f"{name}{number}", random.integers(0, 11, size=12)) for name in "ab")
        values.append(compare(one, other, seed=0).groups[0].metrics["ndcg@10"].p_value)
    assert min(values) > 0.01 and max(values) > 0.5
    good, bad = evaluation(run, "good", np.full(12, 1)), evaluation(run, "bad", np.zeros(12, dtype=int))
    metric = compare(bad, good, seed=0).groups[0].metrics["ndcg@10"]
    assert metric.difference.low == metric.difference.value == 1
    assert metric.p_value == pytest.approx(2 * 0.5**12, abs=0.001)


def test_users_in_one_evaluation_only_take_no_part_and_are_counted(run: Path) -> None:
    first = evaluation(run, "most", np.full(9, 2), users=slice(0, 9))
    second = evaluation(run, "some", np.full(8, 1), users=slice(4, 12))
    comparison = compare(first, second, seed=0)
    assert (comparison.users, comparison.only_first, comparison.only_second) == (5, 4, 3)
    console = Console(width=100, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_comparison(comparison, console)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 100
    assert "4 whom only the first and 3 whom only the second" in " ".join(shown.split())
    assert "+0.5000" in shown
    raw = json.dumps(comparison.model_dump(mode="json"))
    assert Comparison.model_validate_json(raw) == comparison


def test_without_a_second_one_it_is_the_best_baseline_that_was_asked_alike(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", users=12)
    asked = evaluation(run, "asked", np.full(12, 2))
    with pytest.raises(GreamError, match="no baseline on the test split with the history excluded"):
        rival_of(asked)
    for protocol in (Protocol(), Protocol(history="allowed"), Protocol(fitted="train+valid")):
        list(evaluate_baselines(run, protocol=protocol, seed=0, command="", overwrite=False))
    alike = [result for result in read_results(run) if (result.history, result.fitted) == ("excluded", "train")]
    best = max(alike, key=lambda result: result.metrics["ndcg@10"].value)
    assert rival_of(asked) == run / "eval" / best.name


def test_what_cannot_be_compared_is_named(run: Path, tmp_path: Path) -> None:
    first = evaluation(run, "one", np.full(12, 1))
    with pytest.raises(GreamError, match=r"absent/predictions\.parquet: not there; name the folder"):
        compare(first, run / "eval" / "absent", seed=0)
    with pytest.raises(GreamError, match="asks for the valid item"):
        compare(first, evaluation(run, "valid", np.full(12, 1), split="valid"), seed=0)
    with pytest.raises(GreamError, match="no user in common"):
        compare(
            evaluation(run, "few", np.full(3, 1), users=slice(0, 3)),
            evaluation(run, "rest", np.full(9, 1), users=slice(3, 12)),
            seed=0,
        )
    other = make_run(tmp_path / "other", users=12, seed=7)
    with pytest.raises(GreamError, match="is to find another item"):
        compare(first, evaluation(other, "one", np.full(12, 1)), seed=0)
    (first / "predictions.parquet").unlink()
    pl.DataFrame({"user": [1]}).write_parquet(first / "predictions.parquet")
    with pytest.raises(GreamError, match="no table with"):
        compare(first, run / "eval" / "few", seed=0)
