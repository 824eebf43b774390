"""A model says how it is to be asked: it is asked so, and a wrong form, window, wording or catalogue is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest
from eval_support import make_catalog, make_checkpoint, make_run
from gream.decoding.choices import ServerEngine
from gream.decoding.server_client import ServerSettings
from gream.dialogue import Form
from gream.engine.contract import ids_digest, prompt_version, read_contract, settle
from gream.engine.settings import Device, Mode, Settings
from gream.errors import GreamError

from eval.generative import InProcess, OnServers
from eval.results import read_results
from eval.stages import evaluate_model
from serving.items import Items
from serving.recommend import Recommender

OPEN = Settings(beams=30)
HERE = InProcess(batch_size=8, device="cpu")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def evaluate(run: Path, checkpoint: Path, name: str, asked: Settings) -> list[list[int]]:
    evaluate_model(run, checkpoint, name, asked, HERE, "test", 6, "", overwrite=False)
    lists: list[list[int]] = pl.read_parquet(run / "eval" / name / "predictions.parquet")["items"].to_list()
    return lists


@pytest.mark.parametrize("form", Form)
def test_form_and_window_come_from_the_model(run: Path, form: Form) -> None:
    says, silent = make_checkpoint(run, "says", form, history=2), make_checkpoint(run, "silent")
    ours = evaluate(run, says, "ours", OPEN)
    assert ours == evaluate(run, silent, "named", dataclasses.replace(OPEN, form=form, history=2))
    other = Form.sequence if form is Form.question else Form.question
    assert ours != evaluate(run, silent, "form", dataclasses.replace(OPEN, form=other, history=2))
    assert ours != evaluate(run, silent, "window", dataclasses.replace(OPEN, form=form, history=4))
    [settings] = [result.settings for result in read_results(run) if result.name == "ours"]
    assert (settings["form"], settings["history"]) == (form, 2)
    for wrong in ({"form": other}, {"history": 4}):
        [(name, value)] = wrong.items()
        with pytest.raises(GreamError, match=f"says: was trained with --{name} .*, not {value}; leave --{name} out"):
            evaluate(run, says, "wrong", dataclasses.replace(OPEN, **wrong))
    items = Items.load(run)
    for mode in Mode:
        recommender = Recommender(
            says, items, dataclasses.replace(OPEN, chain_tokens=4), device=Device.cpu, batch_size=4, modes=[mode]
        )
        [found] = recommender.recommend(mode, [[5, 6, 7, 8]], 3)
        assert [item.item_id for item in found.history] == ["B00007", "B00008"]


def test_a_model_that_says_nothing_has_to_be_explained(run: Path) -> None:
    silent = make_checkpoint(run)
    with pytest.raises(GreamError, match=r"alignment: does not say how many items .* name --history"):
        evaluate(run, silent, "none", OPEN)
    with pytest.raises(GreamError, match=r"alignment: does not say which prompt .* --form \(question, sequence\)"):
        evaluate(run, silent, "none", dataclasses.replace(OPEN, history=3))
    assert settle(dataclasses.replace(OPEN, history=3), silent, own_prompt=False).form is None
    assert settle(dataclasses.replace(OPEN, history=3, chain_tokens=5), silent).form is None
    assert not (run / "eval").exists()


def test_another_catalogue_is_refused_everywhere(run: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(run, form=Form.question)
    # The same tokens, and the same number of items: nothing but the contract can tell.
    index = tmp_path / "other.json"
    ids = make_catalog(30).ids[::-1]
    index.write_text(json.dumps({str(item): list(tokens) for item, tokens in enumerate(ids)}))
    servers = OnServers(engine=ServerEngine.vllm, servers=ServerSettings(("http://127.0.0.1:1",)))
    message = r"alignment: was trained on other semantic ids than those of .*other\.json"
    for place in (HERE, servers):
        with pytest.raises(GreamError, match=message):
            evaluate_model(run, checkpoint, "x", OPEN, place, "test", 6, "", overwrite=False, index=index)
    with pytest.raises(GreamError, match=message):
        Recommender(checkpoint, Items.load(run, index), OPEN, device=Device.cpu, batch_size=4, modes=[Mode.direct])
    # How a file is written does not matter.
    (run / "index.json").write_text((run / "index.json").read_text().replace("\n", " "))
    evaluate(run, checkpoint, "same", OPEN)


def test_another_wording_and_a_prompt_from_elsewhere_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint(run, form=Form.question)
    with pytest.raises(GreamError, match="was trained on this project's prompts; leave --prompt out"):
        settle(OPEN, checkpoint, own_prompt=False)
    version = prompt_version(Form.sequence)
    monkeypatch.setattr("gream.dialogue.DIRECT_QUESTION", "What follows {history}?")
    with pytest.raises(GreamError, match=r"was trained on prompts of version \w+, and this code asks with \w+;"):
        evaluate(run, checkpoint, "other", OPEN)
    assert prompt_version(Form.sequence) == version  # which has other words


def test_a_broken_contract_is_one_line(run: Path) -> None:
    checkpoint = make_checkpoint(run, form=Form.question)
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    for broken, message in (
        ("{", r"config\.json:1: not valid JSON .*name the folder of a whole model"),
        (json.dumps(config | {"gream": 3}), "key 'gream' is no object"),
        (json.dumps(config | {"gream": config["gream"] | {"form": "poem"}}), r"config\.json, gream: key 'form'"),
        (json.dumps(config | {"gream": config["gream"] | {"window": 3}}), "unknown key 'window'"),
    ):
        path.write_text(broken)
        with pytest.raises(GreamError, match=message) as caught:
            read_contract(checkpoint)
        assert "\n" not in str(caught.value)


def test_the_digest_is_of_tokens_item_by_item() -> None:
    ids = [["<|a_1|>", "<|b_1|>"], ["<|a_1|>", "<|b_2|>"]]
    assert ids_digest(ids) == ids_digest([tuple(tokens) for tokens in ids])
    joined = [["<|a_1|><|b_1|>"], ["<|a_1|>", "<|b_2|>"]]
    assert len({ids_digest(each) for each in (ids, ids[::-1], ids[:1], joined)}) == 4
