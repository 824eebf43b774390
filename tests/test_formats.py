"""Every format of raw data: the same reviews make the same tables, and what is wrong is named by file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from backports import zstd
from gream.config import parse_config
from gream.errors import GreamError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_processing.interactions import InteractionsConfig, build_interactions
from data_processing.readers import source_of
from data_processing.readers.formats import Columns, check_format
from data_processing.readers.rows import RowLog
from data_processing.readers.text import clean_items

Review = tuple[str, str, int]  # user, item, seconds since 1970
Writer = Callable[[Path, list[Review], list[str]], tuple[Path, Path]]
# 2001-09-09, where seconds and milliseconds cannot be confused.
START = 1_000_000_000
SECOND = 10**9

PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}


def put(path: Path, content: bytes | str) -> Path:
    """Write a file, compressed as its name says."""
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(PACK.get(path.suffix, bytes)(raw))
    return path


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def csv_text(rows: list[tuple[Any, ...]], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def amazon_2018(folder: Path, reviews: list[Review], items: list[str]) -> tuple[Path, Path]:
    rows = [
        {"reviewerID": user, "asin": item, "unixReviewTime": time, "summary": "", "reviewText": f"line {line}"}
        for line, (user, item, time) in enumerate(reviews)
    ]
    about = [
        {"asin": item, "title": f"Title {item}", "description": ["Said"], "brand": "Moss", "category": ["All", "One"]}
        for item in items
    ]
    return put(folder / "r.json.gz", json_lines(rows)), put(folder / "m.json.gz", json_lines(about))


def amazon_2014(folder: Path, reviews: list[Review], items: list[str]) -> tuple[Path, Path]:
    about = [
        {
            "asin": item,
            "title": f"Title {item}",
            "description": "Said",
            "brand": "Moss",
            "categories": [["All", "One"], ["Other"]],
        }
        for item in items
    ]
    literals = "".join(f"{row!r}\n" for row in about)
    return amazon_2018(folder, reviews, items)[0], put(folder / "meta.json.zst", literals)


def amazon_2023(folder: Path, reviews: list[Review], items: list[str]) -> tuple[Path, Path]:
    rows = [
        {
            "user_id": user,
            "parent_asin": item,
            "asin": "variant",
            "timestamp": time * 1000 + 999,
            "title": "",
            "text": f"line {line}",
        }
        for line, (user, item, time) in enumerate(reviews)
    ]
    about = [
        {
            "parent_asin": item,
            "title": f"Title {item}",
            "description": [],
            "features": ["Said"],
            "store": "Moss",
            "categories": ["All", "One"],
        }
        for item in items
    ]
    return put(folder / "r.jsonl.zst", json_lines(rows)), put(folder / "m.jsonl", json_lines(about))


def table_csv(folder: Path, reviews: list[Review], items: list[str]) -> tuple[Path, Path]:
    rows = [("when", "who", "words", "what")]
    rows += [(str(time), user, f"line {line}", item) for line, (user, item, time) in enumerate(reviews)]
    about = [("sku", "name", "about", "maker", "path")]
    about += [(item, f"Title {item}", "Said", "Moss", "All|One") for item in items]
    return put(folder / "r.csv.gz", csv_text(rows)), put(folder / "m.csv", csv_text(about))


def table_parquet(folder: Path, reviews: list[Review], items: list[str]) -> tuple[Path, Path]:
    paths = folder / "r[0]*.parquet", folder / "m.parquet"
    users, names, times = (list(column) for column in zip(*reviews, strict=True))
    words = [f"line {line}" for line in range(len(reviews))]
    frame = pl.DataFrame({"who": users, "what": names, "when": times, "words": words})
    frame.with_columns(pl.from_epoch("when")).write_parquet(paths[0])
    pl.DataFrame(
        {
            "sku": items,
            "name": [f"Title {item}" for item in items],
            "about": [["Said"]] * len(items),
            "maker": "Moss",
            "path": [["All", "One"]] * len(items),
        }
    ).write_parquet(paths[1])
    return paths


NAMED = Columns(
    user="who",
    item="what",
    time="when",
    text="words",
    item_id="sku",
    title="name",
    description="about",
    brand="maker",
    categories="path",
)


def movielens_csv(folder: Path, reviews: list[Review], items: list[str]) -> tuple[Path, Path]:
    rows = [("userId", "movieId", "rating", "timestamp"), *((user, item, 3.5, time) for user, item, time in reviews)]
    movies = [("movieId", "title", "genres"), *((item, f"Title {item}", "All|One") for item in items)]
    return put(folder / "ratings.csv.zst", csv_text(rows)), put(folder / "movies.csv.gz", csv_text(movies))


FORMATS: dict[str, tuple[dict[str, Any], Writer]] = {
    "amazon-2014": ({"format": "amazon-2014"}, amazon_2014),
    "amazon-2023": ({"format": "amazon-2023"}, amazon_2023),
    "csv": ({"format": "table", "columns": NAMED}, table_csv),
    "parquet": ({"format": "table", "columns": NAMED}, table_parquet),
    "movielens": ({"format": "movielens"}, movielens_csv),
}


def build(folder: Path, config: dict[str, Any], paths: tuple[Path, Path]) -> dict[str, pl.DataFrame]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    build_interactions(InteractionsConfig(**{"core": 3, "min_users": 1, **config}), *paths, out)
    return {path.stem: pl.read_parquet(path) for path in sorted(out.glob("*.parquet"))}


# Enough for a 3-core in itself, so that no example is thrown away; days repeat, and so do pairs.
CORE = [(user, item, START + 2) for user in "ABC" for item in "xyz"]
REVIEWS = st.lists(
    st.tuples(st.sampled_from("ABCDE"), st.sampled_from("vwxyz"), st.integers(START, START + 3)), max_size=30
)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reviews=REVIEWS)
def test_every_format_makes_the_same_tables(tmp_path: Path, name: str, reviews: list[Review]) -> None:
    config, write = FORMATS[name]
    reviews, items = [*reviews, *CORE], list("wxyz")
    expected = build(tmp_path, {}, amazon_2018(tmp_path, reviews, items))
    got = build(tmp_path, config, write(tmp_path, reviews, items))
    if name == "movielens":  # titles and genres are all it has
        assert got["reviews"].is_empty()
        got["reviews"] = expected["reviews"]
        bare = {"description": pl.lit(""), "brand": pl.lit("")}
        expected["items"] = expected["items"].with_columns(**bare)
    for table, frame in expected.items():
        assert got[table].equals(frame), table


def test_movielens_100k_and_1m(tmp_path: Path) -> None:
    source = source_of("movielens", Columns())
    expected = [(0, "196", "242", 881250949 * SECOND), (1, "186", "302", 891717742 * SECOND)]
    data = put(tmp_path / "u.data.gz", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    dat = put(tmp_path / "ratings.dat", "196::242::3::881250949\n186::302::3::891717742\n")
    assert source.read_reviews(data).rows() == source.read_reviews(dat).rows() == expected
    flags = "|".join("1" if genre in (5, 7) else "0" for genre in range(19))
    item = put(tmp_path / "u.item", f"242|Les Misérables (1995)|01-Jan-1995||http://x|{flags}\n\n".encode("latin-1"))
    row = ("242", "Les Misérables (1995)", None, None)
    assert source.read_metadata(item).rows() == [(*row, ["Comedy", "Documentary"])]
    for encoding in ("latin-1", "utf-8"):
        movies = put(tmp_path / "movies.dat.zst", "242::Les Misérables (1995)::Comedy|Documentary\n".encode(encoding))
        assert source.read_metadata(movies).rows() == [(*row, ["Comedy", "Documentary"])]
    empty = put(tmp_path / "movies.csv", 'movieId,title,genres\n1,"Comma, The (1999)",(no genres listed)\n')
    assert source.read_metadata(empty).rows() == [("1", "Comma, The (1999)", [None], None, [])]


def test_a_table_may_have_gaps(tmp_path: Path) -> None:
    """Blank lines, quoted line ends, other delimiters, a mark of byte order, and nothing but ids and titles."""
    text = '\ufeffitem_id;title\n1;Tea\n\n2;"Two\nlines; quoted"\n1;Again\n'
    items = source_of("table", Columns(delimiter=";")).read_metadata(put(tmp_path / "m.csv", text))
    assert items.rows() == [("1", "Tea", [None], None, None), ("2", "Two\nlines; quoted", [None], None, None)]
    assert clean_items(items).frame["title"].to_list() == ["Tea", "Two lines; quoted"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "::"])
def test_the_first_line_shows_the_delimiter(tmp_path: Path, delimiter: str) -> None:
    """Set or not; a wrong one is told apart by name."""
    text = delimiter.join(("user_id", " item_id", "timestamp")) + "\n" + delimiter.join(("A", "x ", "5")) + "\n"
    path = put(tmp_path / "r.csv", text)
    for set_ in (None, delimiter):
        rows = source_of("table", Columns(delimiter=set_)).read_reviews(path).rows()
        assert rows == [(0, "A", "x", 5 * SECOND)]
    wrong = "~~" if delimiter == "," else ","
    with pytest.raises(GreamError) as caught:
        source_of("table", Columns(delimiter=wrong)).read_reviews(path)
    assert (
        f"it looks like {delimiter!r} stands between its values: set interactions.columns.delimiter={delimiter!r}"
        in (str(caught.value))
    )


def test_a_delimiter_of_several_characters(tmp_path: Path) -> None:
    path = put(tmp_path / "m.csv", 'item_id<>title\n1<>"Tea" of, sorts\n2<>Cup\n')
    items = source_of("table", Columns(delimiter="<>")).read_metadata(path)
    assert items["title"].to_list() == ['"Tea" of, sorts', "Cup"]
    bad = put(tmp_path / "r.csv", "user_id<>item_id<>timestamp\nA<>x<>5\nB<>x<>soon\n")
    with pytest.raises(GreamError, match=r"r\.csv:3: column 'timestamp' must hold .*found 'soon'"):
        source_of("table", Columns(delimiter="<>")).read_reviews(bad)


def test_what_cannot_be_seen_around_ids_and_above_names(tmp_path: Path) -> None:
    reviews = put(tmp_path / "r.csv", "\n\nuser_id,item_id,timestamp\n\u200bA\u200b,\ufeffx,5\n")
    assert source_of("table", Columns()).read_reviews(reviews).select("user_id", "item_id").row(0) == ("A", "x")


@pytest.mark.parametrize("delimiter", ["", '"', "\n", "a" * 9])
def test_an_impossible_delimiter(delimiter: str) -> None:
    raw = {"format": "table", "columns": {"delimiter": delimiter}}
    with pytest.raises(GreamError, match=r"key 'columns\.delimiter'.*one to eight characters") as caught:
        parse_config(InteractionsConfig, raw, source="recipe.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numbers_written_as_fractions_join(tmp_path: Path, kind: str) -> None:
    """As pandas writes them beside a missing value; where one id is no such number, all stay as they are."""
    reviews = pl.DataFrame({"user_id": [1.0, 2.0, 2.0**53], "item_id": [7.0, 8.0, 7.0], "timestamp": [1.0, 2.0, 3.0]})
    path = tmp_path / f"r.{kind}"
    reviews.write_csv(path) if kind == "csv" else reviews.write_parquet(path)
    frame = source_of("table", Columns()).read_reviews(path)
    assert (frame["item_id"].to_list(), frame["user_id"].to_list()[:2]) == (["7", "8", "7"], ["1", "2"])
    mixed = put(tmp_path / "v.csv", "user_id,item_id,timestamp\n1.0,7.0,1\n2.0,7.5,1\n")
    assert source_of("table", Columns()).read_reviews(mixed)["item_id"].to_list() == ["7.0", "7.5"]


def test_ids_that_do_not_join_are_shown(tmp_path: Path) -> None:
    reviews = put(tmp_path / "r.csv", csv_text([("user_id", "item_id", "timestamp"), ("A", "SKU-7", 1)]))
    items = put(tmp_path / "m.csv", csv_text([("item_id", "title"), ("7", "Tea")]))
    with pytest.raises(GreamError, match=r"m\.csv: describes none .*look like 'SKU-7', here like '7'; .*same shop"):
        build(tmp_path, {"format": "table"}, (reviews, items))


@pytest.mark.parametrize("kind", ["amazon-2018", "table", "movielens"])
def test_rows_of_no_use_are_refused_with_their_number_or_left_out(tmp_path: Path, kind: Any) -> None:
    good = [(user, item, START + 2) for user in "123" for item in "456"]
    bad: list[tuple[Any, Any, Any]] = [(None, "4", START), ("nan", "4", START), ("1", "", START), ("1", "5", "soon")]
    rows, items = [*good[:5], *bad, *good[5:]], list("456")
    if kind == "amazon-2018":
        table = [{"reviewerID": user, "asin": item, "unixReviewTime": time} for user, item, time in rows]
        paths = put(tmp_path / "r.json", json_lines(table)), amazon_2018(tmp_path, [], items)[1]
    elif kind == "table":
        table_ = csv_text([("user_id", "item_id", "timestamp"), *rows])
        paths = put(tmp_path / "r.csv", table_), put(tmp_path / "m.csv", "item_id,title\n4,a\n5,b\n6,c\n")
    else:
        table_ = csv_text([(user, item, 3, time) for user, item, time in rows], delimiter="\t")
        paths = (
            put(tmp_path / "u.data", table_),
            put(tmp_path / "movies.csv", "movieId,title,genres\n4,a,\n5,b,\n6,c,\n"),
        )
    counts = r"4 of 13 rows are of no use \(2 without a user, 1 without an item, 1 without a time"
    with pytest.raises(GreamError, match=rf":{7 if kind == 'table' else 6}: .*{counts}.*on_bad_row=skip"):
        build(tmp_path, {"format": kind}, paths)
    tables = build(tmp_path, {"format": kind, "on_bad_row": "skip"}, paths)
    assert len(tables["interactions"]) == 9
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert statistics["rows_skipped"] == {
        "without a user": 2,
        "without an item": 1,
        "without a time that can be read": 1,
    }
    assert "| left out: without a user | 2 |" in (tmp_path / "out" / "statistics.md").read_text()


def test_items_without_any_text_are_counted_or_left_out(tmp_path: Path) -> None:
    reviews = put(
        tmp_path / "r.csv", csv_text([("user_id", "item_id", "timestamp"), *((u, i, 1) for u in "ABC" for i in "wxyz")])
    )
    items = put(tmp_path / "m.csv", "item_id,title,b\nw,Tea,\nx,Cup,\ny,nan,Moss\nz,n/a,<br>\n")
    config = {"format": "table", "columns": Columns(brand="b")}
    assert len(build(tmp_path, config, (reviews, items))["items"]) == 4
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["items_without_text"] == 1
    left = build(tmp_path, {**config, "on_bad_row": "skip"}, (reviews, items))
    assert left["items"]["item_id"].to_list() == ["w", "x", "y"]
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert statistics["rows_skipped"] == {"items without any text": 1}


def test_a_file_without_one_good_row_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "r.csv", "user_id,item_id,timestamp\n,x,5\n,y,6\n")
    with pytest.raises(GreamError, match=r":2: .*all 2 rows are of no use \(2 without a user\)"):
        source_of("table", Columns(), RowLog("skip")).read_reviews(path)


def test_texts_of_a_table(tmp_path: Path) -> None:
    path = put(tmp_path / "r.csv", 'text\nkeep &amp; cut\n"second, ""quoted"""\n""\n<br/>\n')
    source = source_of("table", Columns(text="text"))
    assert source.read_review_texts(path, pl.Series([1, 3, 2], dtype=pl.UInt32)).rows() == [(1, 'second, "quoted"')]
    assert source.read_review_texts(path, pl.Series([0], dtype=pl.UInt32)).rows() == [(0, "keep & cut")]
    assert source.read_review_texts(path, pl.Series([2, 3], dtype=pl.UInt32)).rows() == []


@pytest.mark.parametrize("written", [json.dumps, repr])
def test_dumps_of_2014_come_as_json_and_as_literals(tmp_path: Path, written: Any) -> None:
    """Even in one file, as the first line of each here is the other kind; JSON has null where there is no value."""
    source = source_of("amazon-2014", Columns())
    first, rest = (json.dumps, repr) if written is repr else (repr, json.dumps)
    reviews = [first({**R2018, "summary": "Good"}), rest({**R2018, "asin": "C", "summary": None, "reviewText": "It's"})]
    path = put(tmp_path / "r.json", "\n".join(reviews) + "\n")
    assert source.read_reviews(path)["item_id"].to_list() == ["B", "C"]
    assert source.read_review_texts(path, pl.Series([0, 1], dtype=pl.UInt32))["text"].to_list() == ["Good", "It's"]
    about = [first({**M2014, "brand": None}), rest({**M2014, "asin": "B2", "title": None})]
    frame = source.read_metadata(put(tmp_path / "m.json", "\n".join(about) + "\n"))
    assert frame.select("item_id", "title", "brand", "category").rows() == [
        ("B1", "Tea", None, ["All"]),
        ("B2", None, None, ["All"]),
    ]


def test_literals_are_data(tmp_path: Path) -> None:
    """What 2014 holds is parsed, never run."""
    mark = tmp_path / "ran"
    line = f"{{'asin': 'B1', 'title': __import__('pathlib').Path({str(mark)!r}).touch()}}\n"
    with pytest.raises(GreamError, match=r"m\.json:1: neither JSON nor a Python literal \(malformed node or string\);"):
        source_of("amazon-2014", Columns()).read_metadata(put(tmp_path / "m.json", line))
    assert not mark.exists()


R2018 = {"reviewerID": "A", "asin": "B", "unixReviewTime": 1529193600}
R2023 = {"user_id": "A", "parent_asin": "B", "timestamp": 1588687728923, "title": "", "text": "x"}
M2014 = {"asin": "B1", "title": "Tea", "categories": [["All"]]}
HEAD = "user_id,item_id,timestamp\nA,x,5\n"

BROKEN: dict[str, tuple[str, str, str, str]] = {
    # format, file (m: metadata), content, message
    "2014 cut": ("amazon-2014", "m.json", f"{M2014!r}\n{{'asin': 'B2', 'ti", ":2: neither JSON nor a .*ends inside"),
    "2014 line": ("amazon-2014", "m.json", f"{M2014!r}\n{{'asin': \n{M2014!r}\n", ":2: neither JSON nor a .*correct"),
    "2014 null": ("amazon-2014", "m.json", f'{M2014!r}\n{{"asin": null}}\n', ":2: 'asin' is missing"),
    "2014 JSON": ("amazon-2014", "m.json", f'{M2014!r}\n{{"asin": nul}}\n', r":2: neither .*\(Expecting value"),
    "2018 literal": ("amazon-2018", "m.json", f"{M2014!r}\n", ":1: .*literal; set interactions.format=amazon-2014"),
    "2014 no asin": ("amazon-2014", "m.json", f"{M2014!r}\n{{'title': 'x'}}\n", ":2: 'asin' is missing.* 2014 dump"),
    "2014 list": ("amazon-2014", "m.json", f"{M2014!r}\n['x']\n", ":2: a JSON object is expected"),
    "2023 cut": ("amazon-2023", "r.jsonl", json_lines([R2023]) + '{"user_id": "A', ":2: not valid JSON .*ends inside"),
    "2023 seconds": (
        "amazon-2023",
        "r.jsonl",
        json_lines([R2023, {**R2023, "timestamp": 1588687728}]),
        ":2: 'timestamp' must be a date, or a time since 1970 in ms and not in s, found 1588687728;",
    ),
    "2023 no item": ("amazon-2023", "r.jsonl", json_lines([R2023, {"user_id": "A"}]), ":2: 'parent_asin' is missing"),
    "2023 metadata": (
        "amazon-2023",
        "m.jsonl",
        json_lines([{"parent_asin": "B"}, {"parent_asin": "C", "features": 5}]),
        ":2: 'features' must be a list of texts, found 5",
    ),
    "csv short": ("table", "r.csv", HEAD + "A,x\n", ":3: column 'timestamp' must hold a date, or a time .*found None"),
    "csv long": ("table", "r.csv", HEAD + "A,x,5,9\n", ":3: 4 values where 3 are expected"),
    "csv time": ("table", "r.csv", HEAD + '"A\nB",x,5\nA,x,soon\n', ":5: column 'timestamp' must hold .*found 'soon'"),
    "csv user": ("table", "r.csv", HEAD + ",x,5\n", ":3: column 'user_id' must hold a user id, found None"),
    "csv milliseconds": (
        "table",
        "r.csv",
        HEAD.replace("5", "1588687728") + "A,x,1588687728923\n",
        ":3: .*in s and not in ms.*time_unit",
    ),
    "csv column": (
        "table",
        "r.csv",
        "user,item,time\nA,x,5\n",
        ": has no column 'user_id', but user, item, time; name the right one in interactions.columns.user",
    ),
    "csv names twice": ("table", "r.csv", "user_id,item_id,item_id,timestamp\nA,x,y,5\n", ": two columns .* 'item_id'"),
    "csv no names": ("table", "r.csv", "A,x,5\n", ": has no column 'user_id'.* the first line must hold the names"),
    "csv for Excel": ("table", "r.csv", "sep=,\n" + HEAD, ":1: a note for Excel.*delete this line"),
    "csv is JSON": ("table", "r.csv", json_lines([R2018]), ": JSON, where a table is needed"),
    "JSON is csv": ("amazon-2018", "r.json", HEAD, ":1: not valid JSON.*gream shop ORDERS PRODUCTS"),
    "JSON in one line": ("amazon-2018", "r.json", "{}{}\n", ":1: not valid JSON.*several objects in one line"),
    "JSON over lines": ("amazon-2018", "r.json", "{\n}\n", ":1: not valid JSON.*one object over several lines"),
    "csv quote": ("table", "r.csv", HEAD + 'A,"x,5\n', ":3: not valid CSV .*correct the line"),
    "csv empty": ("table", "r.csv", "user_id,item_id,timestamp\n", ": holds no row"),
    "csv item": ("table", "m.csv", "item_id,title\nx,Tea\n ,Cup\n", ":3: column 'item_id' must hold an item id"),
    "u.data": ("movielens", "u.data", "1\t2\t3\t4\n1\t2\t3\n", ":2: column 'timestamp' must hold .*found None"),
    "ratings.dat": ("movielens", "ratings.dat", "1::2::3::x\n", ":1: column 'timestamp' must hold .*found 'x'"),
    "u.item": (
        "movielens",
        "mu.item",
        "1|Tea|\n",
        ":1: 24 values with '.' between them are expected",
    ),
    "movies.dat": ("movielens", "movies.dat", "1::Tea::All\nx\n", ":2: 3 values with '::' between them"),
    "name": ("movielens", "ratings.txt", "1 2 3 4\n", "no MovieLens ratings by its name; name u.data"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
def test_a_broken_line_is_named(tmp_path: Path, case: str, pack: str) -> None:
    name, file, content, message = BROKEN[case]
    path = put(tmp_path / (file + pack), content)
    source = source_of(name, Columns())  # type: ignore[arg-type]
    with pytest.raises(GreamError, match=message) as caught:
        (source.read_metadata if file.startswith("m") else source.read_reviews)(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_row_of_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pl.DataFrame({"user_id": ["A", "B"], "item_id": [1, None], "timestamp": [1, 2]}).write_parquet(path)
    with pytest.raises(GreamError, match=r"r\.parquet: row 2: column 'item_id' must hold an item id, found None"):
        source_of("table", Columns()).read_reviews(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(GreamError, match=r"r\.parquet: cannot be read as a table"):
        source_of("table", Columns()).read_reviews(path)


MANY: dict[str, tuple[str, str, str]] = {
    "amazon-2018": (
        "r.json",
        "r",
        json_lines([{"reviewerID": f"A{n}", "asin": "B", "unixReviewTime": n} for n in range(60)]),
    ),
    "amazon-2014": ("m.json", "m", "".join(f"{ {**M2014, 'asin': f'B{n * 7919}'}!r}\n" for n in range(60))),
    "amazon-2023": ("r.jsonl", "r", json_lines([{**R2023, "user_id": f"A{n * 7919}"} for n in range(60)])),
    "movielens": ("u.data", "r", "".join(f"{n}\t{n * 7919}\t3\t{n}\n" for n in range(60))),
    "table": ("r.csv", "r", "user_id,item_id,timestamp\n" + "".join(f"{n},{n * 7919},{n}\n" for n in range(60))),
}


@pytest.mark.parametrize("pack", [".gz", ".zst"])
@pytest.mark.parametrize("name", MANY)
def test_a_truncated_file_is_never_accepted(tmp_path: Path, name: str, pack: str) -> None:
    """Wherever it is cut: within the header, where readers disagree on what is compressed, or later."""
    file, kind, content = MANY[name]
    packed = PACK[pack](content.encode())
    path = tmp_path / (file + pack)
    source = source_of(name, Columns())  # type: ignore[arg-type]
    for length in range(len(packed)):
        path.write_bytes(packed[:length])
        with pytest.raises(GreamError, match=r"empty|cut or damaged|no gzip|no zstd"):
            (source.read_metadata if kind == "m" else source.read_reviews)(path)


RIGHT: dict[str, tuple[str, str]] = {
    "r.json.gz": (json_lines([R2018]), "amazon-2018"),
    "literal.json": (f"{M2014!r}\n", "amazon-2014"),
    "meta.json": (json_lines([{"asin": "B", "category": []}]), "amazon-2018"),
    "r.jsonl.zst": (json_lines([R2023]), "amazon-2023"),
    "u.data": ("1\t2\t3\t4\n", "movielens"),
    "ratings.dat": ("1::2::3::4\n", "movielens"),
    "u.item": ("1|Tea|01-Jan-1995|\n", "movielens"),
    "ratings.csv": ("userId,movieId,rating,timestamp\n", "movielens"),
    "r.csv": (HEAD, "table"),
    "x.inter.json.gz": ('{"0": [1, 2]}', "published"),
    "bare.json": ('{"0": [1, 2], "1": [3]}', "published"),
    "x.item2id": ("B000\t0\n", "published"),
}


@pytest.mark.parametrize("file", RIGHT)
def test_another_format_is_told_by_its_start(tmp_path: Path, file: str) -> None:
    content, right = RIGHT[file]
    path = put(tmp_path / file, content)
    check_format(path, right)  # type: ignore[arg-type]
    wrong = "amazon-2023" if right != "amazon-2023" else "amazon-2018"
    with pytest.raises(
        GreamError, match=rf"not in the format '{wrong}'; .* set interactions\.format={right}(, or .*gream shop .*)?$"
    ):
        check_format(path, wrong)


def test_columns_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(GreamError, match=r"recipe\.yaml: .*columns are named for format 'table', not for 'movielens'"):
        parse_config(InteractionsConfig, {"format": "movielens", "columns": {"user": "who"}}, source="recipe.yaml")
    with pytest.raises(GreamError, match=r"unknown key 'columns\.users'; did you mean 'user'"):
        parse_config(InteractionsConfig, {"format": "table", "columns": {"users": "who"}}, source="recipe.yaml")


def test_the_stage_names_the_right_format(tmp_path: Path) -> None:
    paths = amazon_2023(tmp_path, CORE, list("xyz"))
    with pytest.raises(GreamError, match=r"r\.jsonl\.zst: .*set interactions\.format=amazon-2023"):
        build(tmp_path, {}, paths)
    assert not list((tmp_path / "out").iterdir())
