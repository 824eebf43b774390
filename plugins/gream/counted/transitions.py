"""Transitions and content: a list that needs no training, its weights chosen on validation.

An item's score after a history is a weighted sum of three parts:

- **step**: how often it followed the last item of the history directly, ``log(1 + count)``;
- **near**: how often it stood next to each item of the history, in either order, older items counting less;
- **content**: the cosine between its embedding and the history's, older items counting less.

Counts are of training sequences, and each item's row of counts is divided by its largest. The idea, in other forms: TGH
(arXiv 2605.07125), SeqRules (arXiv 2608.19833). Such a list is what a trained model has to be read against.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gream.counted.lists import Histories, Ranking, ndcg_gain, places, popularity_of, rank_histories, steps
from gream.errors import GreamError
from gream.protocol import Cases

# Histories whose scores over the whole catalogue are held at once while weights are chosen.
_USERS_AT_ONCE = 256


@dataclass(frozen=True)
class Weights:
    """How the parts are added.

    Attributes:
        step: Weight of direct steps from the last item.
        near: Weight of neighbours of all items of the history.
        content: Weight of the cosine of embeddings.
        near_decay: What an item's neighbours count for, relative to those of the item after it.
        content_decay: The same for its embedding.
    """

    step: float
    near: float
    content: float
    near_decay: float
    content_decay: float


def grid(content: bool) -> list[Weights]:
    """The settings among which validation chooses; with no embeddings, those without content."""
    counts = [(0.2, 0.2), (0.2, 0.4), (0.4, 0.2), (0.4, 0.4), (0.4, 0.8), (0.8, 0.4), (0.8, 0.8)]
    if not content:
        pairs = [(1.0, 0.0), (1.0, 0.5), (1.0, 1.0), (0.5, 1.0)]
        return [Weights(step, near, 0.0, decay, 1.0) for (step, near), decay in itertools.product(pairs, (0.6, 0.8))]
    decays = itertools.product((0.6, 0.8), (0.5, 0.7, 0.9))
    return [Weights(step, near, 1.0, *pair) for pair, (step, near) in itertools.product(decays, counts)]


def grid_lines(gains: Mapping[Weights, float]) -> list[str]:
    """What `Transitions.choose` found, as lines for people: a pair of decays each, the best one marked."""
    best = max(gains, key=lambda weights: gains[weights])
    lines: dict[tuple[float, float], str] = {}
    for weights, gain in gains.items():
        decays = (weights.near_decay, weights.content_decay)
        start = f"decay of neighbours {decays[0]:g}, of content {decays[1]:g}; step/near, validation NDCG@10:"
        mark = "*" if weights == best else ""
        lines[decays] = f"{lines.get(decays, start)}  {weights.step:g}/{weights.near:g} {gain:.4f}{mark}"
    return list(lines.values())


class Transitions:
    """Counts of training sequences and embeddings, from which lists are made."""

    def __init__(
        self, train: npt.NDArray[np.int64], items: int, embeddings: npt.NDArray[np.float32] | None = None
    ) -> None:
        """Count.

        Args:
            train: int64 ``[2, M]``, user and item of each training interaction, each user's in order of time.
            items: Size of the catalogue.
            embeddings: float32 ``[items, d]``; None leaves content out.

        Raises:
            GreamError: There are not as many embeddings as items.
        """
        if embeddings is not None and len(embeddings) != items:
            raise GreamError(f"embeddings.safetensors holds {len(embeddings)} vectors for {items} items; embed again")
        self._popularity = popularity_of(train, items)
        followed = steps(train, items).astype(np.float32)
        self._step = _logarithmic(followed)
        self._near = _logarithmic(sp.csr_array(followed + followed.T))
        self._unit = None
        if embeddings is not None:
            self._unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)

    def choose(self, cases: Cases, *, allow_history: bool) -> tuple[Weights, dict[Weights, float]]:
        """The weights of the `grid` with the best NDCG@10 on ``cases``, and that of each; ties to the earlier.

        Args:
            cases: Of the validation split.
            allow_history: Whether lists may hold what the user already has.
        """
        settings = grid(self._unit is not None)
        gain = dict.fromkeys(settings, 0.0)
        for start in range(0, len(cases.users), _USERS_AT_ONCE):
            histories = cases.histories[start : start + _USERS_AT_ONCE]
            targets = cases.targets[start : start + _USERS_AT_ONCE]
            for weights, scores in self._scores(histories, settings):
                gain[weights] += ndcg_gain(scores, targets, histories, allow_history=allow_history)
        mean = {weights: total / len(cases.users) for weights, total in gain.items()}
        return max(mean, key=lambda weights: mean[weights]), mean

    def rank(self, weights: Weights, histories: Histories, k: int, *, allow_history: bool) -> Ranking:
        """The items of highest score after each history.

        Args:
            weights: How the parts are added.
            histories: N lists of items, oldest first.
            k: Items per list.
            allow_history: Whether lists may hold what the user already has.

        Returns:
            Items int64 ``[N, k]`` and scores float32 ``[N, k]``.
        """

        def score(batch: Histories) -> npt.NDArray[np.float64]:
            return self.score(batch, weights).astype(np.float64)

        return rank_histories(score, self._popularity, histories, k, allow_history=allow_history)

    def score(self, histories: Histories, weights: Weights) -> npt.NDArray[np.float32]:
        """Scores of all items after each of B histories, float32 ``[B, items]``.

        Args:
            histories: Lists of items, oldest first.
            weights: How the parts are added.
        """
        [(_, scores)] = self._scores(histories, [weights])
        return scores

    def _scores(
        self, histories: Histories, settings: Sequence[Weights]
    ) -> Iterator[tuple[Weights, npt.NDArray[np.float32]]]:
        """Scores float32 ``[B, items]`` for each of ``settings``; each part is computed once per decay."""
        step = self._step[[history[-1] for history in histories]].toarray()
        near = {
            decay: (self._faded(histories, decay) @ self._near).toarray()
            for decay in {weights.near_decay for weights in settings}
        }
        content = {decay: self._cosines(histories, decay) for decay in {weights.content_decay for weights in settings}}
        for weights in settings:
            scores = weights.step * step + weights.near * near[weights.near_decay]
            yield weights, scores + weights.content * content[weights.content_decay]

    def _faded(self, histories: Histories, decay: float) -> sp.csr_array:
        """What each item of each history counts for, float32 ``[B, items]``: 1 for the last one."""
        row, item = places(histories)
        age = np.concatenate([np.arange(len(history) - 1, -1, -1) for history in histories])
        shape = (len(histories), len(self._popularity))
        return sp.csr_array((np.power(decay, age, dtype=np.float32), (row, item)), shape=shape)

    def _cosines(self, histories: Histories, decay: float) -> npt.NDArray[np.float32] | float:
        """Cosine between every item and each history, float32 ``[B, items]``; 0 without embeddings."""
        if self._unit is None:
            return 0.0
        taste = self._faded(histories, decay) @ self._unit
        taste /= np.maximum(np.linalg.norm(taste, axis=1, keepdims=True), 1e-12)
        return taste @ self._unit.T


def _logarithmic(counts: sp.csr_array) -> sp.csr_array:
    """``log(1 + counts)``, each row divided by its largest value."""
    logs = counts.log1p()
    largest = logs.max(axis=1).toarray().ravel()
    return sp.csr_array(sp.diags_array((1 / np.maximum(largest, 1e-12)).astype(np.float32)) @ logs)
