"""Chains combined, against plain sums of probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gream.decoding.combine import combine_chains
from gream.errors import GreamError
from hypothesis import given, settings
from hypothesis import strategies as st


def test_an_item_counts_with_its_mean_probability() -> None:
    # Item 7 is second in both lists and comes first together; item 3 is in one list only.
    items = np.array([[3, 7, 1], [5, 7, 1]])
    probabilities = np.array([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1]])
    best, scores = combine_chains(items, np.log(probabilities), 3)
    assert best.tolist() == [7, 3, 5]  # 3 and 5 are equal: the lower number first
    np.testing.assert_allclose(np.exp(scores.astype(float)), [0.4, 0.25, 0.25], rtol=1e-6)
    assert (best.dtype, scores.dtype) == (np.int64, np.float32)


def test_one_chain_is_its_own_list() -> None:
    items, scores = np.array([[4, 2, 9]]), np.array([[-1.0, -2.0, -700.0]], dtype=np.float32)
    best, combined = combine_chains(items, scores, 2)
    assert best.tolist() == [4, 2]
    np.testing.assert_array_equal(combined, scores[0, :2])


@settings(max_examples=40)
@given(data=st.data(), chains=st.integers(1, 5), width=st.integers(1, 6))
def test_combining_is_summing_probabilities_whatever_the_order_of_chains(
    data: st.DataObject, chains: int, width: int
) -> None:
    rows = st.lists(st.integers(0, 9), min_size=width, max_size=width, unique=True)
    items = np.array(data.draw(st.lists(rows, min_size=chains, max_size=chains)))
    logs = st.lists(st.floats(-40, 0), min_size=width, max_size=width)
    scores = np.array(data.draw(st.lists(logs, min_size=chains, max_size=chains)))
    best, combined = combine_chains(items, scores, width)
    exact = {item: math.fsum(math.exp(score) for score in scores[items == item]) / chains for item in set(items.flat)}
    np.testing.assert_allclose(np.exp(combined.astype(float)), [exact[item] for item in best], rtol=1e-4)
    np.testing.assert_allclose(np.exp(combined.astype(float)), sorted(exact.values(), reverse=True)[:width], rtol=1e-4)
    assert len(set(best.tolist())) == width
    shuffled = data.draw(st.permutations(range(chains)))
    again, same = combine_chains(items[shuffled], scores[shuffled], width)
    np.testing.assert_array_equal(best, again)
    np.testing.assert_array_equal(combined, same)


def test_what_cannot_be_combined_is_named() -> None:
    with pytest.raises(GreamError, match=r"items \(1, 2\) and scores \(1, 3\)"):
        combine_chains(np.zeros((1, 2), dtype=int), np.zeros((1, 3)), 1)
    with pytest.raises(GreamError, match="a list of 3 items from lists of 2: 1 to 2"):
        combine_chains(np.array([[0, 1]]), np.zeros((1, 2)), 3)
