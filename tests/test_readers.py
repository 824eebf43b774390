"""Raw dumps: what is read, what is refused and in which words, and what becomes of dirty text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from gream.errors import GreamError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_processing.readers import source_of
from data_processing.readers.amazon import AMAZON
from data_processing.readers.formats import Columns
from data_processing.readers.rows import RowLog
from data_processing.readers.text import clean_items, clean_text, cut_text

_DUMP = AMAZON["amazon-2018"]
read_reviews, read_review_texts, read_metadata = _DUMP.read_reviews, _DUMP.read_review_texts, _DUMP.read_metadata

SECOND = 10**9
REVIEW: dict[str, Any] = {
    "overall": 5.0,
    "verified": True,
    "reviewTime": "06 17, 2018",
    "reviewerID": "A31UBHTUUIFJUT",
    "asin": "B004LLIKVU",
    "style": {"Gift Amount:": " 50"},
    "reviewText": "A &quot;great&quot; gift.",
    "summary": "Five Stars",
    "unixReviewTime": 1529193600,
}
ITEM: dict[str, Any] = {
    "asin": "B1",
    "title": "Tea",
    "description": ["Fine", "leaves"],
    "brand": "Moss",
    "category": ["Food", "Tea"],
}


def lines(*rows: object) -> bytes:
    """JSON lines; bytes and strings are taken as they are."""
    encoded = [
        row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()
        for row in rows
    ]
    return b"\n".join(encoded) + b"\n"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["r.json", "r.json.gz", "r[1]*.json.gz"])
def test_reviews_keep_input_order(tmp_path: Path, name: str) -> None:
    rows = [{**REVIEW, "reviewerID": user, "unixReviewTime": time} for user, time in (("Z", 3), ("A", 1), ("M", 2))]
    content = lines(*rows)
    frame = read_reviews(write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content))
    assert frame.columns == ["row", "user_id", "item_id", "timestamp"]
    assert frame.rows() == [
        (row, user, "B004LLIKVU", time * SECOND) for row, (user, time) in enumerate((("Z", 3), ("A", 1), ("M", 2)))
    ]
    assert frame["timestamp"].dtype == pl.Int64


def test_reviews_tolerate_what_dumps_do(tmp_path: Path) -> None:
    """Windows line ends, blank lines, no line end at the end, several gzip members, ids that are numbers."""
    content = json.dumps(REVIEW).encode() + b"\r\n\r\n" + json.dumps({**REVIEW, "asin": 77}).encode()
    path = write(tmp_path / "r.json.gz", gzip.compress(content[:40]) + gzip.compress(content[40:]))
    assert read_reviews(path)["item_id"].to_list() == ["B004LLIKVU", "77"]


BROKEN: dict[str, tuple[object, str]] = {
    "cut": ('{"reviewerID": "A", "asi', r":2: not valid JSON .*correct the line or delete it"),
    "NaN": ('{"reviewerID": "A", "asin": "B", "unixReviewTime": NaN}', r":2: 'unixReviewTime' must be a .*found null"),
    "deep": ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", r":2: not valid JSON \(nested too deeply\)"),
    "long number": ('{"overall": ' + "9" * 5_000 + "}", r":2: not valid JSON \(Exceeds the limit"),
    "surrogate": ({**REVIEW, "asin": "B\ud800"}, r":2: 'asin' must be an id without spaces, found \"B.ud800\""),
    "word": ({**REVIEW, "reviewerID": "NaN"}, r":2: 'reviewerID' must be an id without spaces, found \"NaN\""),
    "no date": ({**REVIEW, "unixReviewTime": "yesterday"}, r":2: 'unixReviewTime' must be a date.*found \"yesterday\""),
    "literal": (
        "{'reviewerID': 'A'}",
        r":2: not valid JSON .*; this is a Python literal; set interactions.format=amazon-2014",
    ),
    "encoding": (b'{"reviewerID": "\xff"}', r":2: not valid JSON .*utf-8"),
    "two": (json.dumps(REVIEW) * 2, r":2: not valid JSON"),
    "array": ("[1, 2]", r":2: a JSON object is expected, found \[1, 2\]"),
    "no user": ({"asin": "B", "unixReviewTime": 1}, r":2: 'reviewerID' is missing, so this is no review"),
    "null item": ({**REVIEW, "asin": None}, r":2: 'asin' is missing"),
    "empty item": ({**REVIEW, "asin": ""}, r":2: 'asin' must be an id without spaces, found \"\""),
    "list item": ({**REVIEW, "asin": ["B"]}, r":2: 'asin' must be an id without spaces, found \[\"B\"\]"),
    "no time": ({"reviewerID": "A", "asin": "B"}, r":2: 'unixReviewTime' must be .*found null"),
    "true time": ({**REVIEW, "unixReviewTime": True}, r":2: 'unixReviewTime' must be .*found true"),
    "milliseconds": (
        {**REVIEW, "unixReviewTime": 1529193600000},
        r":2: 'unixReviewTime' must be .* in s and not in ms, found 1529193600000",
    ),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_named(tmp_path: Path, case: str, zipped: bool) -> None:
    row, message = BROKEN[case]
    content = lines(REVIEW, row, REVIEW)
    path = write(tmp_path / ("r.json.gz" if zipped else "r.json"), gzip.compress(content) if zipped else content)
    with pytest.raises(GreamError, match=message) as caught:
        read_reviews(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.json", b"", "the file is empty"),
        ("r.json.gz", gzip.compress(b"", mtime=0), "holds no line"),
        ("r.json", b"\n \n", "holds no line"),
        ("r.json.gz", lines(REVIEW), "named .gz, but it is no gzip file"),
        ("r.json", lines(REVIEW)[:-10], ":1: not valid JSON .*the file ends inside this line; download it again"),
        ("r.json.gz", gzip.compress(lines(REVIEW, REVIEW), mtime=0)[:-8], ":3: the gzip stream is cut or damaged"),
        ("r.json.gz", gzip.compress(lines(REVIEW), mtime=0) + b"more", "the gzip stream is cut or damaged"),
    ],
)
@pytest.mark.parametrize("read", [read_reviews, read_metadata])
def test_a_damaged_file_is_refused(tmp_path: Path, read: Any, name: str, content: bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(GreamError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [read_reviews, read_metadata])
def test_a_missing_file_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(GreamError, match=r"none\.json\.gz: cannot be read .*No such file"):
        read(tmp_path / "none.json.gz")
    with pytest.raises(GreamError, match=r"cannot be read .*directory"):
        read(tmp_path)


def test_a_changed_byte_in_the_checksum_is_noticed(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(lines(REVIEW), mtime=0))
    content[-6] ^= 1
    with pytest.raises(GreamError, match="cut or damaged"):
        read_reviews(write(tmp_path / "r.json.gz", bytes(content)))


MANY = lines(*({**REVIEW, "reviewerID": f"A{n}", "reviewText": str(n * 7919) * 9} for n in range(40)))
MANY_ZIPPED = gzip.compress(MANY, mtime=0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(MANY_ZIPPED) - 1))
def test_a_truncated_gzip_is_never_accepted(tmp_path: Path, cut: int) -> None:
    with pytest.raises(GreamError):
        read_reviews(write(tmp_path / "r.json.gz", MANY_ZIPPED[:cut]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(MANY)))
def test_half_a_line_is_never_accepted(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "r.json", MANY[:cut])
    if all_lines_whole(MANY[:cut]):
        assert len(read_reviews(path)) == MANY[:cut].count(b"reviewerID")
    else:
        with pytest.raises(GreamError):
            read_reviews(path)


def all_lines_whole(content: bytes) -> bool:
    try:
        return bool([json.loads(line) for line in content.splitlines()])
    except ValueError:
        return False


def test_review_texts_of_chosen_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.json",
        lines(
            REVIEW,
            {**REVIEW, "reviewText": "secret"},
            {**REVIEW, "summary": "Why not?", "reviewText": "  It <b>is</b>\n good "},
            {k: v for k, v in REVIEW.items() if k != "reviewText"},
            {**REVIEW, "summary": "<br />", "reviewText": None},
            {**REVIEW, "summary": "Long", "reviewText": "word " * 300},
        ),
    )
    texts = read_review_texts(path, pl.Series([5, 4, 3, 2, 0], dtype=pl.UInt32))
    assert texts["row"].to_list() == [0, 2, 3, 5]
    assert texts["text"].to_list()[:3] == ['Five Stars. A "great" gift.', "Why not? It is good", "Five Stars"]
    assert len(texts["text"][3]) <= 500
    assert texts["text"][3].endswith(" word")


def test_metadata_keeps_a_row_for_an_item(tmp_path: Path) -> None:
    path = write(tmp_path / "m.json", lines(ITEM, {"asin": "B0"}, {**ITEM, "title": "Other"}))
    assert read_metadata(path).rows() == [
        ("B1", "Tea", ["Fine", "leaves"], "Moss", ["Food", "Tea"]),
        ("B0", None, None, None, None),
    ]


def test_rows_of_an_item_become_one(tmp_path: Path) -> None:
    """Of each field what says most, whichever row it stands in; words for nothing say nothing."""
    rows = [
        {"asin": "B1", "title": "N/A", "description": ["Short."], "brand": "nan", "category": ["Food"]},
        {"asin": "B2", "title": "Cup"},
        {"asin": "B1", "title": "<b></b>", "description": ["nan"], "brand": None, "category": ["Food", "Tea"]},
        {"asin": "B1", "title": "Tea", "description": ["Short.", "And long."], "brand": "Moss", "category": []},
        {"asin": "B1", "title": "Other tea", "description": [], "brand": "Fern", "category": ["Other"]},
    ]
    path = write(tmp_path / "m.json", lines(*rows))
    expected = [
        ("B1", "Tea", ["Short.", "And long."], "Moss", ["Food", "Tea"]),
        ("B2", "Cup", None, None, None),
    ]
    log = RowLog()
    assert source_of("amazon-2018", Columns(), log).read_metadata(path).rows() == expected
    assert log.merged == 3


@pytest.mark.parametrize(
    "word", ["nan", "NaN", "None", "null", "NULL", "N/A", "n/a", "#N/A", "<NA>", "-", "--", " ", ""]
)
def test_a_word_for_nothing_is_nothing(tmp_path: Path, word: str) -> None:
    cleaned = clean_items(metadata(title=word, brand=word, description=[word], category=["Food", word, "Tea"]))
    # An empty name ends a path, as it does in the dumps of 2018.
    path_ = ["Food", "Tea"] if word.strip() else ["Food"]
    assert cleaned.frame.row(0) == ("B1", path_[-1], "", "", path_)
    path = write(tmp_path / "r.json", lines(REVIEW, {**REVIEW, "reviewerID": word}))
    with pytest.raises(GreamError, match=r":2: 'reviewerID' must be an id"):
        read_reviews(path)
    table = write(tmp_path / "r.csv", f"user_id,item_id,timestamp\nA,x,5\n{word},x,5\n".encode())
    with pytest.raises(GreamError, match=r":3: column 'user_id' must hold a user id"):
        source_of("table", Columns()).read_reviews(table)


@pytest.mark.parametrize(
    "text",
    ["['Food', 'Tea']", '["Food", "Tea"]', "['Food' 'Tea']", "[['Food', 'Tea'], ['Other']]", "[u'Food', u'Tea']"],
)
def test_a_list_written_as_text_is_a_list(tmp_path: Path, text: str) -> None:
    assert clean_items(metadata(category=[text])).frame["categories"].to_list() == [["Food", "Tea"]]
    assert clean_items(metadata(description=[text])).frame["description"].to_list() == ["Food Tea"]
    table = tmp_path / "m.parquet"
    pl.DataFrame({"item_id": ["B1"], "title": ["x"], "path": [text]}).write_parquet(table)
    items = source_of("table", Columns(categories="path", category_separator=",")).read_metadata(table)
    assert clean_items(items).frame["categories"].to_list() == [["Food", "Tea"]]


def test_a_number_with_no_room_in_64_bits_stays_itself(tmp_path: Path) -> None:
    rows = [{**REVIEW, "reviewerID": 2**64 + n, "asin": 2**63 + n} for n in range(3)]
    frame = read_reviews(write(tmp_path / "r.json", lines(*rows)))
    assert frame["user_id"].to_list() == [str(2**64 + n) for n in range(3)]
    assert frame["item_id"].to_list() == [str(2**63 + n) for n in range(3)]
    assert frame["timestamp"].to_list() == [REVIEW["unixReviewTime"] * SECOND] * 3
    about = read_metadata(write(tmp_path / "m.json", lines(*({"asin": 2**64 + n} for n in range(3)))))
    assert about["item_id"].to_list() == [str(2**64 + n) for n in range(3)]


def test_values_of_python_that_json_does_not_know(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", lines(REVIEW, json.dumps({**REVIEW, "vote": float("nan"), "summary": None})))
    assert read_reviews(path)["row"].to_list() == [0, 1]
    assert read_review_texts(path, pl.Series([1], dtype=pl.UInt32))["text"].to_list() == ['A "great" gift.']
    about = read_metadata(write(tmp_path / "m.json", lines(json.dumps({**ITEM, "brand": float("nan")}))))
    assert about.row(0) == ("B1", "Tea", ["Fine", "leaves"], None, ["Food", "Tea"])


MARKS = {
    "utf-8": b"\xef\xbb\xbf",
    "utf-16-le": b"\xff\xfe",
    "utf-16-be": b"\xfe\xff",
    "utf-32-le": b"\xff\xfe\x00\x00",
}


@pytest.mark.parametrize("encoding", [*MARKS, "utf-16-le without", "utf-16-be without"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_marks_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str, pack: Any) -> None:
    """As Excel and Windows save: the same reviews, whatever the bytes."""
    name, _, without = encoding.partition(" ")

    def put(file: str, text: str) -> Path:
        return write(tmp_path / file, pack((b"" if without else MARKS[name]) + text.encode(name)))

    rows = [json.dumps({**REVIEW, "reviewerID": user, "style": "é"}, ensure_ascii=False) for user in ("Zoë", "A")]
    assert read_reviews(put("r.json", end.join(rows) + end))["user_id"].to_list() == ["Zoë", "A"]
    table = source_of("table", Columns()).read_reviews(
        put("r.csv", end.join(["user_id;item_id;timestamp", "Zoë;x;5", "A;x;6", ""]))
    )
    assert table["user_id"].to_list() == ["Zoë", "A"]


def test_a_parquet_is_never_taken_for_text(tmp_path: Path) -> None:
    """Of a number that is a carriage return, in a file without a line feed."""
    numbers = {"item_id": list(range(11, 19)), "title": ["Kettle"] * 8}
    path = tmp_path / "m.parquet"
    pl.DataFrame(numbers).write_parquet(path, compression="uncompressed")
    content = path.read_bytes()
    assert b"\r" in content and b"\n" not in content
    metadata = source_of("table", Columns()).read_metadata(path)
    assert metadata["item_id"].to_list() == [str(number) for number in range(11, 19)]


FOREIGN = {
    "zip": (b"PK\x03\x04more", "a zip archive; unpack it"),
    "xlsx": (b"PK\x03\x04....[Content_Types].xml", "an Excel workbook; export it as CSV"),
    "bz2": (b"BZh91AY", "a bzip2 file; unpack it"),
    "xz": (b"\xfd7zXZ\x00", "an xz file; unpack it"),
    "html": (b"\n<!DOCTYPE html><html>", "a web page; the download went wrong"),
    "feather": (b"ARROW1\x00\x00", "an Arrow .* file; write the table as Parquet"),
    "twice": (gzip.compress(gzip.compress(b"{}")), "a compressed file inside another; unpack it"),
    "tar": (b"r.json" + b"\x00" * 251 + b"ustar", "a tar archive; unpack it"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("format_", ["amazon-2018", "amazon-2014", "table", "movielens"])
def test_what_is_no_table_is_named_with_its_remedy(tmp_path: Path, kind: str, format_: Any) -> None:
    content, message = FOREIGN[kind]
    for name in ("u.data", "u.item"):
        with pytest.raises(GreamError, match=rf"{name}: this is {message}"):
            source = source_of(format_, Columns())
            (source.read_metadata if name == "u.item" else source.read_reviews)(write(tmp_path / name, content))


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_named_with_its_remedy(tmp_path: Path, indent: int | None) -> None:
    for read, row in ((read_reviews, REVIEW), (read_metadata, ITEM)):
        path = write(tmp_path / "a.json", json.dumps([row, row], indent=indent).encode())
        with pytest.raises(GreamError, match=r"a\.json:1: .*one JSON array.*one object per line.*jq -c"):
            read(path)
    path = write(tmp_path / "o.json", json.dumps(REVIEW, indent=1).encode())
    with pytest.raises(GreamError, match=r"o\.json:1: .*one object over several lines; .*jq -c"):
        read_reviews(path)


def test_metadata_of_mixed_types_reads_as_the_regular_kind(tmp_path: Path) -> None:
    regular = [ITEM, {"asin": "B2", "title": 1984, "description": [], "category": None, "brand": None}]
    odd = {"asin": "B3", "title": "\ud800", "description": "One text", "category": ["A", None, 5]}
    expected = read_metadata(write(tmp_path / "regular.json", lines(*regular)))
    mixed = read_metadata(write(tmp_path / "mixed.json", lines(*regular, odd)))
    assert mixed.schema == expected.schema
    assert mixed[:2].equals(expected)
    assert mixed.row(2) == ("B3", "\0", ["One text"], None, ["A", None, "5"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"asin": "B2", "title": ', ":2: not valid JSON"),
        ({"title": "x"}, ":2: 'asin' is missing, so this is no item"),
        ({**ITEM, "description": {"a": 1}}, ":2: 'description' must be a list of texts, found {\"a\": 1}"),
        ({**ITEM, "category": 5}, ":2: 'category' must be a list of texts, found 5"),
        ({"asin": ["B"], "description": "x"}, ":2: 'asin' must be an id"),
    ],
)
def test_broken_metadata_is_named(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(GreamError, match=message):
        read_metadata(write(tmp_path / "m.json", lines(ITEM, row, ITEM)))


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("  plain \n text\t", "plain text"),
        ("Tom &amp; Jerry &#39;s", "Tom & Jerry 's"),
        ("&amp;lt;p&amp;gt;twice&amp;lt;/p&amp;gt;", "twice"),
        ('<span class="a-size-medium a-color-secondary"', ""),
        ("<p>one</p><p>two<br/>three", "one two three"),
        ("I <3 tea, a < b and c > d", "I <3 tea, a < b and c > d"),
        ("<script>var a = '<b>';</script>after<style>p{}</style>", "after"),
        ("<!-- hidden -->seen", "seen"),
        ("ends in </stro", "ends in"),
        ("nul\x00 and \x85bell\x07", "nul and bell"),
        ("caf&eacute;&nbsp;noir", "café noir"),
        ("", ""),
    ],
)
def test_clean_text(dirty: str, clean: str) -> None:
    assert clean_text(dirty) == clean


MARKUP = st.lists(
    st.sampled_from(
        ["<b>", "</b", "<a href='x'", "&lt;", "&amp;", "&gt", "b>", "<", ">", "&", ";", " ", "\n", "tea", "é"]
    )
    | st.text(max_size=3)
).map("".join)


@given(MARKUP)
def test_cleaning_clean_text_changes_nothing(text: str) -> None:
    clean = clean_text(text)
    assert clean_text(clean) == clean
    assert clean == " ".join(clean.split())
    assert "<b>" not in clean


@given(st.text(min_size=1).map(clean_text).filter(bool), st.integers(1, 30))
def test_cut_text_keeps_whole_words(text: str, limit: int) -> None:
    cut = cut_text(text, limit)
    assert 0 < len(cut) <= limit
    assert text.startswith(cut)
    if " " in cut or cut == text:
        assert text[len(cut) : len(cut) + 1] in ("", " ")
    else:
        assert text[len(cut)] == " " or " " not in text[:limit]


def metadata(**fields: object) -> pl.DataFrame:
    schema = {
        "item_id": pl.String,
        "title": pl.String,
        "description": pl.List(pl.String),
        "brand": pl.String,
        "category": pl.List(pl.String),
    }
    return pl.DataFrame([{"item_id": "B1", **fields}], schema=schema)


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        ({"title": "A &amp; B", "brand": "Moss"}, "A & B"),
        ({"title": "Tea {size: L}", "brand": "Moss"}, "Tea {size: L}"),
        ({"title": "<b></b>", "brand": "Moss", "category": ["Food", "Tea"]}, "Tea by Moss"),
        ({"title": None, "category": ["Food", "Tea"]}, "Tea"),
        ({"title": " ", "brand": "Moss"}, "Moss"),
        ({"title": ""}, "B1"),
        ({"title": "var aPageStart = (new Date()).getTime();", "brand": "Moss"}, "Moss"),
        ({"title": ".a-box{background-color: #fff}", "brand": "Moss"}, "Moss"),
    ],
)
def test_a_title_is_never_empty(fields: dict[str, object], title: str) -> None:
    items = clean_items(metadata(**fields))
    assert items.frame["title"].to_list() == [title]
    assert items.titles_replaced == (title not in ("A & B", "Tea {size: L}"))
    assert not any(items.frame.null_count().row(0))


def test_the_other_item_texts() -> None:
    row = clean_items(
        metadata(
            title="word " * 100,
            description=["<p>One.</p>", "One.", None, "var x = 1;", "Two"],
            brand="by\n    \n   Moss",
            category=["Food &amp; Tea", "Tea", "Tea", "</span></span>", "Selling point"],
        )
    ).frame.row(0, named=True)
    assert len(row["title"]) == 199
    assert row["description"] == "One. Two"
    assert row["brand"] == "Moss"
    assert row["categories"] == ["Food & Tea", "Tea"]


@pytest.mark.parametrize("point", ["No expiration, no fees.", "A selling point that goes on for longer than any name"])
def test_selling_points_are_no_categories(point: str) -> None:
    assert clean_items(metadata(category=["Gifts", point, "More"])).frame["categories"].to_list() == [["Gifts"]]


@pytest.mark.parametrize(
    ("name", "items", "replaced"), [("Gift_Cards", 1547, 0), ("Magazine_Subscriptions", 2320, 2163)]
)
def test_real_metadata(real_data: Path, name: str, items: int, replaced: int) -> None:
    cleaned = clean_items(read_metadata(real_data / "raw_amazon2018" / f"meta_{name}.json.gz"))
    assert (len(cleaned.frame), cleaned.titles_replaced) == (items, replaced)
    texts = cleaned.frame.select("title", "description", "brand", pl.col("categories").list.join(" "))
    assert texts.select(pl.any_horizontal(pl.all().str.contains(r"<[a-z/]|&\w+;|\s\s")).any()).item() is False
    assert cleaned.frame.select((pl.col("title") == "").any()).item() is False
