"""JSON and JSON lines: what is written appears whole, what is broken is named by file and line."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gream.errors import GreamError
from gream.files import read_json, read_jsonl, write_atomically, write_json, write_jsonl, write_text
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

TEXT = st.text(max_size=8)
ROWS = st.lists(st.dictionaries(TEXT, st.recursive(st.none() | st.integers() | TEXT, st.lists, max_leaves=3)))


@given(ROWS)
def test_rows_come_back_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    # Among them texts with line and paragraph separators, which end no line of a JSONL file.
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows
    write_json(path, rows)
    assert read_json(path, remedy="") == rows


def test_a_line_separator_in_a_text_ends_no_line(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x", [{"text": "one\u2028two\x85three"}, {"text": ""}])
    assert [row["text"] for row in read_jsonl(tmp_path / "x")] == ["one\u2028two\x85three", ""]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_are_as_open_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "x.json", 1)
        with write_atomically(tmp_path / "x.safetensors") as temporary:
            save_file({"x": np.zeros(2)}, temporary)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_a_failed_write_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, int]]:
        yield {"row": 1}
        raise KeyboardInterrupt

    write_text(tmp_path / "x", "before")
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(tmp_path / "x", rows())
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "before"
    # What a killed process left is taken over.
    (tmp_path / ".x.tmp").write_text("half")
    write_text(tmp_path / "x", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "after"


@pytest.mark.parametrize("name", ["absent/x", "n" * 300, "file/x"])
def test_where_nothing_can_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GreamError, match=r"x?: cannot be written \([A-Z].*\)$"):
        write_json(tmp_path / name, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": ', r"/x:2: not valid JSON \(Expecting value\); make the file again"),
        (b'{"a": 1}\n{"a": "\xff"}\n', r"/x:2: not valid JSON \(invalid start byte, UTF-8 is expected\)"),
        (b'{"a": 1}\n\n{', "/x:3: not valid JSON"),
        (b'{"a": 1}\n[1]\n', "/x:2: a JSON object with a is expected"),
        (b'{"a": 1}\n{"b": 1}\n', "/x:2: a JSON object with a is expected"),
        (b'{"a": 1}\n{"a": "1"}\n', "/x:2: a JSON object with a is expected"),
        (b"[" * 1_000_000, "/x:1: not valid JSON"),
        (b'{"a": ' + b"9" * 1_000_000 + b"}", "/x:1: not valid JSON"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(GreamError, match=message) as caught:
        read_jsonl(tmp_path / "x", fields={"a": int})
    said = str(caught.value).replace(str(tmp_path), "")
    assert len(said) < 200 and "\n" not in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b"{\n\n1}", "/x.json:3: not valid JSON .*; try again"),
        ("x.json", b'{\n"\xff"}', "/x.json:2: not valid JSON .*; try again"),
        ("x.json", b"", "/x.json:1: not valid JSON"),
        ("x.json", b'{"a": {"b": 1, "b": 2}}', r'the key "b" stands twice in an object, keep one'),
        ("x.json.gz", b"{}", "/x.json.gz: cannot be read .*; try again"),
        ("x.json.gz", b"\x1f\x8b\x08\x00", "/x.json.gz: cannot be read"),
        ("absent.json", None, r"/absent.json: cannot be read \(No such file or directory\); try again"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(GreamError, match=message) as caught:
        read_json(tmp_path / name, remedy="try again")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_still_written_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(json.dumps({"a": 1}) + "\n" + '{"a": 2}')
    assert read_jsonl(tmp_path / "x", unfinished=True) == [{"a": 1}]
    assert read_jsonl(tmp_path / "x") == [{"a": 1}, {"a": 2}]
