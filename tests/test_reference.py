"""The pages of the reference say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_reference_is_fresh() -> None:
    pages: dict[str, str] = runpy.run_path(str(ROOT / "scripts" / "reference.py"))["pages"]()
    stale = [
        name for name, text in pages.items() if (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") != text
    ]
    assert not stale, f"docs/reference: {', '.join(stale)} stale; renew with: python scripts/reference.py"


def test_every_key_and_option_of_the_reference_is_explained() -> None:
    for name in ("commands.md", "recipe.md", "metrics.md"):
        for line in (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8").splitlines():
            if line.startswith("| `"):
                meaning = line.rstrip(" |").rpartition(" | ")[2]
                assert len(meaning.split()) >= 2 or meaning.startswith("`"), (name, line)
                assert not meaning.startswith(("Of ", "Likewise")), (name, line)
