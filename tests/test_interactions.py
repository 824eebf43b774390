"""From reviews to sequences: filters, order, split and files, against hand-made, naive and published figures."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import ROOT
from gream.config import parse_config
from gream.errors import GreamError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_processing.interactions import InteractionsConfig, build_interactions
from data_processing.sequences import k_core, leave_one_out, make_sequences

Review = tuple[str, str, int]  # user, item, seconds
TABLES = tuple(f"{name}.parquet" for name in ("interactions", "users", "items", "reviews"))
OUTPUTS = (*TABLES, "statistics.json", "statistics.md")


def dump(folder: Path, reviews: list[Review], described: list[str]) -> tuple[Path, Path]:
    """Write both files of a dump; the text of a review tells which line it is."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"reviewerID": user, "asin": item, "unixReviewTime": time, "summary": "", "reviewText": f"line {line}"}
        for line, (user, item, time) in enumerate(reviews)
    ]
    items = [{"asin": item, "title": f"Title {item}", "category": ["All"]} for item in described]
    paths = folder / "reviews.json.gz", folder / "meta.json.gz"
    for path, content in zip(paths, (rows, items), strict=True):
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in content).encode()))
    return paths


def build(folder: Path, reviews: list[Review], described: list[str], **config: Any) -> Path:
    paths = dump(folder, reviews, described)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    build_interactions(InteractionsConfig(**{"min_users": 1, **config}), *paths, out)
    return out


def test_a_shop_by_hand(tmp_path: Path) -> None:
    three = [("U2", item, 5) for item in ("I3", "I1", "I2")] + [("U1", item, 9) for item in ("I2", "I3")]
    reviews: list[Review] = [
        ("U1", "I9", 1),  # item without metadata
        *three,
        ("U1", "I1", 2),
        ("U2", "I3", 8),  # a repetition
        ("U3", "I1", 4),
        ("U3", "I2", 3),
        ("U3", "I3", 2),
        ("U4", "I1", 1),  # too few
        ("U3", "I4", 1),  # an item of one user, which would have been the first of the sequence
    ]
    out = build(tmp_path, reviews, ["I4", "I3", "I2", "I1", "I5"], core=3)
    assert pl.read_parquet(out / "users.parquet").rows() == [(0, "U1"), (1, "U2"), (2, "U3")]
    items = pl.read_parquet(out / "items.parquet")
    assert items.select("item", "item_id", "title").rows() == [(n, f"I{n + 1}", f"Title I{n + 1}") for n in range(3)]
    assert pl.read_parquet(out / "interactions.parquet").rows() == [
        (0, 0, 2, 0, "train", False),
        (0, 1, 9, 1, "valid", True),  # same second: order of the file
        (0, 2, 9, 2, "test", True),
        (1, 2, 5, 0, "train", True),
        (1, 0, 5, 1, "valid", True),
        (1, 1, 5, 2, "test", True),
        (2, 2, 2, 0, "train", False),
        (2, 1, 3, 1, "valid", False),
        (2, 0, 4, 2, "test", False),
    ]
    assert pl.read_parquet(out / "reviews.parquet").rows() == [(0, 0, "line 6"), (1, 2, "line 1"), (2, 2, "line 10")]
    statistics = json.loads((out / "statistics.json").read_text())
    assert statistics["source"] == {
        "dump": "amazon-2018",
        "reviews": "reviews.json.gz",
        "metadata": "meta.json.gz",
        "first": "1970-01-01",
        "last": "1970-01-01",
    }
    assert (statistics["users"], statistics["items"], statistics["interactions"]) == (3, 3, 9)
    assert (statistics["density"], statistics["sequence_lengths"]) == (1.0, {"3": 3})
    assert statistics["filters"] == {
        "raw": {"users": 4, "items": 5, "interactions": 13},
        "removed_without_metadata": {"users": 0, "items": 1, "interactions": 1},
        "removed_repetitions": {"users": 0, "items": 0, "interactions": 1},
        "removed_by_core": {"core": 3, "item_core": 3, "rounds": 1, "users": 1, "items": 1, "interactions": 2},
    }


def test_the_files_have_the_promised_types(tmp_path: Path) -> None:
    out = build(tmp_path, [(u, i, 1) for u in "abc" for i in "xyz"], list("xyz"), core=3)
    schema = pl.read_parquet(out / "interactions.parquet").schema
    assert dict(schema) == {
        "user": pl.Int32,
        "item": pl.Int32,
        "timestamp": pl.Int64,
        "position": pl.Int32,
        "split": pl.String,
        "tied": pl.Boolean,
    }
    assert dict(pl.read_parquet(out / "users.parquet").schema) == {"user": pl.Int32, "user_id": pl.String}
    assert dict(pl.read_parquet(out / "items.parquet").schema) == {
        "item": pl.Int32,
        **dict.fromkeys(("item_id", "title", "description", "brand"), pl.String),
        "categories": pl.List(pl.String),
    }
    reviews = pl.read_parquet(out / "reviews.parquet").schema
    assert dict(reviews) == {"user": pl.Int32, "item": pl.Int32, "text": pl.String}


def naive(reviews: list[Review], described: list[str], core: int) -> list[tuple[str, str, int, int, str, str]]:
    """The method's rules, one after the other, in plain Python."""
    known = [(user, time, line, item) for line, (user, item, time) in enumerate(reviews) if item in described]
    distinct: dict[tuple[str, str], tuple[str, int, int, str]] = {}
    for row in sorted(known):
        distinct.setdefault((row[0], row[3]), row)
    rows = list(distinct.values())
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[3] for row in rows)
        left = [row for row in rows if users[row[0]] >= core and items[row[3]] >= core]
        if left == rows:
            break
        rows = left
    result = []
    for user in sorted({row[0] for row in rows}):
        own = [row for row in rows if row[0] == user]
        for position, (_, time, line, item) in enumerate(own):
            split = {len(own) - 1: "test", len(own) - 2: "valid"}.get(position, "train")
            result.append((user, item, time, position, split, f"line {line}"))
    return result


# Few users, items and days: pairs repeat, most reviews share their day with others, and the core has to iterate.
DUMPS = st.lists(
    st.tuples(st.sampled_from("ABCDEF"), st.sampled_from("uvwxyz"), st.integers(0, 3)), min_size=1, max_size=60
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DUMPS, st.sets(st.sampled_from("uvwxyz"), min_size=1))
def test_agrees_with_the_naive_rules(tmp_path: Path, reviews: list[Review], described: set[str]) -> None:
    expected = naive(reviews, sorted(described), 3)
    if not expected:
        with pytest.raises(GreamError, match=r"0 users remain after the 3-core|describes none of the"):
            build(tmp_path, reviews, sorted(described), core=3)
        return
    out = build(tmp_path, reviews, sorted(described), core=3)
    users = dict(pl.read_parquet(out / "users.parquet").rows())
    items = dict(pl.read_parquet(out / "items.parquet").select("item", "item_id").rows())
    assert list(users.values()) == sorted(users.values())
    assert list(items.values()) == sorted(items.values())
    got = [(users[row[0]], items[row[1]], *row[2:]) for row in pl.read_parquet(out / "interactions.parquet").rows()]
    assert [row[:5] for row in got] == [row[:5] for row in expected]
    moments = Counter((row[0], row[2]) for row in expected)
    assert [row[5] for row in got] == [moments[row[0], row[2]] > 1 for row in expected]
    # Texts of training interactions, of the review that counted, and of no other.
    texts = [(users[user], items[item], text) for user, item, text in pl.read_parquet(out / "reviews.parquet").rows()]
    assert texts == [(row[0], row[1], row[5]) for row in expected if row[4] == "train"]


@settings(max_examples=100)
@given(st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=60), st.integers(1, 5), st.randoms())
def test_the_core_is_the_largest_and_does_not_depend_on_order(
    pairs: set[tuple[int, int]], k: int, random_: Any
) -> None:
    order = sorted(pairs)
    schema = {"user": pl.Int64, "item": pl.Int64}
    core = set(k_core(pl.DataFrame(order, schema=schema, orient="row"), k).frame.rows())
    users, items = Counter(user for user, _ in core), Counter(item for _, item in core)
    assert all(users[user] >= k and items[item] >= k for user, item in core)
    random_.shuffle(order)
    assert set(k_core(pl.DataFrame(order, schema=schema, orient="row"), k).frame.rows()) == core
    # Peeling one pair at a time ends at the same set, so nothing was removed in vain.
    left = set(pairs)
    while True:
        users, items = Counter(user for user, _ in left), Counter(item for _, item in left)
        weak = next((pair for pair in sorted(left) if users[pair[0]] < k or items[pair[1]] < k), None)
        if weak is None:
            break
        left.discard(weak)
    assert left == core


def test_the_core_counts_its_rounds() -> None:
    """Dropping a user drops an item, which drops the next user: a chain that takes one round per link."""
    pairs = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]
    core = k_core(pl.DataFrame(pairs, schema=["user", "item"], orient="row"), 2)
    assert (len(core.frame), core.rounds) == (0, 3)


# Pairs of a few users and items, many of them at the same moment.
TIED = st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("vwxyz"), st.integers(0, 1)), max_size=40).map(
    lambda rows: [*rows, *((user, item, 1) for user in "ABC" for item in "xyz")]
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TIED, st.randoms(), st.sampled_from(["item", "random"]))
def test_item_and_chance_do_not_ask_where_a_review_stands(
    tmp_path: Path, reviews: list[Review], random_: Any, rule: str
) -> None:
    def sequences(rows: list[Review], seed: int) -> list[tuple[str, str, int]]:
        table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").with_row_index("row")
        made = make_sequences(table, pl.Series(list("vwxyz")), 3, rule, seed)  # type: ignore[arg-type]
        return [(made.users[user], made.items[item], tied) for user, item, tied in made.frame[:, [1, 2, 4]].iter_rows()]

    first = sequences(reviews, 7)
    random_.shuffle(reviews)
    assert sequences(reviews, 7) == first
    if rule == "item":
        earliest: dict[tuple[str, str], int] = {}
        for user, item, time in reviews:
            earliest[user, item] = min(time, earliest.get((user, item), time))
        assert [row[:2] for row in first] == sorted(
            (row[:2] for row in first), key=lambda row: (row[0], earliest[row], row[1])
        )


def test_chance_differs_from_user_to_user_and_from_seed_to_seed() -> None:
    rows = [(f"U{user}", f"I{item}", 0) for user in range(30) for item in range(5)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").with_row_index("row")
    orders = []
    for seed in (1, 2):
        frame = make_sequences(table, pl.Series([f"I{n}" for n in range(5)]), 3, "random", seed).frame
        orders.append([tuple(own["item"]) for own in frame.partition_by("user", maintain_order=True)])
    assert len(set(orders[0])) > 15
    assert sum(one == two for one, two in zip(*orders, strict=True)) < 5
    # No item is drawn last more often than chance has it: of 60 sequences, 12 each.
    last = Counter(order[-1] for order in orders[0] + orders[1])
    assert max(last.values()) < 25


def test_ties_are_counted_and_warned_of(tmp_path: Path) -> None:
    """Ten users with four items: the last two at one moment for three of them, the middle two for one more."""
    # From 1973 on, so that nothing else is said of the times.
    reviews = [(f"U{user}", f"I{item}", item) for user in range(10) for item in range(4)]
    reviews = [
        (user, item, 3 if item == "I2" and user in ("U0", "U1", "U2") else 2 if (user, item) == ("U3", "I1") else time)
        for user, item, time in reviews
    ]
    later = [(user, item, time + 10**8) for user, item, time in reviews]
    paths = dump(tmp_path, later, [f"I{item}" for item in range(4)])
    out = tmp_path / "out"
    out.mkdir()
    summary = build_interactions(InteractionsConfig(core=3, min_users=1), *paths, out)
    statistics = json.loads((out / "statistics.json").read_text())
    assert statistics["ties"] == {
        "rule": "place in the dump",
        "validation_targets": 4,
        "validation_share": 0.4,
        "test_targets": 3,
        "test_share": 0.3,
    }
    assert "| test targets that share their time with a neighbour | 3 (30.0%) |" in (out / "statistics.md").read_text()
    assert len(summary.warnings) == 1
    assert "30% of the test and 40% of the validation targets" in summary.warnings[0]
    none = build_interactions(
        InteractionsConfig(core=3, min_users=1),
        *dump(tmp_path, [(u, i, int(i[1]) + 10**8) for u, i, _ in reviews if i != "I0"], ["I1", "I2", "I3"]),
        out,
    )
    assert none.warnings == ()
    known = [(user, item, int(item[1])) for user, item, _ in reviews if item != "I0"]
    places = dump(tmp_path, known, ["I1", "I2", "I3"])
    (said,) = build_interactions(InteractionsConfig(core=3, min_users=1), *places, out).warnings
    assert "all times lie between 1970-01-01 and 1970-01-01" in said


def test_two_interactions_cannot_be_split() -> None:
    frame = pl.DataFrame({"user": [0, 0, 0, 7, 7]})
    with pytest.raises(GreamError, match=r"user 7 has fewer than 3 interactions"):
        leave_one_out(frame)
    with pytest.raises(GreamError, match=r"'core'.*greater than or equal to 3"):
        parse_config(InteractionsConfig, {"core": 2}, source="recipe.yaml")


def test_metadata_of_another_shop(tmp_path: Path) -> None:
    with pytest.raises(GreamError, match=r"meta.json.gz: describes none of the 3 items reviewed in .*reviews.json.gz"):
        build(tmp_path, [(u, i, 1) for u in "abc" for i in "xyz"], ["other"])


def test_too_few_users(tmp_path: Path) -> None:
    with pytest.raises(GreamError, match=r"3 users remain after the 3-core, fewer than min_users 4; .*lower") as caught:
        build(tmp_path, [(u, i, 1) for u in "abc" for i in "xyz"], list("xyz"), core=3, min_users=4)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_same_bytes_whatever_the_number_of_threads(tmp_path: Path) -> None:
    reviews = [(f"U{n % 97}", f"I{n * n % 53}", n % 11) for n in range(6000)]
    paths = dump(tmp_path, reviews, [f"I{n}" for n in range(53)])
    code = (
        "import sys; from pathlib import Path;"
        "from data_processing.interactions import InteractionsConfig, build_interactions as build;"
        "build(InteractionsConfig(), *map(Path, sys.argv[1:]))"
    )
    contents = []
    for threads in ("1", "3"):
        out = tmp_path / threads
        out.mkdir()
        search = os.pathsep.join((str(ROOT), str(ROOT / "plugins")))
        environment = {**os.environ, "POLARS_MAX_THREADS": threads, "PYTHONHASHSEED": threads, "PYTHONPATH": search}
        command = [sys.executable, "-c", code, *map(str, paths), str(out)]
        subprocess.run(command, check=True, env=environment)
        contents.append({name: (out / name).read_bytes() for name in OUTPUTS})
    assert contents[0] == contents[1]


def test_gift_cards(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "raw_amazon2018"
    build_interactions(
        InteractionsConfig(), folder / "Gift_Cards_5.json.gz", folder / "meta_Gift_Cards.json.gz", tmp_path
    )
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert (statistics["users"], statistics["items"], statistics["interactions"]) == (453, 147, 2941)
    assert statistics["filters"] == {
        "raw": {"users": 458, "items": 148, "interactions": 2972},
        "removed_without_metadata": {"users": 0, "items": 0, "interactions": 0},
        "removed_repetitions": {"users": 0, "items": 0, "interactions": 7},
        "removed_by_core": {"core": 5, "item_core": 5, "rounds": 2, "users": 5, "items": 1, "interactions": 24},
    }
    assert (statistics["ties"]["test_targets"], statistics["ties"]["rule"]) == (289, "place in the dump")
    splits = pl.read_parquet(tmp_path / "interactions.parquet")["split"].value_counts()
    assert dict(splits.rows()) == {"train": 2035, "valid": 453, "test": 453}


def test_the_benchmark_agrees_with_plain_python() -> None:
    """Its reference is a second naive implementation, and it compares the rows of 20,000 reviews."""
    search = os.pathsep.join((str(ROOT), str(ROOT / "plugins")))
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "interactions.py")]
    command += ["--reviews", "20000", "--seconds", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": search})
    assert done.returncode == 0, done.stderr
    assert "same rows" in done.stdout
