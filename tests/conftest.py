"""Fixtures that several test files use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No example has to be quick: how long one takes says how busy the machine is.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real Amazon data; tests that need it are skipped where it is not named."""
    folder = os.environ.get("GREAM_REAL_DATA")
    if not folder:
        pytest.skip("GREAM_REAL_DATA names no folder with real data")
    return Path(folder)


@pytest.fixture
def no_keys_no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of whoever runs the tests takes part in requests."""
    for name in ("GREAM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: processes that share the work then end at nearly the same time."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
