"""Lists made elsewhere: every form of them against ir-measures, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import ir_measures
import numpy as np
import polars as pl
import pytest
from eval_support import make_run
from gream.errors import GreamError
from gream.protocol import Cases, Protocol, held_out, read_interactions
from ir_measures import RR, P, R, Success, nDCG
from rich.console import Console

from eval.compare import compare
from eval.lists import import_lists, read_entries
from eval.metrics import CUTOFFS, cutoffs_with
from eval.report.stage import write_report
from eval.results import Result, read_results
from eval.stages import evaluate_baselines
from eval.table import print_table

ITEMS, LENGTH = 64, 50
AT = (1, 5, 10, 20, 50)

Lists = dict[str, list[str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", items=ITEMS)


def cases_of(run: Path) -> Cases:
    return held_out(read_interactions(run / "interactions.parquet"), "test")


def lists_of(run: Path, length: int = LENGTH) -> Lists:
    random = np.random.default_rng(0)
    items = pl.read_parquet(run / "items.parquet")["item_id"].to_list()
    users = pl.read_parquet(run / "users.parquet")["user_id"].to_list()
    return {users[user]: random.permutation(items)[:length].tolist() for user in cases_of(run).users.tolist()}


def write(path: Path, lists: Lists) -> Path:
    """In the form that the name says, with the lines in an order that tells nothing where rank or score does."""
    rows = [(user, item, rank, 99.0 - rank) for user, own in lists.items() for rank, item in enumerate(own, start=1)]
    shuffled = [rows[at] for at in np.random.default_rng(1).permutation(len(rows))]
    if path.suffix == ".run":
        path.write_text("".join(f"{user} Q0 {item} {rank} {score} x\n" for user, item, rank, score in shuffled))
    elif path.suffix == ".parquet":
        pl.DataFrame(shuffled, schema=["user", "item", "rank", "more"], orient="row").write_parquet(path)
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream, delimiter="," if path.suffix == ".csv" else "\t")
            if path.suffix == ".csv":
                writer.writerows(
                    [("score", "user", "item"), *((score, user, item) for user, item, _, score in shuffled)]
                )
            else:
                writer.writerows([("user", "item"), *((user, item) for user, item, *_ in rows)])
    return path


def imported(run: Path, path: Path, name: str = "theirs", *, at: tuple[int, ...] = AT, partial: bool = False) -> Result:
    import_lists(
        run, path, name, cutoffs_with(at), "test", partial=partial, seed=0, command="import", overwrite=True, keep=False
    )
    return next(result for result in read_results(run) if result.name == name)


def test_semicolons_and_numbers_written_as_fractions(run: Path, tmp_path: Path) -> None:
    numbers = {f"{user}.0": [f"{item}.0" for item in range(LENGTH)] for user in range(3)}
    lines = [f"{user};{item}\n" for user, own in numbers.items() for item in own]
    path = tmp_path / "theirs.csv"
    path.write_text("".join(["user;item\n", *lines]))
    entries = list(read_entries(path))
    assert [(entry.user, entry.item) for entry in entries[:2]] == [("0.0", "0.0"), ("0.0", "1.0")]
    users = pl.read_parquet(run / "users.parquet").with_columns(pl.col("user").cast(pl.String).alias("user_id"))
    items = pl.read_parquet(run / "items.parquet").with_columns(pl.col("item").cast(pl.String).alias("item_id"))
    users.write_parquet(run / "users.parquet")
    items.write_parquet(run / "items.parquet")
    assert imported(run, path, partial=True).users == 3


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "run"])
def test_figures_are_those_of_ir_measures(run: Path, tmp_path: Path, kind: str) -> None:
    lists, cases = lists_of(run), cases_of(run)
    users = pl.read_parquet(run / "users.parquet")["user_id"].to_list()
    items = pl.read_parquet(run / "items.parquet")["item_id"].to_list()
    pairs = zip(cases.users.tolist(), cases.targets.tolist(), strict=True)
    qrels = [ir_measures.Qrel(users[user], items[target], 1) for user, target in pairs]
    scored = [
        ir_measures.ScoredDoc(user, item, float(-rank)) for user, own in lists.items() for rank, item in enumerate(own)
    ]
    oracle = {"mrr": RR @ 10}
    for cutoff in AT:
        oracle |= {f"recall@{cutoff}": R @ cutoff, f"hit@{cutoff}": Success @ cutoff, f"precision@{cutoff}": P @ cutoff}
        oracle |= {f"ndcg@{cutoff}": nDCG @ cutoff} if cutoff > 1 else {}
    expected = ir_measures.calc_aggregate(list(oracle.values()), qrels, scored)
    result = imported(run, write(tmp_path / f"lists.{kind}", lists))
    assert result.metrics.keys() == oracle.keys()
    assert 0.3 < result.metrics["recall@50"].value < 1
    for metric, measured in oracle.items():
        assert result.metrics[metric].value == pytest.approx(expected[measured], abs=1e-12), metric
    assert (result.mode, result.k, result.users, result.history) == ("imported", 50, len(lists), "allowed")


def test_baselines_are_measured_at_longer_cutoffs_too(run: Path) -> None:
    def popular(cutoffs: tuple[int, ...]) -> Result:
        asked = Protocol(cutoffs=cutoffs)
        list(evaluate_baselines(run, protocol=asked, seed=0, command="baselines", overwrite=True, keep=False))
        return next(result for result in read_results(run) if result.name == "popularity")

    usual, longer = popular(CUTOFFS), popular(AT)
    assert (usual.k, longer.k) == (10, 50)
    assert all(longer.metrics[name].value == usual.metrics[name].value for name in usual.metrics)
    assert longer.metrics["recall@50"].value > longer.metrics["recall@10"].value


def test_lists_enter_table_comparison_and_report(run: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "lists.csv", lists_of(run))
    imported(run, path)
    list(evaluate_baselines(run, protocol=Protocol(), seed=0, command="baselines", overwrite=False, keep=False))
    console = Console(record=True, width=100)
    print_table(read_results(run), None, console)
    assert "theirs" in console.export_text()
    comparison = compare(run / "eval" / "popularity", run / "eval" / "theirs", seed=0)
    longer = imported(run, path, "shorter", at=())
    assert longer.k == 10
    same = compare(run / "eval" / "shorter", run / "eval" / "theirs", seed=0).groups[0].metrics
    assert all(metric.difference.value == 0 for metric in same.values())
    assert comparison.groups[0].users == 24
    write_report(run, overwrite=False, keep=False)
    assert "imported" in (run / "report.html").read_text(encoding="utf-8")


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    lists = lists_of(run, 12)
    first, second = list(lists)[:2]

    def said(text: str, lists: Lists, name: str = "lists.tsv", **more: object) -> None:
        with pytest.raises(GreamError, match=text):
            imported(run, write(tmp_path / name, lists), at=(), **more)  # type: ignore[arg-type]

    own = lists[first]
    said(r"lists.tsv:4: item 'B000x1' is not in the data; did you mean 'B0", {**lists, first: [*own[:2], "B000x1"]})
    said(r"lists.tsv:2: user 'A<00>' is not in the data; did you mean 'A<", {"A<00>": own, **lists})
    said(rf"lists.tsv:4: item '{own[0]}' stands twice in the list of user '{first}'", {first: [*own[:2], own[0]]})
    said(rf"1 of 24 users have no list, among them '{second}'", {k: v for k, v in lists.items() if k != second})
    said(rf"1 lists have fewer than 10 items, that of user '{first}' has 9", {**lists, first: own[:9]})
    assert imported(run, write(tmp_path / "some.tsv", {first: own}), at=(), partial=True).users == 1
    (tmp_path / "bad.csv").write_text("user,product\nA,B\n")
    (tmp_path / "cut.csv").write_text("user,item,rank\nA,B\n")
    (tmp_path / "word.csv").write_text("user,item,rank\nA<0>,B00001,first\n")
    (tmp_path / "level.csv").write_text("user,item,rank\nA<0>,B00001,1\nA<1>,B00001,1\nA<0>,B00002,1.0\n")
    (tmp_path / "twice.csv").write_text("rank,user,item,rank\n1,A<0>,B00001,2\n")
    (tmp_path / "bad.run").write_text("A<0> B00001 1\n")
    (tmp_path / "lists.json").write_text("{}")
    for name, text in (
        ("bad.csv", "bad.csv: has no column 'item', but 'user', 'product'"),
        ("cut.csv", "cut.csv:2: 2 fields where the header has 3"),
        ("word.csv", "word.csv:2: 'first' is no number"),
        ("level.csv", "level.csv:4: rank 1 stands twice in the list of user 'A<0>'"),
        ("twice.csv", "twice.csv: has 2 columns 'rank'; keep one"),
        ("bad.run", "bad.run:1: 3 fields; a TREC run has user, Q0, item, rank, score, tag"),
        ("lists.json", "lists are .csv, .tsv or .parquet, or a TREC run"),
    ):
        with pytest.raises(GreamError, match=text):
            imported(run, tmp_path / name)
