"""Evaluations as stages of a run folder: up to date, resumed after a kill, or made anew."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from gream.stage import StageResult, run_stage

from eval.baselines import Ranking, rank_by_cooccurrence, rank_by_popularity
from eval.generative import Decoding, Recommender, checkpoint_files, predict_in_chunks
from eval.metrics import measure
from eval.protocol import Split, held_out, read_interactions, training_matrix
from eval.results import (
    BASELINES,
    K,
    Mode,
    Result,
    outputs_of,
    predictions_table,
    versions_of,
    write_result,
)


def evaluate_baselines(run: Path, *, seed: int, command: str, overwrite: bool) -> list[StageResult]:
    """Make ``eval/popularity`` and ``eval/cooccurrence`` on the test split, for all users.

    Raises:
        GreamError: An input is missing or broken.
    """
    rankings = (rank_by_popularity, rank_by_cooccurrence)
    return [
        _evaluate_baseline(run, mode, rank, seed=seed, command=command, overwrite=overwrite)
        for mode, rank in zip(BASELINES, rankings, strict=True)
    ]


def _evaluate_baseline(
    run: Path, mode: Mode, rank: Callable[..., Ranking], *, seed: int, command: str, overwrite: bool
) -> StageResult:
    interactions, index = run / "interactions.parquet", run / "index.json"

    def build(out: Path) -> None:
        table = read_interactions(interactions)
        catalog = Catalog.load(index)
        cases = held_out(table, "test")
        train = training_matrix(table, len(catalog))
        began = time.monotonic()
        items, scores = rank(train, len(catalog), cases.histories, K)
        seconds = time.monotonic() - began
        nothing = [None] * len(items)
        predictions = predictions_table(cases.users, cases.targets, items, scores, nothing, nothing)
        result = Result(
            name=mode,
            mode=mode,
            split="test",
            checkpoint=None,
            **measure(items, cases.targets, catalogue=len(catalog), seed=seed),
            malformed_rate=None,
            seconds_per_user=seconds / len(items),
            seed=seed,
            settings={},
            versions=versions_of("numpy", "polars", "scipy"),
            command=command,
        )
        write_result(out, result, predictions)

    return run_stage(
        run,
        f"eval-{mode}",
        config={"mode": mode, "k": K, "seed": seed},
        inputs=[interactions, index],
        outputs=outputs_of(mode),
        build=build,
        overwrite=overwrite,
    )


def evaluate_model(
    run: Path,
    checkpoint: Path,
    name: str,
    decoding: Decoding,
    split: Split,
    users: int | None,
    command: str,
    *,
    overwrite: bool,
) -> StageResult:
    """Make ``eval/NAME`` for a checkpoint.

    Args:
        run: Run folder.
        checkpoint: Folder in Hugging Face format.
        name: Name of the evaluation.
        decoding: How to ask; its seed also draws the sample of users and the bootstrap.
        split: Whose item is to be predicted.
        users: Size of the sample of users; None asks all.
        command: What was typed, for the record.
        overwrite: Replace an evaluation of the same name made with another configuration.

    Raises:
        GreamError: An input is missing, the checkpoint does not fit the catalogue, or the name is taken or
            unfit.
    """
    check_name(name)
    interactions, index = run / "interactions.parquet", run / "index.json"
    mode: Mode = "direct" if decoding.chain_tokens is None else "reasoning"
    label = label_of(checkpoint, run)

    def build(out: Path) -> None:
        catalog = Catalog.load(index)
        cases = held_out(read_interactions(interactions), split)
        if users is not None:
            cases = cases.sample(users, decoding.seed)
        recommender = Recommender(checkpoint, catalog, decoding)
        predictions, seconds = predict_in_chunks(recommender, cases, decoding.batch_size, out / "parts")
        items = np.array(predictions["items"].to_list(), dtype=np.int64)  # [N, k]
        malformed = predictions["malformed"].mean()
        result = Result(
            name=name,
            mode=mode,
            split=split,
            checkpoint=label,
            **measure(items, cases.targets, catalogue=len(catalog), seed=decoding.seed),
            malformed_rate=None if malformed is None else float(malformed),  # type: ignore[arg-type]
            seconds_per_user=seconds / len(items),
            seed=decoding.seed,
            settings={key: value for key, value in dataclasses.asdict(decoding).items() if key != "seed"},
            versions=versions_of("numpy", "polars", "torch", "transformers"),
            command=command,
        )
        write_result(out, result, predictions)

    return run_stage(
        run,
        f"eval-{name}",
        config={"mode": mode, "k": K, "split": split, "users": users, "checkpoint": label}
        | dataclasses.asdict(decoding),
        inputs=[interactions, index, *checkpoint_files(checkpoint)],
        outputs=outputs_of(name),
        build=build,
        overwrite=overwrite,
        keep_partial=True,
    )


def check_name(name: str) -> None:
    """Refuse what is no name of an evaluation of a model."""
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise GreamError(f"--name '{name}': letters, digits, '-', '_' and '.' only")
    if name in BASELINES:
        raise GreamError(f"--name '{name}' is the name of a baseline; choose another")


def label_of(path: Path, run: Path) -> str:
    """``path`` as seen from the run folder; its name alone where it lies elsewhere."""
    try:
        return path.resolve().relative_to(run.resolve()).as_posix()
    except ValueError:
        return path.name
