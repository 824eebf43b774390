"""Counted transitions as item scores that a model's lists are fused with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gream.counted.lists import popular_first, popularity_of
from gream.counted.transitions import Transitions, Weights
from gream.engine.fusion import Fusion, ItemScores
from gream.errors import GreamError
from gream.files import read_json
from gream.protocol import read_interactions, training_matrix
from gream.semantic_ids.embeddings import read_embeddings
from gream.semantic_ids.published import read_token_lists

TRANSITIONS = "transitions"


def embeddings_of(run: Path) -> Path | None:
    """The run's embeddings, where it has some."""
    path = run / "embeddings.safetensors"
    return path if path.exists() else None


def transitions_of(run: Path, train: npt.NDArray[np.int64], items: int) -> Transitions:
    """Transitions of ``train`` (see `rank_by`), with the run's embeddings where it has some.

    Raises:
        GreamError: The embeddings are of another number of items.
    """
    path = embeddings_of(run)
    return Transitions(train, items, None if path is None else read_embeddings(path, items))


def transition_scores(counts: Transitions, weights: Weights) -> ItemScores:
    """Transitions as item scores, their parts added with ``weights``."""
    return lambda queries: counts.score([query.history for query in queries], weights)


def chosen_fusion(run: Path, name: str) -> Fusion:
    """Transitions with the weights that an evaluation of the run chose, for whoever recommends.

    Args:
        run: Run folder.
        name: Of an evaluation that was made with ``--fuse transitions``.

    Raises:
        GreamError: There is no such evaluation, or an input is broken.
    """
    summary = run / "eval" / name / "metrics.json"
    if not summary.exists():
        raise GreamError(f"--fuse {name}: {summary} is not there; 'gream eval direct --fuse transitions' makes one")
    result = read_json(summary, remedy="evaluate again with --overwrite")
    settings = result.get("settings") if isinstance(result, dict) else None
    if not isinstance(settings, dict) or settings.get("fuse") != TRANSITIONS:
        raise GreamError(f"--fuse {name}: {summary} was not made with --fuse {TRANSITIONS}")
    items = len(read_token_lists(run / "index.json"))
    train = training_matrix(read_interactions(run / "interactions.parquet"), items)
    start = f"{TRANSITIONS}."
    weights = {key[len(start) :]: float(value or 0) for key, value in settings.items() if key.startswith(start)}
    scores = transition_scores(transitions_of(run, train, items), Weights(**weights))
    return Fusion(scores, popular_first(popularity_of(train, items)), float(settings["fuse_weight"] or 0))
