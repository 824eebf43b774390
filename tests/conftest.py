"""Fixtures that several test files use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real Amazon data; tests that need it are skipped where it is not named."""
    folder = os.environ.get("GREAM_REAL_DATA")
    if not folder:
        pytest.skip("GREAM_REAL_DATA names no folder with real data")
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: processes that share the work then end at nearly the same time."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
