"""Who is asked what: nothing of the target or what follows it is in a history."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from eval_support import make_run
from gream.errors import GreamError
from gream.protocol import Protocol, held_out, read_interactions, training_matrix

from eval.results import read_result
from eval.stages import evaluate_baselines

ROWS = [
    (7, 10, 0, "train"),
    (7, 11, 1, "train"),
    (7, 12, 2, "valid"),
    (7, 13, 3, "test"),
    (2, 5, 0, "valid"),
    (2, 6, 1, "test"),
    (3, 9, 0, "test"),
]
TABLE = pl.DataFrame(ROWS, schema=["user", "item", "position", "split"], orient="row")


def test_a_test_history_holds_the_validation_item_and_a_validation_history_does_not() -> None:
    test, valid = held_out(TABLE, "test"), held_out(TABLE, "valid")
    assert (test.users.tolist(), test.targets.tolist()) == ([2, 7], [6, 13])
    assert test.histories == ((5,), (10, 11, 12))
    # User 2 has nothing before the validation item, user 3 nothing before the test item.
    assert (valid.users.tolist(), valid.targets.tolist(), valid.histories) == ([7], [12], ((10, 11),))


def test_training_matrix_holds_the_training_split_alone() -> None:
    assert training_matrix(TABLE, 14).tolist() == [[0, 0], [10, 11]]
    with pytest.raises(GreamError, match=r"names item 13, but index\.json ends at item 12"):
        training_matrix(TABLE, 13)


def test_a_sample_is_drawn_by_seed_and_in_order(tmp_path: Path) -> None:
    cases = held_out(read_interactions(make_run(tmp_path / "run") / "interactions.parquet"), "test")
    one = cases.sample(9, seed=0)
    assert one.users.tolist() == sorted(set(one.users.tolist())) == cases.sample(9, seed=0).users.tolist()
    assert one.users.tolist() != cases.sample(9, seed=1).users.tolist()
    whole = dict(zip(cases.users.tolist(), cases.histories, strict=True))
    assert all(whole[user] == history for user, history in zip(one.users.tolist(), one.histories, strict=True))
    with pytest.raises(GreamError, match="--users 25: 1 to 24 needed"):
        cases.sample(25, seed=0)


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "interactions.parquet"
    with pytest.raises(GreamError, match=r"interactions\.parquet: no table with the columns user, item"):
        read_interactions(path)
    pl.DataFrame({"user": [1]}).write_parquet(path)
    with pytest.raises(GreamError, match=r"interactions\.parquet: no table"):
        read_interactions(path)
    with pytest.raises(GreamError, match="no user has a valid item"):
        held_out(TABLE.filter(pl.col("split") != "valid"), "valid")


def test_targets_that_share_their_time_are_left_out_by_name(tmp_path: Path) -> None:
    tied = TABLE.with_columns(pl.Series("tied", [False, False, True, True, False, False, False]))
    for split, users in (("test", [2, 7]), ("test-untied", [2]), ("valid", [7])):
        assert held_out(tied, split).users.tolist() == users  # type: ignore[arg-type]
    with pytest.raises(GreamError, match="no user has a valid-untied item"):
        held_out(tied, "valid-untied")
    # Nothing is known of ties in published data.
    before = read_interactions(make_run(tmp_path / "run") / "interactions.parquet")
    with pytest.raises(GreamError, match=r"does not say which targets share .*take --split test, or"):
        held_out(before, "test-untied")


def test_a_baseline_without_ties_has_its_own_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    table = pl.read_parquet(run / "interactions.parquet")
    table.with_columns((pl.col("user") % 3 == 0).alias("tied")).write_parquet(run / "interactions.parquet")
    done = list(evaluate_baselines(run, protocol=Protocol(untied=True), seed=0, command="test", overwrite=False))
    assert done[0].name == "eval-popularity-untied"
    result = read_result(run / "eval" / "popularity-untied" / "metrics.json")
    assert (result.split, result.users) == ("test-untied", 16)
