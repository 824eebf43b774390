"""A model evaluated in both modes: exact, resumable, byte for byte the same, and clear about what does not fit."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from eval_support import exact_scores, make_catalog, make_checkpoint, make_run
from gream.dialogue import Form, direct_prompt, reasoning_prompt, render_prompt
from gream.engine.checkpoint import resolve_device
from gream.engine.engine import Engine
from gream.engine.settings import Device, Settings
from gream.errors import GreamError
from gream.protocol import held_out, read_interactions
from gream.semantic_ids.catalog import Catalog
from gream.stage import StageResult
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.generative import InProcess
from eval.results import PREDICTIONS_SCHEMA, Result, read_results
from eval.stages import evaluate_baselines, evaluate_model

DIRECT = Settings(beams=30, history=3, form=Form.question)
REASONING = dataclasses.replace(DIRECT, chain_tokens=12)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_run(tmp_path / "run")
    make_checkpoint(folder)
    return folder


def evaluate(
    run: Path, name: str, asked: Settings, *, users: int | None = None, batch_size: int = 2, **changes: Any
) -> StageResult:
    settings = {"split": "test", "command": "python -m eval", "overwrite": False} | changes
    place = InProcess(batch_size=batch_size, device="cpu")
    done = evaluate_model(run, run / "checkpoints" / "alignment", name, asked, place, users=users, **settings)
    assert done is not None
    return done


def test_longer_lists_go_on_where_shorter_ones_end(run: Path) -> None:
    evaluate(run, "usual", DIRECT)
    evaluate(run, "longer", dataclasses.replace(DIRECT, k=14), cutoffs=(1, 5, 10, 14))
    usual, longer = (next(one for one in read_results(run) if one.name == name) for name in ("usual", "longer"))
    assert longer.k == 14 and "recall@14" in longer.metrics
    assert all(longer.metrics[name].value == usual.metrics[name].value for name in usual.metrics)
    assert [row[:10] for row in predictions(run, "longer")["items"].to_list()] == predictions(run, "usual")[
        "items"
    ].to_list()


def predictions(run: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(run / "eval" / name / "predictions.parquet")


def test_direct_lists_are_those_of_scoring_the_whole_catalogue(run: Path) -> None:
    evaluate(run, "direct", DIRECT)
    table = predictions(run, "direct")
    assert table.schema == pl.Schema(PREDICTIONS_SCHEMA)
    assert table["chain"].is_null().all() and table["malformed"].is_null().all()
    folder = run / "checkpoints" / "alignment"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    catalog = Catalog.load(run / "index.json")
    ids = [tokenizer.convert_tokens_to_ids(list(tokens)) for tokens in catalog.ids]
    cases = held_out(read_interactions(run / "interactions.parquet"), "test")
    assert table["user"].to_list() == cases.users.tolist()
    assert table["target"].to_list() == cases.targets.tolist()
    for row in (0, 9, 23):
        prompt = render_prompt(direct_prompt([catalog.text(item) for item in cases.histories[row][-3:]]))
        exact = np.array(exact_scores(model, tokenizer(prompt)["input_ids"], ids))
        best = np.argsort(-exact)[:10]
        assert table["items"][row].to_list() == best.tolist()
        np.testing.assert_allclose(table["scores"][row].to_list(), exact[best], atol=1e-4)


def test_reasoned_scores_are_those_of_the_item_given_the_chain(run: Path) -> None:
    evaluate(run, "reasoning", REASONING, users=5)
    table = predictions(run, "reasoning")
    assert table["malformed"].all() and table["chain"].str.ends_with("<answer>").all()
    folder = run / "checkpoints" / "alignment"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    catalog = Catalog.load(run / "index.json")
    cases = held_out(read_interactions(run / "interactions.parquet"), "test").sample(5, seed=0)
    prompt = render_prompt(reasoning_prompt([catalog.text(item) for item in cases.histories[0][-3:]]))
    prompt_ids = tokenizer(prompt)["input_ids"]
    generated = model.generate(
        **tokenizer(prompt, return_tensors="pt"), do_sample=False, max_new_tokens=12, eos_token_id=-1
    )[0].tolist()[len(prompt_ids) :]
    answer = tokenizer("<answer>")["input_ids"]
    assert table["chain"][0] == tokenizer.decode(generated) + "<answer>"
    ids = [tokenizer.convert_tokens_to_ids(list(tokens)) for tokens in catalog.ids]
    exact = np.array(exact_scores(model, [*prompt_ids, *generated, *answer], ids))
    np.testing.assert_allclose(table["scores"][0].to_list(), np.sort(exact)[::-1][:10], atol=1e-4)
    [result] = read_results(run)
    assert (result.mode, result.malformed_rate, result.users, result.settings["chain_tokens"]) == (
        "reasoning",
        1.0,
        5,
        12,
    )


@pytest.mark.parametrize("decoding", [DIRECT, REASONING], ids=["direct", "reasoning"])
def test_a_killed_evaluation_goes_on_and_ends_byte_for_byte_the_same(
    run: Path, decoding: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(run, "unbroken", decoding)
    answer = Engine.answer
    asked: list[int] = []

    def killed(self: Engine, queries: Any, *more: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(queries))
        return answer(self, queries, *more)

    monkeypatch.setattr(Engine, "answer", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, "broken", decoding)
    assert asked == [8, 8] and not (run / "eval" / "broken").exists()
    monkeypatch.setattr(Engine, "answer", lambda *args: asked.append(8) or answer(*args))
    evaluate(run, "broken", decoding)
    assert asked == [8, 8, 8]  # 24 users in all: none was asked twice
    one, other = (run / "eval" / name / "predictions.parquet" for name in ("unbroken", "broken"))
    assert one.read_bytes() == other.read_bytes()
    first, second = read_results(run)
    assert min(first.seconds_per_user, second.seconds_per_user) > 0
    volatile = {"name": True, "seconds_per_user": True, "cost": {"latency_p50", "latency_p95"}}
    assert first.model_dump(exclude=volatile) == second.model_dump(exclude=volatile)


@pytest.mark.parametrize("decoding", [DIRECT, REASONING], ids=["direct", "reasoning"])
def test_lists_can_leave_out_all_that_the_user_already_has(run: Path, decoding: Settings) -> None:
    # A list that holds the whole catalogue shows what is left once the history is taken from it.
    evaluate(run, "all", decoding)
    evaluate(run, "new", dataclasses.replace(decoding, exclude_history=True))
    histories = held_out(read_interactions(run / "interactions.parquet"), "test").histories
    repeats = 0
    for whole, new, history in zip(
        predictions(run, "all")["items"], predictions(run, "new")["items"], histories, strict=True
    ):
        kept = [item for item in whole if item not in history]
        assert new.to_list()[: len(kept)] == kept
        assert len(new) == len(set(new)) == 10 and not set(new) & set(history)
        repeats += len(whole) - len(kept)
    assert repeats > 0
    assert next(result for result in read_results(run) if result.name == "new").settings["exclude_history"]


def test_who_has_nearly_everything_gets_the_rest_first_and_then_what_is_there(run: Path) -> None:
    table = pl.read_parquet(run / "interactions.parquet", glob=False)
    first = table.filter(pl.col("user") == 0)
    others = [item for item in range(30) if item not in first["item"].to_list()][:-3]
    more = first.filter(pl.col("split") == "train").head(1).drop("item", "position")
    more = more.join(pl.DataFrame({"item": others, "position": [-1 - n for n in range(len(others))]}), how="cross")
    pl.concat([table, more.select(table.columns).cast(dict(table.schema))]).write_parquet(run / "interactions.parquet")
    evaluate(run, "new", dataclasses.replace(DIRECT, exclude_history=True))
    cases = held_out(read_interactions(run / "interactions.parquet"), "test")
    [items, *_] = predictions(run, "new")["items"].to_list()
    left = set(range(30)) - set(cases.histories[0])
    assert len(left) < 10 and set(items[: len(left)]) == left
    assert len(set(items)) == 10 and set(items[len(left) :]) <= set(cases.histories[0])


def test_unchanged_evaluations_are_not_made_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(run, "direct", DIRECT, users=6).ran
    assert not evaluate(run, "direct", DIRECT, users=6, command="python -m eval direct").ran
    with pytest.raises(GreamError, match=r"another configuration \(beams: 30 -> 20\)"):
        evaluate(run, "direct", dataclasses.replace(DIRECT, beams=20), users=6)
    # Logs and optimizer states beside the weights are no input.
    (run / "checkpoints" / "alignment" / "trainer_log.jsonl").write_text("{}")
    assert not evaluate(run, "direct", DIRECT, users=6).ran
    shutil.rmtree(run / "checkpoints")
    make_checkpoint(run)
    config = run / "checkpoints" / "alignment" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert evaluate(run, "direct", DIRECT, users=6).ran
    assert "config.json changed" in capsys.readouterr().out


def test_batches_and_lists_do_not_depend_on_each_other(run: Path) -> None:
    evaluate(run, "small", DIRECT)
    evaluate(run, "large", DIRECT, batch_size=16)
    assert predictions(run, "small")["items"].to_list() == predictions(run, "large")["items"].to_list()


def test_sampled_chains_differ_by_seed(run: Path) -> None:
    warm = dataclasses.replace(REASONING, temperature=2.0)
    evaluate(run, "zero", warm)
    evaluate(run, "again", warm, batch_size=5)
    evaluate(run, "one", dataclasses.replace(warm, seed=1))
    evaluate(run, "five", dataclasses.replace(DIRECT, seed=1), users=5)
    assert (
        predictions(run, "five")["user"].to_list()
        == held_out(read_interactions(run / "interactions.parquet"), "test").sample(5, seed=1).users.tolist()
    )
    zero, again, one = (predictions(run, name)["chain"].to_list() for name in ("zero", "again", "one"))
    assert zero == again and zero != one


def test_validation_items_are_predicted_from_training_histories(run: Path) -> None:
    evaluate(run, "valid", DIRECT, split="valid")
    cases = held_out(read_interactions(run / "interactions.parquet"), "valid")
    assert predictions(run, "valid")["target"].to_list() == cases.targets.tolist()
    assert read_results(run)[0].split == "valid"


def test_baselines_are_made_for_all_users_and_come_first(run: Path) -> None:
    evaluate(run, "a-model", DIRECT, users=4)
    results = evaluate_baselines(run, seed=0, command="python -m eval baselines", overwrite=False)
    assert [result.ran for result in results] == [True] * 4
    again = evaluate_baselines(run, seed=0, command="python -m eval baselines", overwrite=False)
    assert not any(result.ran for result in again)
    names = [result.name for result in read_results(run)]
    assert names == ["popularity", "cooccurrence", "markov", "transitions", "a-model"]
    interactions = read_interactions(run / "interactions.parquet")
    counts = interactions.filter(pl.col("split") == "train")["item"].value_counts()
    count_of = dict(counts.iter_rows())
    table = predictions(run, "popularity")
    assert table["user"].to_list() == held_out(interactions, "test").users.tolist()
    for items, scores in zip(table["items"].to_list(), table["scores"].to_list(), strict=True):
        assert scores == [count_of.get(item, 0) for item in items]


def test_metrics_follow_the_schema_and_an_unknown_key_is_named(run: Path) -> None:
    evaluate(run, "direct", DIRECT, users=4)
    path = run / "eval" / "direct" / "metrics.json"
    raw = json.loads(path.read_text())
    assert Result.model_validate(raw).model_dump(mode="json") == raw
    assert raw["checkpoint"] == "checkpoints/alignment"
    assert {"python", "gream", "torch", "transformers", "numpy", "polars"} == raw["versions"].keys() - {"commit"}
    assert raw["invalid_rate"] == 0 and raw["duplicates"] == 0 and raw["malformed_rate"] is None
    path.write_text(json.dumps(raw | {"recall": 1}))
    with pytest.raises(GreamError, match=r"metrics\.json: key 'recall'"):
        read_results(run)


def test_what_does_not_fit_is_named_before_anything_is_computed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(GreamError, match="'popularity' is the name of a baseline"):
        evaluate(run, "popularity", DIRECT)
    with pytest.raises(GreamError, match="letters, digits"):
        evaluate(run, "../elsewhere", DIRECT)
    with pytest.raises(GreamError, match="9 beams cannot fill a list of 10"):
        evaluate(run, "few", dataclasses.replace(DIRECT, beams=9))
    with pytest.raises(GreamError, match=r"up to 523 follow, but the model has 512 positions"):
        evaluate(run, "long", dataclasses.replace(DIRECT, chain_tokens=512))
    with pytest.raises(GreamError, match=r"no config\.json; name a folder in Hugging Face format"):
        evaluate_model(
            run, tmp_path, "empty", DIRECT, InProcess(batch_size=2, device="cpu"), "test", None, "", overwrite=False
        )
    make_catalog(64).save(run / "index.json")
    with pytest.raises(GreamError, match=r"the tokenizer lacks <\|a_3\|> and 1 other"):
        evaluate(run, "other", DIRECT)
    assert not (run / "eval").exists()


def test_a_device_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device(Device.auto) == resolve_device(Device.cpu) == "cpu"
    with pytest.raises(GreamError, match="--device cuda: torch finds no CUDA device"):
        resolve_device(Device.cuda)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert resolve_device(Device.auto) == resolve_device(Device.cuda) == "cuda"
