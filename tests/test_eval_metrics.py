"""Metrics against ir-measures and known values; intervals against resampling user by user."""

from __future__ import annotations

from itertools import combinations

import ir_measures
import numpy as np
import pytest
from gream.errors import GreamError
from ir_measures import RR, P, R, Success, nDCG

from eval.metrics import (
    METRICS,
    SHOWN,
    exposure_of,
    mean_with_interval,
    measure,
    metrics_with_intervals,
    pass_at_k,
    ranks_of,
    values_by_rank,
)
from eval.results import Interval


def test_metrics_equal_those_of_ir_measures() -> None:
    random = np.random.default_rng(0)
    users, k, catalogue = 200, 10, 15
    items = np.stack([random.permutation(catalogue)[:k] for _ in range(users)])
    targets = random.integers(catalogue, size=users)
    qrels = [ir_measures.Qrel(str(user), str(target), 1) for user, target in enumerate(targets)]
    lists = [
        ir_measures.ScoredDoc(str(user), str(item), float(k - rank))
        for user, row in enumerate(items)
        for rank, item in enumerate(row)
    ]
    oracle = {"recall@1": R @ 1, "recall@5": R @ 5, "recall@10": R @ 10}
    oracle |= {"ndcg@5": nDCG @ 5, "ndcg@10": nDCG @ 10, "mrr": RR}
    oracle |= {f"hit@{cutoff}": Success @ cutoff for cutoff in (1, 5, 10)}
    oracle |= {f"precision@{cutoff}": P @ cutoff for cutoff in (1, 5, 10)}
    assert oracle.keys() == set(METRICS)
    expected = ir_measures.calc_aggregate(list(oracle.values()), qrels, lists)
    ours = measure(items, targets, catalogue=catalogue, seed=0)["metrics"]
    assert 0.2 < ours["recall@10"].value < 0.9
    for name, metric in oracle.items():
        assert ours[name].value == pytest.approx(expected[metric], abs=1e-12), name


def test_values_of_single_ranks() -> None:
    assert ranks_of(np.array([[4, 7, 9], [4, 7, 9]]), np.array([9, 1])).tolist() == [3, 0]
    table = dict(zip(METRICS, values_by_rank(10)[6], strict=True))
    assert table == {
        "recall@1": 0, "recall@5": 0, "recall@10": 1, "ndcg@5": 0,
        "ndcg@10": pytest.approx(1 / np.log2(7)), "mrr": pytest.approx(1 / 6),
        "hit@1": 0, "hit@5": 0, "hit@10": 1, "precision@1": 0, "precision@5": 0, "precision@10": pytest.approx(0.1),
    }  # fmt: skip
    assert not values_by_rank(10)[0].any()


def test_intervals_are_those_of_drawing_users() -> None:
    random = np.random.default_rng(1)
    ranks = random.binomial(10, 0.15, size=300)
    ours = metrics_with_intervals(ranks, 10, seed=3)
    assert ours == metrics_with_intervals(ranks, 10, seed=3)
    values = values_by_rank(10)[ranks]
    drawn = np.stack([values[random.integers(300, size=300)].mean(axis=0) for _ in range(4000)])
    for at, name in enumerate(SHOWN):
        low, high = np.percentile(drawn[:, at], [2.5, 97.5])
        width = high - low
        assert ours[name].low == pytest.approx(low, abs=0.15 * width)
        assert ours[name].high == pytest.approx(high, abs=0.15 * width)
        assert ours[name].low < ours[name].value < ours[name].high


def test_an_interval_of_a_mean_narrows_with_the_root_of_its_size() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, size=4000)
    few, many = mean_with_interval(values[:250], 0), mean_with_interval(values, 0)
    assert many.value == pytest.approx(values.mean())
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4.0, rel=0.15)
    assert mean_with_interval(np.full(9, 0.5), 0) == Interval(value=0.5, low=0.5, high=0.5)


def test_invalid_items_and_doubled_lists_are_counted() -> None:
    items = np.array([[0, 1, 2, 3], [1, 5, 2, -1], [2, 3, 2, 0]])
    figures = measure(items, np.array([0, 0, 0]), catalogue=5, seed=0)
    assert figures["invalid_rate"] == pytest.approx(2 / 12)
    assert figures["duplicates"] == 1
    assert (figures["users"], figures["k"]) == (3, 4)


def test_exposure_of_known_lists() -> None:
    # Users 0, 1, 2 have items {0, 1}, {0}, {0, 2}; nobody has 3.
    train = np.array([[0, 0, 1, 2, 2], [0, 1, 0, 0, 2]])
    exposure = exposure_of(np.array([[0, 1], [0, 3]]), train, [[0, 1], [1, 3]], 4)
    assert exposure.coverage == pytest.approx(3 / 4)
    # Shown 2, 1, 0, 1 times: sum over all pairs of |difference| / (2 n^2 mean) = 2 * 7 / (2 * 16).
    assert exposure.gini == pytest.approx(np.abs(np.subtract.outer([2, 1, 0, 1], [2, 1, 0, 1])).sum() / (2 * 16 * 1))
    assert exposure.novelty == pytest.approx(-np.mean(np.log2([4 / 5, 2 / 5, 4 / 5, 1 / 5])))
    assert exposure.popularity == pytest.approx((2 + 1.5) / 2)
    assert exposure.popularity_lift == pytest.approx(1.75 / ((2 + 0.5) / 2) - 1)


def test_gini_is_nought_for_equal_shares_and_highest_for_one_item() -> None:
    train, histories = np.array([[0], [0]]), [[0]] * 3
    assert exposure_of(np.array([[0, 1], [2, 3], [4, 5]]), train, histories, 6).gini == 0
    assert exposure_of(np.array([[4], [4], [4]]), train, histories, 6).gini == pytest.approx(5 / 6)
    # What does not exist takes no part.
    assert exposure_of(np.array([[4, -1], [4, 6], [4, 9]]), train, histories, 6).gini == pytest.approx(5 / 6)


@pytest.mark.parametrize(("n", "k"), [(10, 4), (5, 1), (6, 6)])
def test_pass_at_k_is_the_share_of_subsets_with_a_hit(n: int, k: int) -> None:
    subsets = list(combinations(range(n), k))
    expected = [sum(min(subset) < c for subset in subsets) / len(subsets) for c in range(n + 1)]
    np.testing.assert_allclose(pass_at_k(np.arange(n + 1), n, k), expected, atol=1e-12)


def test_impossible_counts_of_answers_are_named() -> None:
    with pytest.raises(GreamError, match="pass@5 of 4 answers"):
        pass_at_k(np.array([1]), 4, 5)
    with pytest.raises(GreamError, match="between 0 and 5 of 4 answers hit"):
        pass_at_k(np.array([0, 5]), 4, 2)
