"""A table is read by its very name, whatever signs are in it."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from data_support import ROOT
from gream.errors import GreamError
from gream.tables import read_table


def test_brackets_in_a_name_are_no_pattern(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("[a]", 2), ("*", 3)):
        (tmp_path / folder).mkdir()
        pl.DataFrame({"x": [value], "y": [0]}).write_parquet(tmp_path / folder / "t.parquet")
    for folder, value in (("a", 1), ("[a]", 2), ("*", 3)):
        assert read_table(tmp_path / folder / "t.parquet", "x").to_dict(as_series=False) == {"x": [value]}
    with pytest.raises(GreamError, match=r"t\.parquet: no table with the columns z \("):
        read_table(tmp_path / "[a]" / "t.parquet", "z")


def test_tables_are_read_in_one_place() -> None:
    """Other calls of polars that take a name are given an open file."""
    reading = re.compile(r"\b(?:read|scan)_(?:parquet|csv|ndjson|ipc|database|delta)\((?!stream\b)(?!\s*stream,)")
    found = {
        f"{path.relative_to(ROOT)}: {line}"
        for folder in ("plugins", "data_processing", "eval", "serving", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        for line in reading.findall(path.read_text(encoding="utf-8"))
    }
    assert found == {"plugins/gream/tables.py: read_parquet("}
