"""The arrows of docs/architecture.md: which folder imports which, read from every import, run-time or not."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What a folder may import of the others; `gream` imports none. Installed names count as those of their folders.
MAY_IMPORT = {
    "plugins/gream": set[str](),
    "plugins/llamafactory_gream": {"gream"},
    "plugins/verl_srpo": {"gream"},
    "plugins/sglang_gream": {"gream"},
    "plugins/vllm_gream": {"gream"},
    "data_processing": {"gream"},
    "eval": {"gream"},
    "serving": {"gream"},
}
INSTALLED = {
    "gream_data": "data_processing",
    "gream_eval": "eval",
    "gream_serving": "serving",
    "gream_recipes": "recipes",
}
OURS = {Path(folder).name for folder in MAY_IMPORT} | set(INSTALLED)
# Frameworks that one folder is about; none of the others may load them, lazily or not.
FRAMEWORKS = {
    "llamafactory": "llamafactory_gream",
    "verl": "verl_srpo",
    "transfer_queue": "verl_srpo",
    "sglang": "sglang_gream",
}


def imports_of(path: Path) -> set[str]:
    """First names of all absolute imports of a file, those inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_arrows_point_one_way(folder: str) -> None:
    own = Path(folder).name
    # Inside a plugin imports are absolute; the other folders go by two names, so that theirs are relative.
    allowed = MAY_IMPORT[folder] | ({own} if folder.startswith("plugins/") else set())
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        imported = imports_of(path)
        assert imported & OURS <= allowed, path
        for framework, home in FRAMEWORKS.items():
            assert framework not in imported or own == home, path


def test_every_package_is_installed() -> None:
    """Listed in pyproject.toml, which maps folders to names and so cannot look for packages by itself."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    named = {folder: name for name, folder in settings["package-dir"].items()}
    there = set()
    for folder in ("data_processing", "eval", "recipes", "serving"):
        for init in (ROOT / folder).rglob("__init__.py"):
            there.add(".".join([named[folder], *init.parent.relative_to(ROOT / folder).parts]))
    there |= {".".join(init.parent.relative_to(ROOT / "plugins").parts) for init in ROOT.glob("plugins/**/__init__.py")}
    assert set(settings["packages"]) == there


def test_the_page_has_the_same_arrows() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")
    ]
    said = {row[0]: row[3] for row in rows if len(row) == 4}
    for folder, allowed in MAY_IMPORT.items():
        assert {name.strip(" `") for name in said[folder].split(",")} - {"none of the others"} == allowed, folder
