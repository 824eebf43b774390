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
from data_processing.readers.text import clean_items

Review = tuple[str, str, int]  # user, item, seconds since 1970
Writer = Callable[[Path, list[Review], list[str]], tuple[Path, Path]]
# 2001-09-09, where seconds and milliseconds cannot be confused.
START = 1_000_000_000

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
    expected = [(0, "196", "242", 881250949), (1, "186", "302", 891717742)]
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


@pytest.mark.parametrize(
    ("times", "unit", "seconds"),
    [
        (["1529193600"], "s", 1529193600),
        (["1529193600999"], "ms", 1529193600),
        (["1529193600.0"], "s", 1529193600),
        (["2018-06-17"], "s", 1529193600),
        (["2018-06-17T00:00:01"], "s", 1529193601),
        (["2018-06-17 00:00:01"], "ms", 1529193601),
        (["2018-06-17T00:00:01Z"], "s", 1529193601),
    ],
)
def test_times_of_a_table(tmp_path: Path, times: list[str], unit: Any, seconds: int) -> None:
    path = put(tmp_path / "r.csv", csv_text([("user_id", "item_id", "timestamp"), *(("A", "x", t) for t in times)]))
    frame = source_of("table", Columns(time_unit=unit)).read_reviews(path)
    assert frame["timestamp"].to_list() == [seconds]


def test_a_table_may_have_gaps(tmp_path: Path) -> None:
    """Blank lines, quoted line ends, other delimiters, a mark of byte order, and nothing but ids and titles."""
    text = '\ufeffitem_id;title\n1;Tea\n\n2;"Two\nlines; quoted"\n1;Again\n'
    items = source_of("table", Columns(delimiter=";")).read_metadata(put(tmp_path / "m.csv", text))
    assert items.rows() == [("1", "Tea", [None], None, None), ("2", "Two\nlines; quoted", [None], None, None)]
    assert clean_items(items).frame["title"].to_list() == ["Tea", "Two lines; quoted"]


def test_texts_of_a_table(tmp_path: Path) -> None:
    path = put(tmp_path / "r.csv", 'text\nkeep &amp; cut\n"second, ""quoted"""\n""\n<br/>\n')
    source = source_of("table", Columns(text="text"))
    assert source.read_review_texts(path, pl.Series([1, 3, 2], dtype=pl.UInt32)).rows() == [(1, 'second, "quoted"')]
    assert source.read_review_texts(path, pl.Series([0], dtype=pl.UInt32)).rows() == [(0, "keep & cut")]
    assert source.read_review_texts(path, pl.Series([2, 3], dtype=pl.UInt32)).rows() == []


def test_literals_are_data(tmp_path: Path) -> None:
    """Metadata of 2014 is parsed, never run."""
    mark = tmp_path / "ran"
    line = f"{{'asin': 'B1', 'title': __import__('pathlib').Path({str(mark)!r}).touch()}}\n"
    with pytest.raises(GreamError, match=r"m\.json:1: not a Python literal"):
        source_of("amazon-2014", Columns()).read_metadata(put(tmp_path / "m.json", line))
    assert not mark.exists()


R2018 = {"reviewerID": "A", "asin": "B", "unixReviewTime": 1529193600}
R2023 = {"user_id": "A", "parent_asin": "B", "timestamp": 1588687728923, "title": "", "text": "x"}
M2014 = {"asin": "B1", "title": "Tea", "categories": [["All"]]}
HEAD = "user_id,item_id,timestamp\nA,x,5\n"

BROKEN: dict[str, tuple[str, str, str, str]] = {
    # format, file (m: metadata), content, message
    "2014 cut": ("amazon-2014", "m.json", f"{M2014!r}\n{{'asin': 'B2', 'ti", ":2: not a Python literal.*ends inside"),
    "2014 line": ("amazon-2014", "m.json", f"{M2014!r}\n{{'asin': \n{M2014!r}\n", ":2: not a Python literal.*correct"),
    "2014 null": ("amazon-2014", "m.json", f'{M2014!r}\n{{"asin": null}}\n', ":2: not a Python literal"),
    "2014 no asin": ("amazon-2014", "m.json", f"{M2014!r}\n{{'title': 'x'}}\n", ":2: 'asin' is missing.* 2014 dump"),
    "2014 list": ("amazon-2014", "m.json", f"{M2014!r}\n['x']\n", ":2: a JSON object is expected"),
    "2023 cut": ("amazon-2023", "r.jsonl", json_lines([R2023]) + '{"user_id": "A', ":2: not valid JSON .*ends inside"),
    "2023 seconds": (
        "amazon-2023",
        "r.jsonl",
        json_lines([R2023, {**R2023, "timestamp": 1588687728}]),
        ":2: 'timestamp' must be whole milliseconds since 1970, found 1588687728",
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
    "csv milliseconds": ("table", "r.csv", HEAD + "A,x,1588687728923\n", ":3: .*in s .*time_unit"),
    "csv column": (
        "table",
        "r.csv",
        "user,item,time\nA,x,5\n",
        ": has no column 'user_id', but user, item, time; name the right one in interactions.columns.user",
    ),
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
    with pytest.raises(GreamError, match=rf"not in the format '{wrong}'; .* set interactions\.format={right}$"):
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
