"""Baselines against plain Python, ties included."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from eval.baselines.counted import rank_by_cooccurrence, rank_by_popularity, rank_by_transitions, top_k

ITEMS = 12

training = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=6, unique=True), min_size=1, max_size=8)
histories_of_users = st.lists(
    st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=5, unique=True), min_size=1, max_size=4
)


def matrix(sequences: list[list[int]]) -> np.ndarray:
    return np.array([(user, item) for user, items in enumerate(sequences) for item in items]).T


@given(sequences=training, histories=histories_of_users)
def test_popularity_is_counting(sequences: list[list[int]], histories: list[list[int]]) -> None:
    counts = Counter(item for items in sequences for item in items)
    items, scores = rank_by_popularity(matrix(sequences), ITEMS, histories, k=5)
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

    items, scores = rank_by_cooccurrence(matrix(sequences), ITEMS, histories, k=5)
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
    items, scores = rank_by_transitions(matrix(sequences), ITEMS, histories, k=5)
    for row, history in enumerate(histories):
        followed = sum(count for (before, _), count in pairs.items() if before == history[-1])
        chance = {item: pairs[history[-1], item] / max(followed, 1) for item in set(range(ITEMS)) - set(history)}
        expected = sorted(chance, key=lambda item: (-chance[item], -counts[item], item))[:5]
        assert items[row].tolist() == expected
        np.testing.assert_allclose(scores[row], [chance[item] for item in expected], rtol=1e-6)


def test_items_nobody_had_together_are_ranked_by_popularity() -> None:
    train = matrix([[0, 1], [3], [3], [2], [4, 3]])
    items, scores = rank_by_cooccurrence(train, 6, [[0]], k=5)
    assert items.tolist() == [[1, 3, 2, 4, 5]]
    assert scores[0].tolist() == pytest.approx([1, 0, 0, 0, 0])


def test_a_list_is_full_where_the_history_is_nearly_the_catalogue() -> None:
    items, _ = rank_by_popularity(matrix([[0, 1], [1, 2]]), 3, [[0, 1]], k=10)
    assert items.tolist() == [[2, 1, 0]]


@given(
    scores=arrays.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(3, 9)), elements=st.integers(0, 4)),
    k=st.integers(1, 3),
)
def test_top_k_is_a_stable_sort_cut_off(scores: np.ndarray, k: int) -> None:
    np.testing.assert_array_equal(top_k(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])
