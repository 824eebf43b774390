"""The page that draws SRPO runs, its charts, and logs it cannot read."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from gream.errors import GreamError
from gream.page.svg import lines_chart
from verl_srpo.report import names_of, read_run, report_page


def write_log(path: Path, steps: dict[int, dict[str, float]], tail: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, "data": data}) + "\n" for step, data in steps.items()]
    path.write_text("".join(lines) + tail, encoding="utf-8")
    return path


class Page(HTMLParser):
    """Tags and texts of a page; complains where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_log_that_is_still_being_written_is_read_so_far(tmp_path: Path) -> None:
    steps = {0: {"a": 1.0, "b": math.nan}, 1: {"a": 2.0}, 2: {"a": 3.0}}
    path = write_log(tmp_path / "metrics.jsonl", steps, tail='{"step": 3, "da')
    assert read_run(path, "x").metrics == {"a": [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]}


def test_of_a_step_logged_twice_the_later_value_counts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "data": {"a": 1}}\n{"step": 1, "data": {"a": 2, "b": 3}}\n', encoding="utf-8")
    assert read_run(path, "x").metrics == {"a": [(1.0, 2.0)], "b": [(1.0, 3.0)]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"metrics\.jsonl: cannot be read"),
        ("", r"metrics\.jsonl: holds no step yet"),
        ('{"step": 1, "data": {}}\nnothing\n', r"metrics\.jsonl:2: not valid JSON"),
        ('{"data": {}}\n', r"metrics\.jsonl:1: a JSON object with step, data is expected"),
    ],
)
def test_other_files_are_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(GreamError, match=message):
        read_run(path, "x")


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    same = [Path("/runs/a/srpo/metrics.jsonl"), Path("/runs/b/srpo/metrics.jsonl")]
    assert names_of(same) == ["a/srpo", "b/srpo"]
    assert names_of([Path("/runs/a/x/m.jsonl"), Path("/runs/a/y/m.jsonl")]) == ["x", "y"]
    assert names_of([Path("/runs/a/one.jsonl"), Path("/runs/a/two.jsonl")]) == [
        "/runs/a/one.jsonl",
        "/runs/a/two.jsonl",
    ]


def test_every_run_has_a_line_in_every_chart_of_a_metric_it_has(tmp_path: Path) -> None:
    first = {step: {"srpo/reward": step / 4, "srpo/match_level/0": 0.5, "srpo/pass_at_4": 0.1} for step in range(4)}
    second = {step: {"srpo/reward": 1.0, "unknown": 7.0, "srpo/advantage_mean": -1e-9} for step in range(6)}
    second[5]["val-core/gream/reward/mean@5"] = 0.25
    runs = [
        read_run(write_log(tmp_path / name / "metrics.jsonl", steps), f"<{name}>")
        for name, steps in (("a", first), ("b", second))
    ]
    page = Page(report_page(runs))
    charts = {tag[1]["aria-label"] for tag in page.tags if tag[0] == "svg"}
    assert charts == {"Reward", "Validation reward", "Level reached 0", "Pass@K 4", "Advantage, mean"}
    lines = [tag[1]["class"] for tag in page.tags if tag[0] == "polyline"]
    assert lines.count("series s0") == 3 and lines.count("series s1") == 3
    assert "<a>" in page.texts and "<b>" in page.texts
    assert "unknown" not in "".join(page.texts)


def test_lines_share_their_axes() -> None:
    chart = lines_chart("x", [[(0, 0.0), (10, 1.0)], [], [(5, 0.5), (10, 0.5)]], zero=True)
    page = Page(chart)
    points = [tag[1]["points"] for tag in page.tags if tag[0] == "polyline"]
    assert points == ["44.0,174.0 348.0,12.0", "196.0,93.0 348.0,93.0"]
    assert [tag[1]["class"] for tag in page.tags if tag[0] == "circle"] == ["mark s0", "mark s2"]


def test_the_command_writes_the_page_or_one_line(tmp_path: Path) -> None:
    log = write_log(tmp_path / "a" / "metrics.jsonl", {1: {"srpo/reward": 0.5}, 2: {"srpo/reward": 0.6}})

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "verl_srpo.report", *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    done = run(str(log), "--out", "pages/srpo.html")
    assert done.returncode == 0, done.stderr
    Page((tmp_path / "pages" / "srpo.html").read_text(encoding="utf-8"))
    failed = run(str(log), "none.jsonl")
    assert failed.returncode == 2
    assert (
        failed.stderr
        == "error: none.jsonl: cannot be read (No such file or directory); name a log that verl's file logger wrote\n"
    )
    assert not (tmp_path / "srpo.html").exists()
