"""Readers on damaged files: each is read, or refused in one line of bounded length; nothing else happens.

A second or two per reader by default. ``GREAM_FUZZ=20000 pytest tests/test_reader_fuzz.py -s`` tries as many of each,
and says how many were refused and how long the longest line was.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from gream.errors import GreamError
from gream.semantic_ids.published import read_index

from data_processing.readers import source_of
from data_processing.readers.formats import Columns, Format, check_format
from data_processing.readers.published import read_published_items, read_published_sequences
from data_processing.readers.rows import RowLog
from data_processing.readers.text import clean_items
from data_processing.shop.fit import measure_shop
from data_processing.shop.look import look_at

INPUTS = int(os.environ.get("GREAM_FUZZ", "40"))
# Without the path, which the test's folder makes long.
LONGEST_LINE = 700

REVIEWS = [
    {"reviewerID": f"U{n % 3}", "asin": f"B{n % 4}", "unixReviewTime": 1_500_000_000 + n, "summary": "é", "vote": 1.5}
    for n in range(6)
]
ITEMS = [
    {"asin": f"B{n}", "title": "Tea", "description": ["a", "b"], "brand": "M", "category": ["F"]} for n in range(4)
]
PUBLISHED = {"0": {"title": "Tea", "description": "['One.']", "categories": "All,Arts"}, "1": {"asin": "B1"}}


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(**columns: Any) -> bytes:
    stream = io.BytesIO()
    pl.DataFrame(columns).write_parquet(stream)
    return stream.getvalue()


CSV = b'user_id,item_id,timestamp,text\nA,x,2021-03-25 10:00:00.5,"a ""b"""\nB,y,1500000000.5,\n1.0,2.0,25/03/2021,c\n'
Read = Callable[[Path], object]


def reviews_of(name: Format, columns: Columns | None = None) -> Read:
    def read(path: Path) -> object:
        check_format(path, name)
        source = source_of(name, columns or Columns(text="text"), RowLog("skip" if path.stat().st_size % 2 else "fail"))
        frame = source.read_reviews(path)
        assert not any(frame.null_count().row(0))
        return source.read_review_texts(path, frame["row"])

    return read


def metadata_of(name: Format, columns: Columns | None = None) -> Read:
    def read(path: Path) -> object:
        check_format(path, name)
        frame = source_of(name, columns or Columns(description="about", categories="path")).read_metadata(path)
        assert frame["item_id"].is_unique().all()
        return clean_items(frame)

    return read


def look(path: Path) -> object:
    """`gream shop --look`."""
    found = look_at(path, None, {})
    assert found.lines()
    return measure_shop(found)


ORDERS = "\n".join(
    ["customer;product;date;title", *(f"c{n % 3};p{n % 4};{n + 1}.3.2021;Tea {n % 4}" for n in range(24))]
)

READERS: dict[str, tuple[str, bytes, Read]] = {
    "reviews 2018": ("r.json", json_lines(REVIEWS), reviews_of("amazon-2018")),
    "reviews 2018, gzip": ("r.json.gz", gzip.compress(json_lines(REVIEWS), mtime=0), reviews_of("amazon-2018")),
    "metadata 2018": ("m.json", json_lines(ITEMS), metadata_of("amazon-2018")),
    "metadata 2014": ("m.json", "".join(f"{row!r}\n" for row in ITEMS).encode(), metadata_of("amazon-2014")),
    "reviews 2023": (
        "r.jsonl",
        json_lines(
            [{"user_id": "U", "parent_asin": "B", "timestamp": 1_588_687_728_923, "title": "", "text": "x"}] * 3
        ),
        reviews_of("amazon-2023"),
    ),
    "csv": ("r.csv", CSV, reviews_of("table")),
    "csv, UTF-16": ("r.csv", CSV.decode().encode("utf-16"), reviews_of("table")),
    "csv, two characters": ("r.csv", CSV.replace(b",", b"::"), reviews_of("table", Columns(delimiter="::"))),
    "csv of items": ("m.csv", b"item_id,title,about,path\nx,Tea,\"['a', 'b']\",A|B\ny,,nan,\n", metadata_of("table")),
    "parquet": (
        "r.parquet",
        parquet(user_id=[1.0, None, 2.0], item_id=["x", "y", "z"], timestamp=[1.5, 2.0, 3.0], text=["a", None, "b"]),
        reviews_of("table"),
    ),
    "shop": ("orders.csv", ORDERS.encode(), look),
    "shop, parquet": (
        "orders.parquet",
        parquet(user=["a", "b", "c"] * 4, sku=["x", "y", "z", "w"] * 3, day=["2021-03-25"] * 12, name=["Tea"] * 12),
        look,
    ),
    "u.data": ("u.data", b"1\t2\t3\t881250949\n2\t3\t4\t881250950\n", reviews_of("movielens")),
    "u.item": ("u.item", b"1|Tea (1995)|01-Jan-1995||http://x" + b"|0" * 19 + b"\n", metadata_of("movielens")),
    "movies.dat": ("movies.dat", b"1::Tea (1995)::Comedy|Drama\n2::Cup::Drama\n", metadata_of("movielens")),
    "inter": ("x.inter.json", json.dumps({"0": [0, 1, 1], "1": [1, 0, 0]}).encode(), read_published_sequences),
    "sequences": (
        "x.sequences.jsonl",
        b'{"user": "A", "items": [0, 1, 2], "complete": true}\n',
        read_published_sequences,
    ),
    "item": ("x.item.json", json.dumps(PUBLISHED).encode(), lambda path: clean_items(read_published_items(path))),
    "item2id": ("x.item2id", b"B0\t0\nB1\t1\n", read_published_items),
    "index": ("x.index.json", json.dumps({"0": ["<a_1>", "<b_2>"], "1": ["<a_2>", "<b_1>"]}).encode(), read_index),
}

# What files hold that nobody meant to be read.
ODD = (
    *(
        b"",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b'"',
        b"'",
        b"\\",
        b"{",
        b"}",
        b"[]",
    ),
    *(
        b"null",
        b"NaN",
        b"Infinity",
        b"true",
        b"-1",
        b"1e999",
        b"9" * 5000,
        b"9" * 19,
        b"1" * 25,
        b"18446744073709551616",
    ),
    *(b'"\\ud800"', b"\xed\xa0\x80", b'{"a": [1]}', b'["x"]', b"[" * 3000, b'{"a":' * 2000, b"(" * 300, b"x" * 70_000),
    *(
        b"9999-12-31",
        b"0000-00-00",
        b"02/03/2021",
        b"2 Mar 2021",
        b"May 99, 2021",
        b"202103021230",
        b"1677-01-01",
        b"-9223372036854775808",
        b"::",
        b";",
        b"\t",
        b"|",
        b",",
    ),
    *(
        b"__import__('os')",
        b"\x1f",
        b"PAR1",
        b"PK\x03\x04",
        b"\x1f\x8b",
        b"%d",
        "²٣".encode(),
        "😀".encode(),
        b" " * 3000,
    ),
)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content after one to three accidents."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(content) + 1)
        stop = min(len(content), start + chance.choice((0, 1, 1, 2, 8, 40, len(content))))
        kind = chance.randrange(6)
        if kind == 0:
            content = content[:start] + content[stop:]
        elif kind == 1:
            content = content[:start] + content[start:stop] * 2 + content[stop:]
        elif kind == 2 and content:
            place = chance.randrange(len(content))
            content = content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]
        elif kind == 3:
            content = content[:start] + chance.choice(ODD) + content[start:]
        else:
            # A value in place of another: most accidents else end in JSON that is none.
            marks = [place for place, byte in enumerate(content) if byte in b',:[]{}"\t|\n']
            if len(marks) > 1:
                index = chance.randrange(len(marks) - 1)
                content = content[: marks[index] + 1] + chance.choice(ODD) + content[marks[index + 1] :]
    return content


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    file, content, read = READERS[name]
    path = tmp_path / file
    path.write_bytes(content)
    read(path)
    refused, longest = 0, 0
    for seed in range(INPUTS):
        path.write_bytes(damaged(content, random.Random(f"{name} {seed}")))
        try:
            read(path)
        except GreamError as error:
            line = str(error).replace(str(path), file)
            refused, longest = refused + 1, max(longest, len(line))
            assert "\n" not in line, (name, seed)
            assert len(line) <= LONGEST_LINE, (name, seed, line)
        except BaseException as error:
            raise AssertionError(f"{name}, seed {seed}: {type(error).__name__}") from error
    print(f"{name}: {INPUTS:,} inputs, {refused:,} refused, longest line {longest}")


@pytest.mark.parametrize("odd", [b"x" * 3_000_000, b"9" * 3_000_000, b"," * 60_000], ids=["text", "digits", "columns"])
def test_a_line_of_megabytes(tmp_path: Path, odd: bytes) -> None:
    for name, (file, _, read) in READERS.items():
        if "parquet" in name or file.endswith(".gz"):
            continue
        path = tmp_path / file
        path.write_bytes(odd + b"\n" + odd + b"\n")
        with pytest.raises(GreamError) as caught:
            read(path)
        assert len(str(caught.value).replace(str(path), file)) <= LONGEST_LINE, name
