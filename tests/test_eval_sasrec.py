"""SASRec: it learns what depends on order, sees no padding and no future, and goes on where it was killed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from eval_support import make_catalog
from gream.errors import GreamError
from gream.protocol import Protocol, held_out, read_interactions

from eval import sasrec
from eval.results import read_results
from eval.sasrec import SasRec, SasRecSettings, train_sasrec
from eval.stages import evaluate_baselines, evaluate_sasrec

ITEMS = 24
SMALL = SasRecSettings(hidden=32, dropout=0.1, length=8, batch=16, rate=5e-3, negatives=ITEMS, epochs=8, patience=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users whose next item is the one before last plus seven: no pair of neighbours tells it, the order does."""
    folder = tmp_path_factory.mktemp("sasrec") / "run"
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = []
    for user in range(250):
        items = random.choice(ITEMS, size=2, replace=False).tolist()
        length = random.integers(5, 11)  # so that every position of a test history occurs in training
        while len(items) < length and (items[-2] + 7) % ITEMS not in items:
            items.append((items[-2] + 7) % ITEMS)
        splits = ["train"] * (len(items) - 2) + ["valid", "test"]
        rows += [(user, item, at, split) for at, (item, split) in enumerate(zip(items, splits, strict=True))]
    schema = {"user": pl.Int32, "item": pl.Int32, "position": pl.Int32, "split": pl.String}
    pl.DataFrame(rows, schema=schema, orient="row").with_columns(tied=pl.lit(None, pl.Boolean)).write_parquet(
        folder / "interactions.parquet"
    )
    make_catalog(ITEMS).save(folder / "index.json")
    return folder


def test_it_finds_what_counting_cannot(run: Path) -> None:
    evaluate_sasrec(run, SMALL, command="", overwrite=False)
    list(evaluate_baselines(run, seed=0, command="", overwrite=False))
    found = {result.name: result for result in read_results(run)}
    assert list(found) == ["popularity", "cooccurrence", "markov", "transitions", "sasrec"]
    best = found["sasrec"].metrics["recall@1"].value
    assert best > 0.6
    counted = ("popularity", "cooccurrence", "markov", "transitions")
    rivals = {name: found[name].metrics["recall@1"].value for name in counted}
    assert best > 1.3 * max(rivals.values()), rivals
    settings = found["sasrec"].settings
    assert settings["epochs_trained"] == 8 and 1 <= int(settings["best_epoch"] or 0) <= 8
    assert not evaluate_sasrec(run, SMALL, command="", overwrite=False).ran
    table = pl.read_parquet(run / "eval" / "sasrec" / "predictions.parquet")
    cases = held_out(read_interactions(run / "interactions.parquet"), "test")
    assert table["user"].to_list() == cases.users.tolist()
    for items, history in zip(table["items"].to_list(), cases.histories, strict=True):
        assert len(set(items)) == 10 and not set(items) & set(history)


def test_refitted_it_knows_the_validation_items_too_and_may_name_what_a_user_has(run: Path) -> None:
    protocol = Protocol("allowed", "train+valid")
    evaluate_sasrec(run, dataclasses.replace(SMALL, epochs=4), protocol=protocol, command="", overwrite=False)
    [result] = [result for result in read_results(run) if result.name == "sasrec-history-refit"]
    assert (result.history, result.fitted) == ("allowed", "train+valid")
    cases = held_out(read_interactions(run / "interactions.parquet"), "test")
    table = pl.read_parquet(run / "eval" / "sasrec-history-refit" / "predictions.parquet")
    assert any(set(items) & set(had) for items, had in zip(table["items"].to_list(), cases.histories, strict=True))


def test_a_killed_training_goes_on_and_ends_with_the_same_lists(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(SMALL, epochs=3, negatives=6)
    table = read_interactions(run / "interactions.parquet")
    sequences = [[1, 2, 3, 4, 5], [3, 4, 5, 6], [7, 8, 9, 1, 2, 3, 4, 5, 6, 10, 11, 12]] * 9
    valid = held_out(table, "valid")

    def scores(state: Path) -> np.ndarray:
        trained = train_sasrec(sequences, valid, ITEMS, settings, state)
        return trained.model.score_histories([[1, 2], [5]]).numpy()

    unbroken = scores(tmp_path / "unbroken.safetensors")
    epochs: list[int] = []
    train_epoch = sasrec._train_epoch

    def killed(*arguments: Any) -> float:
        if len(epochs) == 2:
            raise KeyboardInterrupt
        epochs.append(arguments[-1])
        return train_epoch(*arguments)

    monkeypatch.setattr(sasrec, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        scores(tmp_path / "broken.safetensors")
    monkeypatch.setattr(
        sasrec, "_train_epoch", lambda *arguments: epochs.append(arguments[-1]) or train_epoch(*arguments)
    )
    np.testing.assert_array_equal(scores(tmp_path / "broken.safetensors"), unbroken)
    assert epochs == [0, 1, 2]


def test_neither_padding_nor_what_comes_later_changes_a_state() -> None:
    torch.manual_seed(0)
    model = SasRec(ITEMS, SMALL).eval()
    sequences = [[1, 2, 3, 4, 5], [9], [7, 8]]
    together = model.score_histories(sequences)
    for row, sequence in enumerate(sequences):
        torch.testing.assert_close(model.score_histories([sequence])[0], together[row])
    with torch.no_grad():
        torch.testing.assert_close(model(model.pad([[1, 2, 3]]))[0], model(model.pad([[1, 2, 3, 4]]))[0, :3])
    assert together.shape == (3, ITEMS)
    # Only the latest items count, and their order does.
    torch.testing.assert_close(model.score_histories([[20, 21, *range(8)]]), model.score_histories([range(8)]))
    assert not torch.allclose(model.score_histories([[1, 2]]), model.score_histories([[2, 1]]))


def test_the_sampled_loss_estimates_the_exact_one() -> None:
    torch.manual_seed(0)
    model = SasRec(400, dataclasses.replace(SMALL, hidden=16)).eval()
    states, wanted = torch.randn(50, 16) * 20, torch.arange(50)

    def loss(negatives: int, seed: int) -> float:
        settings = dataclasses.replace(SMALL, negatives=negatives)
        return sasrec._loss(model, states, wanted, settings, np.random.default_rng(seed)).item()

    exact = loss(400, 0)
    direct = torch.nn.functional.cross_entropy(states @ model.item.weight[:400].T, wanted)
    assert exact == pytest.approx(direct.item())
    drawn = [loss(100, seed) for seed in range(60)]
    assert np.mean(drawn) == pytest.approx(exact, rel=0.01)
    assert np.std(drawn) > 0


def test_own_negatives_are_those_of_each_prediction_without_weights() -> None:
    torch.manual_seed(0)
    settings = dataclasses.replace(SMALL, hidden=16, negatives=5, loss="sampled")
    model = SasRec(30, settings).eval()
    states, wanted = torch.randn(7, 16) * 20, torch.arange(7)
    found = sasrec._loss(model, states, wanted, settings, np.random.default_rng(3))
    drawn = np.random.default_rng(3).integers(30, size=(7, 5))
    losses = []
    for state, target, others in zip(states, wanted, drawn, strict=True):
        scores = model.item.weight @ state
        rest = [scores[other] for other in others.tolist() if other != int(target)]
        losses.append(torch.stack([scores[target], *rest]).logsumexp(0) - scores[target])
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_positions_from_the_newest_item_shift_with_the_history() -> None:
    torch.manual_seed(0)
    model = SasRec(ITEMS, dataclasses.replace(SMALL, positions="newest")).eval()
    sequences = [[1, 2, 3, 4, 5], [9], [7, 8]]
    together = model.score_histories(sequences)
    for row, sequence in enumerate(sequences):
        torch.testing.assert_close(model.score_histories([sequence])[0], together[row])
    # What stands at the newest place has the first position, whatever comes before it.
    places = model.position.weight.clone()
    with torch.no_grad():
        model.position.weight[1:] = 0
        changed = model.score_histories([[9]])
        model.position.weight.copy_(places)
    torch.testing.assert_close(changed[0], together[1])


def test_what_cannot_be_trained_is_named(run: Path, tmp_path: Path) -> None:
    valid = held_out(read_interactions(run / "interactions.parquet"), "valid")
    with pytest.raises(GreamError, match="no user has two training items"):
        train_sasrec([[1], [2]], valid, ITEMS, SMALL, tmp_path / "state")
    with pytest.raises(GreamError, match="--hidden 33: a multiple of 2"):
        train_sasrec([[1, 2]], valid, ITEMS, dataclasses.replace(SMALL, hidden=33), tmp_path / "state")
