"""Baselines against plain Python, ties included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from gream.counted.lists import cooccurrence, markov_chain, popularity, rank_by, top_k
from gream.counted.transitions import Transitions, Weights, grid
from gream.errors import GreamError
from gream.protocol import Cases
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from eval.metrics import measure

ITEMS = 12
EMBEDDINGS = np.random.default_rng(0).normal(size=(ITEMS, 4)).astype(np.float32)

training = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=6, unique=True), min_size=1, max_size=8)
histories_of_users = st.lists(
    st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=5, unique=True), min_size=1, max_size=4
)


def matrix(sequences: list[list[int]]) -> np.ndarray:
    return np.array([(user, item) for user, items in enumerate(sequences) for item in items]).T


@given(sequences=training, histories=histories_of_users)
def test_popularity_is_counting(sequences: list[list[int]], histories: list[list[int]]) -> None:
    counts = Counter(item for items in sequences for item in items)
    items, scores = rank_by(popularity, matrix(sequences), ITEMS, histories, k=5)
    for row, history in enumerate(histories):
        expected = sorted(set(range(ITEMS)) - set(history), key=lambda item: (-counts[item], item))[:5]
        assert items[row].tolist() == expected
        assert scores[row].tolist() == [counts[item] for item in expected]


@given(sequences=training, histories=histories_of_users)
def test_cooccurrence_is_the_sum_of_cosines(sequences: list[list[int]], histories: list[list[int]]) -> None:
    users = [{user for user, items in enumerate(sequences) if item in items} for item in range(ITEMS)]

    def cosine(one: int, other: int) -> float:
        both = len(users[one] & users[other])
        return both / np.sqrt(len(users[one]) * len(users[other])) if both else 0.0

    items, scores = rank_by(cooccurrence, matrix(sequences), ITEMS, histories, k=5)
    for row, history in enumerate(histories):
        exact = {item: sum(cosine(item, had) for had in history) for item in set(range(ITEMS)) - set(history)}
        np.testing.assert_allclose(scores[row], sorted(exact.values(), reverse=True)[:5], atol=1e-6)
        np.testing.assert_allclose([exact[item] for item in items[row].tolist()], scores[row], atol=1e-6)
        assert len(set(items[row].tolist())) == 5


@given(sequences=training, histories=histories_of_users)
def test_a_markov_chain_counts_what_followed_the_last_item(
    sequences: list[list[int]], histories: list[list[int]]
) -> None:
    pairs = Counter(pair for items in sequences for pair in pairwise(items))
    counts = Counter(item for items in sequences for item in items)
    items, scores = rank_by(markov_chain, matrix(sequences), ITEMS, histories, k=5)
    for row, history in enumerate(histories):
        followed = sum(count for (before, _), count in pairs.items() if before == history[-1])
        chance = {item: pairs[history[-1], item] / max(followed, 1) for item in set(range(ITEMS)) - set(history)}
        expected = sorted(chance, key=lambda item: (-chance[item], -counts[item], item))[:5]
        assert items[row].tolist() == expected
        np.testing.assert_allclose(scores[row], [chance[item] for item in expected], rtol=1e-6)


def score_by_hand(sequences: list[list[int]], history: list[int], weights: Weights) -> list[float]:
    """The score of every item, from its definition."""
    steps = Counter(pair for items in sequences for pair in pairwise(items))

    def near(one: int, other: int) -> float:
        return np.log1p(steps[one, other] + steps[other, one])

    def relative(value: Callable[[int, int], float], one: int, other: int) -> float:
        largest = max(value(one, item) for item in range(ITEMS))
        return value(one, other) / largest if largest else 0.0

    taste = sum(
        weights.content_decay**age * EMBEDDINGS[item] / np.linalg.norm(EMBEDDINGS[item])
        for age, item in enumerate(reversed(history))
    )
    return [
        weights.step * relative(lambda one, other: np.log1p(steps[one, other]), history[-1], item)
        + weights.near
        * sum(weights.near_decay**age * relative(near, had, item) for age, had in enumerate(reversed(history)))
        + weights.content * (EMBEDDINGS[item] @ taste / np.linalg.norm(EMBEDDINGS[item]) / np.linalg.norm(taste))
        for item in range(ITEMS)
    ]


@given(sequences=training, histories=histories_of_users, allow=st.booleans())
def test_transitions_add_steps_neighbours_and_content(
    sequences: list[list[int]], histories: list[list[int]], allow: bool
) -> None:
    weights = Weights(0.4, 0.2, 1.0, 0.8, 0.7)
    found = Transitions(matrix(sequences), ITEMS, EMBEDDINGS).rank(weights, histories, 5, allow_history=allow)
    for items, scores, history in zip(*found, histories, strict=True):
        exact = np.array(score_by_hand(sequences, history, weights))
        allowed = np.array([item for item in range(ITEMS) if allow or item not in history])
        np.testing.assert_allclose(scores, np.sort(exact[allowed])[::-1][:5], atol=1e-5)
        np.testing.assert_allclose(scores, exact[items], atol=1e-5)
        assert len(set(items.tolist())) == 5 and set(items.tolist()) <= set(allowed.tolist())


@pytest.mark.parametrize("embeddings", [EMBEDDINGS, None])
@pytest.mark.parametrize("allow", [True, False])
def test_weights_are_those_of_the_best_validation_ndcg(embeddings: np.ndarray | None, allow: bool) -> None:
    random = np.random.default_rng(1)
    sequences = [random.permutation(ITEMS)[: random.integers(2, 7)].tolist() for _ in range(40)]
    cases = Cases(
        np.arange(40, dtype=np.int32),
        np.array([items[-1] for items in sequences], dtype=np.int32),
        tuple(tuple(items[:-1]) for items in sequences),
    )
    lists = Transitions(matrix([items[:-1] for items in sequences]), ITEMS, embeddings)
    best, gains = lists.choose(cases, allow_history=allow)
    assert set(gains) == set(grid(embeddings is not None)) and gains[best] == max(gains.values())
    for weights, gain in gains.items():
        items, _ = lists.rank(weights, cases.histories, 10, allow_history=allow)
        ndcg = measure(items, cases.targets, catalogue=ITEMS, seed=0)["metrics"]["ndcg@10"].value
        # A tie counts against the list here, and goes to the more popular item there.
        assert gain <= ndcg + 1e-9 and (embeddings is None or gain == pytest.approx(ndcg))


def test_embeddings_of_another_catalogue_are_refused() -> None:
    with pytest.raises(GreamError, match=r"embeddings\.safetensors holds 11 vectors for 12 items"):
        Transitions(matrix([[0, 1]]), ITEMS, EMBEDDINGS[1:])


def test_items_nobody_had_together_are_ranked_by_popularity() -> None:
    train = matrix([[0, 1], [3], [3], [2], [4, 3]])
    items, scores = rank_by(cooccurrence, train, 6, [[0]], k=5)
    assert items.tolist() == [[1, 3, 2, 4, 5]]
    assert scores[0].tolist() == pytest.approx([1, 0, 0, 0, 0])


def test_a_list_is_full_where_the_history_is_nearly_the_catalogue() -> None:
    items, _ = rank_by(popularity, matrix([[0, 1], [1, 2]]), 3, [[0, 1]], k=10)
    assert items.tolist() == [[2, 1, 0]]


@given(
    scores=arrays.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(3, 9)), elements=st.integers(0, 4)),
    k=st.integers(1, 3),
)
def test_top_k_is_a_stable_sort_cut_off(scores: np.ndarray, k: int) -> None:
    np.testing.assert_array_equal(top_k(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])
