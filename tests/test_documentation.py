"""What the pages say of the repository: files are there, links lead somewhere, commands find their imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
EXPERIMENTS = sorted((ROOT / "docs" / "experiments").glob("2*.md"), reverse=True)
BENCHMARKS = sorted((ROOT / "scripts" / "bench").glob("*.py"))


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", [page for page in PAGES if page not in EXPERIMENTS], ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    folders = "scripts|recipes|tests|plugins|data_processing|eval|serving|docs"
    named = rf"(?<![\w./-])(?:{folders})/[\w./-]*\w\.(?:py|sh|yaml|md)\b"
    for name in re.findall(named, page.read_text(encoding="utf-8")):
        placeholder = re.search(r"NAME|RECIPE", name)
        assert placeholder or (ROOT / name).exists(), name


def test_benchmarks_are_called_so_that_they_find_what_they_import() -> None:
    """Run by its path, a script sees what is installed and its own folder: not the packages of the repository."""
    called = 0
    for page in [*PAGES, *BENCHMARKS]:
        text = page.read_text(encoding="utf-8")
        for settings, name in re.findall(r"((?:\b[A-Z_]+=\S+\s+)*)python\s+(scripts/bench/\w+\.py)", text):
            nodes = list(ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))))
            modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
            ours = {module.split(".")[0] for module in modules} & {"data_processing", "eval"}
            assert "PYTHONPATH=. " in settings or not ours, (page.name, name)
            called += 1
    assert called >= len(BENCHMARKS)


def test_experiments_are_listed_newest_first_and_say_what_they_were_made_with() -> None:
    index = (ROOT / "docs" / "experiments" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d{4}-\d\d-\d\d) \| \[.*\]\((\S+)\)", index, flags=re.MULTILINE)
    assert sorted(name for _, name in listed) == sorted(page.name for page in EXPERIMENTS)
    assert [date for date, _ in listed] == sorted((date for date, _ in listed), reverse=True)
    assert all(name.startswith(date) for date, name in listed)
    for page in EXPERIMENTS:
        rows = re.findall(r"^\| (\w+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert {"Question", "Answer", "Code", "Machine", "Command"} <= set(rows), page.name
