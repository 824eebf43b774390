"""Tables between stages: sequences in arrays, rows read when asked for, and stages whose memory does not hold rows."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import level_token
from gream.tasks import read_records
from hypothesis import given
from hypothesis import strategies as st

from data_processing.config import RlConfig, SftConfig
from data_processing.rows.rl import build_rl
from data_processing.rows.sft import build_sft
from data_processing.tables import JsonlTable, Sequences, read_sequences, write_rows
from data_processing.teacher import filters
from data_processing.teacher.enrich import enrich

mappings = st.dictionaries(st.integers(0, 50), st.lists(st.integers(0, 9), max_size=6), max_size=8)


@given(plain=mappings, by=st.integers(0, 3), least=st.integers(0, 4), some=st.sets(st.integers(0, 50)))
def test_sequences_in_arrays_are_the_mapping_that_they_were_made_of(
    plain: dict[int, list[int]], by: int, least: int, some: set[int]
) -> None:
    sequences = Sequences.of(plain)
    assert sequences == plain
    assert list(sequences) == sorted(plain)
    assert 51 not in sequences
    assert sequences.shortened(by) == {user: items[: max(0, len(items) - by)] for user, items in plain.items()}
    shorter = {user: items[: max(0, len(items) - by)] if user in some else items for user, items in plain.items()}
    assert sequences.shortened(by, some) == shorter
    rows, positions = sequences.shortened(by, some).targets(least)
    assert list(zip(sequences.users[rows].tolist(), positions.tolist(), strict=True)) == [
        (user, position) for user in sorted(shorter) for position in range(least, len(shorter[user]))
    ]


def test_rows_of_a_file_are_read_by_their_number(tmp_path: Path) -> None:
    path = tmp_path / "preferences.jsonl"
    rows = [{"user": user, "text": text, "more": 1} for user, text in ((7, "é\u2028"), (2, ""), (9, "last"))]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    table = JsonlTable(path, "user", ("text",))
    assert dict(table) == {row["user"]: {"text": row["text"]} for row in rows}
    assert 8 not in table
    path.write_text('{"user": 1}\n[]\n', encoding="utf-8")
    with pytest.raises(GreamError, match=r"preferences.jsonl:2: a JSON object with user is expected"):
        JsonlTable(path, "user", ())
    path.write_text("")
    assert not JsonlTable(path, "user", ())


def test_rows_are_written_in_order_whatever_their_number(tmp_path: Path) -> None:
    for count in (0, 1, 9000):
        write_rows(tmp_path / "t.parquet", ({"a": number} for number in range(count)), {"a": pl.Int64})
        assert pl.read_parquet(tmp_path / "t.parquet")["a"].to_list() == list(range(count))


def test_a_refit_has_rows_of_the_validation_items_and_none_of_the_test_items(tmp_path: Path) -> None:
    users, items = 9, 90
    own = np.random.default_rng(0).permutation(items).reshape(users, 10)
    pl.DataFrame(
        {
            "user": np.repeat(np.arange(users), 10),
            "item": own.reshape(-1),
            "position": list(range(10)) * users,
            "split": (["train"] * 8 + ["valid", "test"]) * users,
        }
    ).write_parquet(tmp_path / "interactions.parquet")
    texts = {"item_id": [f"i{item}" for item in range(items)], "title": [f"Title {item}" for item in range(items)]}
    columns = {"item": range(items), **texts, "description": [""] * items, "brand": ["B"] * items}
    pl.DataFrame(columns | {"categories": [["Things"]] * items}).write_parquet(tmp_path / "items.parquet")
    index = tmp_path / "index.json"
    Catalog([[level_token(0, item // 10), level_token(1, item % 10)] for item in range(items)]).save(index)
    enrich(RlConfig(), 1, tmp_path / "interactions.parquet", tmp_path / "items.parquet", tmp_path)
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("enriched", "preferences")}
    paths |= {name: tmp_path / f"{name}.parquet" for name in ("interactions", "items")}
    for refit, shown in ((False, 8), (True, 9)):
        rows = SftConfig(refit=refit, sequence=True, id_to_text=0, text_to_id=0, search=0, preference=0)
        build_sft(rows, RlConfig(), 1, **paths, index=index, chains=None, out=tmp_path)  # type: ignore[arg-type]
        records = read_records(tmp_path / "sft" / "alignment_records.jsonl")
        named = {item for record in records for item in (*record["history"], record["item"]) if item >= 0}
        assert named == set(own[:, :shown].reshape(-1).tolist())
    with pytest.raises(ValueError, match="refit needs search and preference at 0"):
        SftConfig(refit=True)


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_rows_are_made_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user takes less of the memory than two of the thirty rows that are written about the user."""
    # A cache of a hundred thousand texts, which does not grow any more with a million users, would with a hundred.
    monkeypatch.setattr(filters, "words_of", filters.words_of.__wrapped__)
    random, items = np.random.default_rng(0), 30
    pl.DataFrame(
        {
            "item": range(items),
            "item_id": [f"i{item}" for item in range(items)],
            "title": [f"Title {item} of a thing" for item in range(items)],
            "description": [""] * items,
            "brand": [f"Brand{item % 5}" for item in range(items)],
            "categories": [["Things", f"Kind{item % 7}"] for item in range(items)],
        }
    ).write_parquet(tmp_path / "items.parquet")
    Catalog([[level_token(0, item // 8), level_token(1, item % 8)] for item in range(items)]).save(
        tmp_path / "index.json"
    )

    def peaks(users: int) -> tuple[int, int]:
        split = ["train"] * 8 + ["valid", "test"]
        pl.DataFrame(
            {
                "user": np.repeat(np.arange(users), 10),
                "item": random.integers(0, items, 10 * users),
                "position": list(range(10)) * users,
                "split": split * users,
            }
        ).write_parquet(tmp_path / "interactions.parquet")
        enrich(RlConfig(), 1, tmp_path / "interactions.parquet", tmp_path / "items.parquet", tmp_path)
        paths = {name: tmp_path / f"{name}.jsonl" for name in ("enriched", "preferences")}
        paths |= {name: tmp_path / f"{name}.parquet" for name in ("interactions", "items")}
        index = tmp_path / "index.json"
        sft = _peak(
            lambda: build_sft(SftConfig(), RlConfig(), 1, **paths, index=index, chains=None, out=tmp_path)  # type: ignore[arg-type]
        )
        return sft, _peak(lambda: build_rl(RlConfig(), 20, 1, paths["interactions"], index, tmp_path))

    peaks(20)  # what is imported and cached once
    few, many = peaks(300), peaks(500)  # some rows are made at once: as many for both
    assert len(read_sequences(tmp_path / "interactions.parquet")) == 500
    for less, more in zip(few, many, strict=True):
        assert (more - less) / 200 < 3_000
