"""Tables as people export them: what their lines say is what is read, or the line is named."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gream.errors import GreamError
from gream.tables import read_table

from data_processing.interactions import InteractionsConfig, build_interactions
from data_processing.readers import source_of
from data_processing.readers.formats import Columns

READ = source_of("table", Columns(title="title"))


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("lines", "titles"),
    [
        (('1,Pipe 5"', "2,Cup", '3,Hose 3" or 4"'), ['Pipe 5"', "Cup", 'Hose 3" or 4"']),
        (
            ('1,"Nuts, bolts"', '2,5" pipe', '3,"Two', 'lines, ""quoted"""'),
            ["Nuts, bolts", '5" pipe', 'Two\nlines, "quoted"'],
        ),
        (("1,Tea,", "2,Cup,,"), ["Tea", "Cup"]),
        (("1", "2,Cup"), [None, "Cup"]),
    ],
)
def test_quotation_marks_and_ends_of_lines(tmp_path: Path, lines: tuple[str, ...], titles: list[str | None]) -> None:
    items = READ.read_metadata(write(tmp_path / "m.csv", "item_id,title", *lines))
    assert items["title"].to_list() == titles
    assert items["item_id"].to_list() == [str(number + 1) for number in range(len(titles))]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("1,Tea", "2,Nuts, bolts, screws"), r"m\.csv:3: 4 values where 2 are expected; put quotation marks"),
        (("1,Tea", '2,"Pipe 5" long"', "3,Cup"), r"m\.csv:3: not valid CSV"),
        (("1,Tea", '2,"Pipe', "3,Cup"), r"m\.csv:3: not valid CSV"),
    ],
)
def test_a_line_that_cannot_be_told_apart_is_named(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(GreamError, match=said):
        READ.read_metadata(write(tmp_path / "m.csv", "item_id,title", *lines))


def test_a_delimiter_within_a_value_moves_no_time(tmp_path: Path) -> None:
    lines = ("user_id,item_id,name,quantity,timestamp", "A,x,Tea,1,1600000000", "A,y,Nuts, bolts,1,1600000001")
    with pytest.raises(GreamError, match=r"r\.csv:3: 6 values where 5 are expected"):
        READ.read_reviews(write(tmp_path / "r.csv", *lines))


def test_rows_of_such_a_file_keep_their_places(tmp_path: Path) -> None:
    """Blank lines count, and a wrong value is named by its line."""
    lines = ("user_id,item_id,note,timestamp", 'A,x,5" pipe,1600000000', "", "B,y,,1600000001", "C,z,,soon")
    path = write(tmp_path / "r.csv", *lines)
    with pytest.raises(GreamError, match=r"r\.csv:5: column 'timestamp' must hold"):
        READ.read_reviews(path)
    found = READ.read_reviews(write(path, *lines[:-1]))
    assert found.select("row", "user_id", "item_id").rows() == [(0, "A", "x"), (2, "B", "y")]


def test_nested_columns_of_parquet(tmp_path: Path) -> None:
    """Of lists of lists, as Amazon writes categories, the first; of anything else, one line."""
    path = tmp_path / "m.parquet"
    table: dict[str, Any] = {"item_id": ["1", "2"], "title": ["Tea", "Cup"]}
    pq.write_table(pa.table(table | {"categories": [[["Food", "Tea"], ["Gifts"]], [["Home"]]]}), path)
    source = source_of("table", Columns(title="title", categories="categories"))
    assert source.read_metadata(path)["category"].to_list() == [["Food", "Tea"], ["Home"]]
    pq.write_table(pa.table(table | {"categories": [[{"id": 1}], [{"id": 2}]]}), path)
    with pytest.raises(GreamError, match=r"m\.parquet: column 'categories' holds List\(Struct.*write it as text"):
        source.read_metadata(path)


def test_compressed_parquet_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["1"], "title": ["Tea"]}), tmp_path / "m.parquet")
    (tmp_path / "m.parquet.gz").write_bytes(gzip.compress((tmp_path / "m.parquet").read_bytes()))
    with pytest.raises(GreamError, match=r"m\.parquet\.gz: Parquet within another compression; unpack it"):
        READ.read_metadata(tmp_path / "m.parquet.gz")


def test_times_of_parquet_with_an_offset(tmp_path: Path) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    moments = pa.array([datetime(2021, 3, 2, 17, 30, tzinfo=zone)], pa.timestamp("us", "+05:30"))
    pq.write_table(pa.table({"user_id": ["A"], "item_id": ["x"], "timestamp": moments}), tmp_path / "r.parquet")
    expected = int(datetime(2021, 3, 2, 12, tzinfo=UTC).timestamp()) * 10**9
    assert READ.read_reviews(tmp_path / "r.parquet")["timestamp"].to_list() == [expected]


def test_items_that_the_metadata_lack_are_counted_and_warned_of(tmp_path: Path) -> None:
    """One spelling of letters with marks; ids in other capitals are other ids, and that is said."""
    items = ("cafe\u0301", "b", "c", "D")
    rows = [f"u{user},{item},{1_600_000_000 + place}" for user in range(60) for place, item in enumerate(items)]
    reviews = write(tmp_path / "r.csv", "user_id,item_id,timestamp", *rows)
    metadata = write(tmp_path / "m.csv", "item_id,title", "caf\u00e9,Coffee", "b,Tea", "c,Cup", "d,Pot")
    out = tmp_path / "out"
    out.mkdir()
    summary = build_interactions(
        InteractionsConfig(format="table", core=3, columns=Columns(title="title")), reviews, metadata, out
    )
    assert "60 interactions of items without metadata left out" in summary.made
    assert any("25% of the interactions are of items that the metadata do not" in line for line in summary.warnings)
    assert read_table(out / "items.parquet", "item_id")["item_id"].to_list() == ["b", "c", "caf\u00e9"]
