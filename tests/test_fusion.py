"""Fused lists: log-probabilities and item scores added over candidates of both sides, against scoring everything."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from eval_support import exact_scores, make_checkpoint, make_model, make_run
from gream.counted.transitions import Transitions, grid
from gream.decoding.beam import TrieBeamSearch
from gream.dialogue import Form, direct_prompt, render_prompt
from gream.engine.fusion import Candidates
from gream.engine.settings import Combine, Device, Mode, Settings
from gream.errors import GreamError
from gream.protocol import held_out, read_interactions, training_matrix
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.trie import PrefixTrie
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.fusion import WEIGHTS, FileScores, gains_by_weight
from eval.generative import InProcess
from eval.results import Result, best_baseline, read_results
from eval.stages import evaluate_baselines, evaluate_model, with_baselines
from serving.recommend import RunModel

VOCABULARY = 60
DIRECT = Settings(beams=30, history=3, form=Form.question, exclude_history=True, fuse="transitions")
REASONING = dataclasses.replace(DIRECT, chain_tokens=6)


@settings(max_examples=12, deadline=None)
@given(
    st.sets(st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple), min_size=3, max_size=25),
    st.lists(st.lists(st.integers(0, 23), max_size=6, unique=True), min_size=1, max_size=3),
    st.integers(1, 4),
)
def test_what_is_included_gets_its_exact_score_however_narrow_the_beam(
    ids: set[tuple[int, ...]], include: list[list[int]], beams: int
) -> None:
    model = make_model(VOCABULARY)
    catalogue = sorted(ids)
    include = [[item for item in items if item < len(catalogue)] for items in include]
    prompts = [list(range(1, row + 2)) for row in range(len(include))]
    out = [{0} for _ in include]
    search = TrieBeamSearch(model, PrefixTrie.build(catalogue), k=beams, beams=beams)
    found = search.search(prompts, out, include)
    plain = search.search(prompts, out)
    for row, (prompt, items) in enumerate(zip(prompts, include, strict=True)):
        exact = np.array(exact_scores(model, prompt, catalogue))
        exact[0] = -np.inf
        np.testing.assert_allclose(found.included[row, : len(items)], exact[items], atol=1e-4)
        assert np.isneginf(found.included[row, len(items) :]).all()
        # Beside the beams, not instead of them; and the same alone as among others.
        assert (found.scores[row] >= plain.scores[row] - 1e-4).all()
        alone = search.search([prompt], [{0}], [items])
        np.testing.assert_allclose(alone.scores[0], found.scores[row, : alone.scores.shape[1]], atol=1e-4)


@given(
    st.lists(st.tuples(st.floats(-20, 0, width=16), st.floats(0, 3, width=16), st.booleans()), min_size=1, max_size=12),
    st.sampled_from(WEIGHTS),
    st.integers(1, 5),
)
def test_the_best_candidates_are_those_of_the_highest_sums(
    rows: list[tuple[float, float, bool]], weight: float, k: int
) -> None:
    logs, scores, found = map(np.array, zip(*rows, strict=True))
    items = np.arange(len(rows))[::-1]
    candidates = Candidates(items, logs, scores, found, np.where(found, -1, np.arange(len(rows))))
    wanted = sorted(
        zip(items.tolist(), (logs + weight * scores).tolist(), strict=True), key=lambda row: (-row[1], row[0])
    )
    assert items[candidates.best(weight, k)].tolist() == [item for item, _ in wanted[:k]]
    own = sorted(((-log, item) for item, log, mine in zip(items, logs, found, strict=True) if mine))
    assert candidates.by_model(k).tolist() == [item for _, item in own[:k]]
    assert candidates.by_scores(k).tolist() == items[~found][:k].tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("fusion") / "run", users=12)
    make_checkpoint(folder)
    list(evaluate_baselines(folder, seed=0, command="", overwrite=False))
    return folder


def evaluate(run: Path, name: str, asked: Settings, split: str = "test") -> Result:
    place = InProcess(batch_size=4, device="cpu")
    checkpoint = run / "checkpoints" / "alignment"
    evaluate_model(run, checkpoint, name, asked, place, split, None, "python -m eval", overwrite=False)  # type: ignore[arg-type]
    return next(result for result in read_results(run) if result.name == name)


def naive(run: Path, split: str) -> tuple[np.ndarray, np.ndarray, Sequence[Sequence[int]], np.ndarray]:
    """Log-probability and transitions score of every item for every user, the histories, and the targets."""
    folder = run / "checkpoints" / "alignment"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    catalog = Catalog.load(run / "index.json")
    ids = [tokenizer.convert_tokens_to_ids(list(tokens)) for tokens in catalog.ids]
    table = read_interactions(run / "interactions.parquet")
    cases = held_out(table, split)  # type: ignore[arg-type]
    prompts = [
        tokenizer(render_prompt(direct_prompt([catalog.text(item) for item in history[-3:]])))["input_ids"]
        for history in cases.histories
    ]
    logs = np.array([exact_scores(model, prompt, ids) for prompt in prompts])
    counts = Transitions(training_matrix(table, len(catalog)), len(catalog))
    weights, _ = counts.choose(held_out(table, "valid"), allow_history=False)
    assert weights in grid(False)
    scores = counts.score(cases.histories, weights).astype(np.float64)
    for row, history in enumerate(cases.histories):
        logs[row, list(history)] = -np.inf
    return logs, scores, cases.histories, cases.targets


def ndcg(fused: np.ndarray, targets: np.ndarray) -> float:
    rank = (np.argsort(-fused, axis=1, kind="stable") == targets[:, None]).argmax(axis=1)
    return float(np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean())


def test_lists_and_weight_are_those_of_scoring_everything(run: Path) -> None:
    result = evaluate(run, "fused", DIRECT)
    logs, scores, _, targets = naive(run, "valid")
    gains = {weight: ndcg(logs + weight * scores, targets) for weight in WEIGHTS}
    weight = max(gains, key=lambda weight: (gains[weight], -weight))
    assert result.settings["fuse_weight"] == weight
    assert result.settings["validation_ndcg@10"] == pytest.approx(gains[weight])
    logs, scores, histories, targets = naive(run, "test")
    table = pl.read_parquet(run / "eval" / "fused" / "predictions.parquet")
    fused = logs + weight * scores
    best = np.argsort(-fused, axis=1, kind="stable")[:, :10]
    np.testing.assert_allclose(
        np.array(table["scores"].to_list()), np.take_along_axis(fused, best, axis=1), atol=1e-3, rtol=1e-5
    )
    assert np.mean(np.array(table["items"].to_list()) == best) > 0.98  # but for ties within rounding
    assert not any(set(row) & set(history) for row, history in zip(table["items"].to_list(), histories, strict=True))
    assert result.metrics["ndcg@10"].value == pytest.approx(ndcg(fused, targets), abs=0.02)


def test_recommend_adds_what_an_evaluation_weighed_and_shows_the_parts(run: Path) -> None:
    weight = float(evaluate(run, "weighed", DIRECT).settings["fuse_weight"] or 0)
    table = pl.read_parquet(run / "eval" / "weighed" / "predictions.parquet").head(3)
    model = RunModel(
        run=run,
        checkpoint=run / "checkpoints" / "alignment",
        settings=dataclasses.replace(DIRECT, fuse="weighed"),
        device=Device.cpu,
        batch_size=2,
        fused="weighed",
    )
    recommender = model.recommender(model.items(), [Mode.direct])
    histories = held_out(read_interactions(run / "interactions.parquet"), "test").histories[:3]
    for found, scores in zip(recommender.recommend(Mode.direct, histories, 10), table["scores"], strict=True):
        np.testing.assert_allclose([item.score for item in found.items], scores.to_list(), atol=1e-4)
        for item in found.items:
            assert item.parts is not None and item.parts.weight == weight
            assert item.score == pytest.approx(item.parts.log_probability + weight * item.parts.item_score)
    with pytest.raises(GreamError, match=r"--fuse plain: .* is not there"):
        dataclasses.replace(model, fused="plain").recommender(model.items(), [Mode.direct])
    with pytest.raises(GreamError, match="was not made with --fuse transitions"):
        dataclasses.replace(model, fused="markov").recommender(model.items(), [Mode.direct])


@pytest.mark.parametrize("asked", [DIRECT, REASONING], ids=["direct", "reasoning"])
def test_each_part_alone_is_what_it_is_without_fusion(run: Path, asked: Settings) -> None:
    fused = evaluate(run, f"both-{asked.mode}", asked)
    plain = evaluate(run, f"plain-{asked.mode}", dataclasses.replace(asked, fuse=None))
    transitions = next(result for result in read_results(run) if result.name == "transitions")
    assert fused.alone is not None and plain.alone is None
    assert fused.alone["model"] == plain.metrics
    assert fused.alone["transitions"] == transitions.metrics


def test_a_file_brings_scores_of_validation_and_test(run: Path, tmp_path: Path) -> None:
    table = read_interactions(run / "interactions.parquet")
    rows = []
    for split in ("valid", "test"):
        cases = held_out(table, split)  # type: ignore[arg-type]
        for user, target in zip(cases.users.tolist(), cases.targets.tolist(), strict=True):
            rows += [(f"A<{user}>", f"B{target:05d}", 5.0, split), (f"A<{user}>", "B00000", 1.0, split)]
    path = tmp_path / "truth.csv"
    frame = pl.DataFrame(rows, schema=["user", "item", "score", "split"], orient="row")
    frame.write_csv(path)
    result = evaluate(run, "told", dataclasses.replace(DIRECT, fuse=str(path)))
    # The truth has the highest score: whatever the model says, enough weight puts it first.
    assert result.metrics["recall@1"].value > 0.9 and result.settings["fuse"] == "truth.csv"
    assert result.alone is not None and set(result.alone) == {"model", "truth.csv"}

    def fails(frame: pl.DataFrame, words: str) -> None:
        frame.write_csv(path)
        with pytest.raises(GreamError, match=words):
            FileScores.load(path, run)

    fails(frame.with_columns(item=pl.lit("B1")), "row 1: no item of this run is called 'B1'")
    fails(frame.with_columns(split=pl.lit("train")), "row 1: a finite score and the split")
    fails(frame.with_columns(score=pl.lit("x")), "a score is no number")
    fails(frame.drop("split"), r"truth\.csv: has no column 'split'; user, item, score and split are needed$")
    fails(frame.head(0), "holds no scores")
    frame.filter(pl.col("split") == "test").write_csv(path)
    with pytest.raises(GreamError, match="has no valid scores of user number"):
        evaluate(run, "half", dataclasses.replace(DIRECT, fuse=str(path)))


def test_what_cannot_be_fused_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(GreamError, match="--fuse chooses its weight on the validation items"):
        evaluate(run, "valid", DIRECT, split="valid")
    with pytest.raises(GreamError, match=r"'transitions', or a file in \.csv or \.parquet"):
        evaluate(run, "other", dataclasses.replace(DIRECT, fuse=str(make_text(tmp_path))))
    with pytest.raises(GreamError, match="sampled answers are no list"):
        dataclasses.replace(REASONING, chains=2, temperature=1.0, combine=Combine.answers)


def make_text(folder: Path) -> Path:
    path = folder / "scores.txt"
    path.write_text("nothing")
    return path


def test_the_weight_is_that_of_the_best_lists() -> None:
    # The target is second by the model and first by score: any weight that turns the order is as good.
    candidates = Candidates(
        np.array([4, 7]), np.array([-1.0, -2.5]), np.array([0.0, 1.0]), np.array([True, True]), np.array([-1, 0])
    )
    gains = gains_by_weight([candidates], np.array([7]))
    assert {weight for weight, gain in gains.items() if gain == 1.0} == {weight for weight in WEIGHTS if weight > 1.5}


def test_a_refitted_model_is_asked_for_test_items_alone_and_read_against_refitted_lists(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", users=6)
    checkpoint = make_checkpoint(run, form=Form.question)
    config = json.loads((checkpoint / "config.json").read_text())
    config["gream"]["fitted"] = "train+valid"
    (checkpoint / "config.json").write_text(json.dumps(config))
    plain = dataclasses.replace(DIRECT, fuse=None)
    result = evaluate(run, "refitted", plain)
    assert result.fitted == "train+valid"
    with_baselines(run, command="")
    rival = best_baseline(result, read_results(run))
    assert rival is not None and rival.name.endswith("-refit")
    for asked, split in ((plain, "valid"), (DIRECT, "test")):
        with pytest.raises(GreamError, match="was trained on the validation items too"):
            evaluate(run, "other", asked, split)
