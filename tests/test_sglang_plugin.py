"""The plugin of SGLang without SGLang: which catalogues a server takes, and what a request may ask of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_support import make_checkpoint, make_run
from gream.dialogue import Form
from gream.engine.checkpoint import load_tokenizer
from gream.engine.contract import ids_digest
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from sglang_gream.catalogues import Asked, Catalogues, named_files
from sglang_gream.plugin import register


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("plugin") / "run")
    make_checkpoint(folder, form=Form.question)
    return folder


def load(run: Path, index: Path, vocabulary: int = 10_000) -> Catalogues:
    checkpoint = run / "checkpoints" / "alignment"
    contract = json.loads((checkpoint / "config.json").read_text())["gream"]
    return Catalogues.load({"shop": index}, load_tokenizer(checkpoint), contract, vocabulary, "cpu")


def test_a_catalogue_goes_by_its_name_and_by_the_digest_of_its_ids(run: Path) -> None:
    catalogues = load(run, run / "index.json")
    found = catalogues.find("shop")
    assert found is catalogues.find(ids_digest(Catalog.load(run / "index.json").ids)) and len(found.ids) == 30
    with pytest.raises(GreamError, match="no catalogue 'other'; this server has shop"):
        catalogues.find("other")


def test_a_part_of_it_holds_its_own_items_alone(run: Path) -> None:
    catalogue = load(run, run / "index.json").find("shop")
    ids, trie = catalogue.of((7, 2))
    assert ids.items == ((2,), (7,)) and sorted(trie.trie.item[trie.trie.item >= 0]) == [0, 1]
    assert catalogue.of((2, 7))[1] is trie
    for only, message in (((30,), "no item 30; the catalogue has the items 0 to 29"), ((), "'only' names no item")):
        with pytest.raises(GreamError, match=message):
            catalogue.of(only)


def test_ids_that_are_not_the_models_are_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "index.json"
    Catalog(Catalog.load(run / "index.json").ids[1:]).save(other)
    with pytest.raises(GreamError, match="was trained on other semantic ids than those of"):
        load(run, other)
    with pytest.raises(GreamError, match=r"token \d+ lies outside the 100 tokens of"):
        load(run, run / "index.json", vocabulary=100)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (True, "custom_params.gream: an object is expected"),
        ({"catalog": "shop"}, "key 'catalogue'"),
        ({"catalogue": "shop", "exclude": [-1]}, "exclude"),
        ({"catalogue": "shop", "score": "best"}, "score"),
    ],
)
def test_a_request_in_other_words_is_one_line(raw: Any, message: str) -> None:
    with pytest.raises(GreamError, match=message) as caught:
        Asked.read(raw)
    assert "\n" not in str(caught.value)


def test_the_variable_names_files(run: Path) -> None:
    index = run / "index.json"
    assert named_files({}) == {}
    assert named_files({"GREAM_CATALOGUES": f"a={index}:b={index}"}) == {"a": index, "b": index}
    for value, message in (
        ("shop", "NAME=INDEX:NAME=INDEX expected, not 'shop'"),
        (f"a={index}:a={index}", "expected, not"),
        ("a=/nowhere/index.json", "/nowhere/index.json is not there"),
    ):
        with pytest.raises(GreamError, match=message):
            named_files({"GREAM_CATALOGUES": value})


def test_a_server_does_not_start_without_the_catalogues_that_it_is_to_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GREAM_CATALOGUES", raising=False)
    register()
    monkeypatch.setenv("GREAM_CATALOGUES", "shop=/nowhere/index.json")
    # No exception that SGLang would catch and go on after.
    with pytest.raises(SystemExit):
        register()
    assert "error: GREAM_CATALOGUES: /nowhere/index.json is not there" in capsys.readouterr().err
