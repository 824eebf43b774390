"""Semantic ids: vocabulary, catalog, trie, residual k-means, collisions, quality."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.collisions import collision_groups, resolve_collisions
from gream.semantic_ids.kmeans import Codebook, fit_residual_kmeans, squared_distances
from gream.semantic_ids.quality import quality_report
from gream.semantic_ids.trie import PrefixTrie
from gream.semantic_ids.vocabulary import find_tokens, level_token
from hypothesis import given, settings
from hypothesis import strategies as st

unequal_ids = st.lists(
    st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple), min_size=1, max_size=30, unique=True
)


def test_published_token_form() -> None:
    assert level_token(0, 0) == "<|a_1|>"
    assert level_token(4, 255) == "<|e_256|>"
    assert find_tokens("x <|a_1|><b_22> <think>") == ["<|a_1|>", "<b_22>"]


def test_catalog_round_trip(tmp_path: Path) -> None:
    catalog = Catalog([["<|a_2|>", "<|b_1|>"], ["<|a_1|>", "<|b_10|>", "<|c_1|>"]])
    catalog.save(tmp_path / "index.json")
    again = Catalog.load(tmp_path / "index.json")
    assert again.ids == catalog.ids
    assert again.item_in("so: <|a_1|><|b_10|><|c_1|>.") == 1
    assert again.item_in("<|a_1|><|b_10|>") is None
    assert again.tokens == ["<|a_1|>", "<|a_2|>", "<|b_1|>", "<|b_10|>", "<|c_1|>"]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([["<|a_1|>"], ["<|a_1|>"]], "items 0 and 1 share the id <|a_1|>"),
        ([["<|a_1|>"], []], "item 1 has an empty"),
        ([["a_1"]], "'a_1', which is no semantic-id token"),
        ([], "no item"),
    ],
)
def test_catalog_refuses(ids: list[list[str]], said: str) -> None:
    with pytest.raises(GreamError, match=said.replace("|", r"\|")):
        Catalog(ids)


def test_catalog_names_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "index.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"0": ["<a_1>"], "1": ["<a_2>"]}).encode())[:-9])
    with pytest.raises(GreamError, match=r"index\.json\.gz"):
        Catalog.load(path)
    (tmp_path / "gap.json").write_text('{"0": ["<a_1>"], "2": ["<a_2>"]}')
    with pytest.raises(GreamError, match="0 to n-1"):
        Catalog.load(tmp_path / "gap.json")


def test_collisions_of_published_ids_are_named(real_data: Path) -> None:
    # 24 of Beauty's 12,101 items share their published id with another item.
    with pytest.raises(GreamError, match="items 5947 and 7408 share the id <a_199><b_100><c_131><d_0>"):
        Catalog.load(real_data / "Beauty" / "Beauty.index.json.gz")


@given(unequal_ids)
def test_trie_equals_the_set_of_ids(ids: list[tuple[int, ...]]) -> None:
    trie = PrefixTrie.build(ids)

    def walk(node: int, prefix: tuple[int, ...]) -> None:
        assert trie.item[node] == (ids.index(prefix) if prefix in ids else -1)
        following = sorted({known[len(prefix)] for known in ids if known[: len(prefix)] == prefix and known != prefix})
        assert trie.children(node).tolist() == following
        for token in following:
            child = trie.child(node, token)
            assert child is not None
            walk(child, (*prefix, token))
        assert trie.child(node, 99) is None

    walk(0, ())


def test_trie_refuses_shared_ids() -> None:
    with pytest.raises(GreamError, match="share one semantic id"):
        PrefixTrie.build([(1, 2), (3, 4), (1, 2)])


@settings(max_examples=30, deadline=None)
@given(n=st.integers(5, 90), k=st.integers(2, 5), seed=st.integers(0, 99))
def test_kmeans_is_balanced_and_repeatable(n: int, k: int, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    codebook, codes = fit_residual_kmeans(points, (k, k), seed=seed, restarts=2)
    for level in range(2):
        counts = np.bincount(codes[:, level], minlength=k)
        assert counts.max() - counts.min() <= 1
    again, same = fit_residual_kmeans(points, (k, k), seed=seed, restarts=2)
    assert (codes == same).all()
    assert all((a == b).all() for a, b in zip(codebook.centroids, again.centroids, strict=True))


def test_kmeans_finds_planted_clusters() -> None:
    centres = np.eye(4, dtype=np.float32) * 10
    points = np.repeat(centres, 25, axis=0) + np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32) * 0.1
    for balanced in (True, False):
        _, codes = fit_residual_kmeans(points, (4,), seed=1, balanced=balanced)
        groups = codes[:, 0].reshape(4, 25)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0].tolist())) == 4


def test_unbalanced_kmeans_is_no_worse_than_scikit_learn() -> None:
    from sklearn.cluster import KMeans

    points = np.random.default_rng(3).normal(size=(400, 8)).astype(np.float32)
    codebook, codes = fit_residual_kmeans(points, (16,), seed=0, balanced=False, restarts=10)
    ours = float(((points - codebook.centroids[0][codes[:, 0]]) ** 2).sum())
    oracle = KMeans(16, n_init=10, random_state=0).fit(points).inertia_
    assert ours <= oracle * 1.02


def test_encode_takes_the_nearest_centroid_of_each_residual() -> None:
    points = np.random.default_rng(5).normal(size=(60, 4)).astype(np.float32)
    codebook, _ = fit_residual_kmeans(points, (5, 5), seed=0)
    new = np.random.default_rng(6).normal(size=(7, 4)).astype(np.float32)
    for row, vector in zip(codebook.encode(new), new, strict=True):
        residual = vector
        for level, code in enumerate(row):
            distances = [float(((residual - centroid) ** 2).sum()) for centroid in codebook.centroids[level]]
            assert code == int(np.argmin(distances))
            residual = residual - codebook.centroids[level][code]


def test_codebook_survives_the_disk(tmp_path: Path) -> None:
    points = np.random.default_rng(5).normal(size=(60, 4)).astype(np.float32)
    codebook, _ = fit_residual_kmeans(points, (5, 5), seed=0)
    codebook.save(tmp_path / "codebook.safetensors")
    assert (Codebook.load(tmp_path / "codebook.safetensors").encode(points) == codebook.encode(points)).all()
    (tmp_path / "half").write_bytes((tmp_path / "codebook.safetensors").read_bytes()[:40])
    with pytest.raises(GreamError, match="half"):
        Codebook.load(tmp_path / "half")


def test_squared_distances_are_exact() -> None:
    points = np.array([[0, 0], [3, 4]], dtype=np.float32)
    assert squared_distances(points, points).tolist() == [[0, 25], [25, 0]]


@pytest.mark.parametrize("policy", ["reassign", "disambiguate"])
def test_identical_items_get_unique_ids(policy: str) -> None:
    # 27 ids in all for 25 items, 20 of which are the same: whole prefixes overflow.
    points = np.concatenate([np.zeros((20, 3)), np.random.default_rng(0).normal(size=(5, 3))]).astype(np.float32)
    codebook, raw = fit_residual_kmeans(points, (3, 3, 3), seed=0, balanced=False)
    assert collision_groups(raw)
    codes = resolve_collisions(raw, points, codebook, policy)  # type: ignore[arg-type]
    assert len({tuple(row) for row in codes.tolist()}) == 25
    if policy == "reassign":
        assert codes.shape == (25, 3)
        # The distinct items keep what k-means gave them.
        alone = [row for row in range(25) if not any(row in group for group in collision_groups(raw).values())]
        assert (codes[alone] == raw[alone]).all()
    else:
        assert (codes[:, :3] == raw).all()
        lone = codes[:, 3] < 0
        assert lone.sum() == 25 - sum(map(len, collision_groups(raw).values()))


def test_reassign_says_when_items_do_not_fit() -> None:
    points = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    codebook, raw = fit_residual_kmeans(points, (2, 2), seed=0)
    with pytest.raises(GreamError, match="9 items do not fit"):
        resolve_collisions(raw, points, codebook, "reassign")


def test_kmeans_refuses_what_it_cannot_cluster() -> None:
    with pytest.raises(GreamError, match="3 items cannot form 5 clusters"):
        fit_residual_kmeans(np.zeros((3, 2), dtype=np.float32), (5,), seed=0)
    with pytest.raises(GreamError, match="item 1 is not finite"):
        fit_residual_kmeans(np.array([[0.0], [np.nan], [1.0]], dtype=np.float32), (2,), seed=0)


def test_quality_figures_worked_out_by_hand() -> None:
    codebook = Codebook((np.array([[0.0], [10.0]], dtype=np.float32), np.array([[0.0], [1.0]], dtype=np.float32)))
    embeddings = np.array([[0.0], [1.0], [10.0], [12.0]], dtype=np.float32)
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    raw = np.array([[0, 0], [0, 1], [1, 1], [1, 1]])
    report = quality_report(
        raw,
        codes,
        embeddings,
        codebook,
        policy="reassign",
        categories=["x", "x", "y", ""],
        pairs=[(0, 1), (1, 2)],
    )
    assert report["collisions"] == {"items_sharing": 2, "rate": 0.5, "ids_moved": 1, "policy": "reassign"}
    first, second = report["per_level"]
    assert (first["used"], first["dead"], first["entropy_bits"], first["gini"]) == (2, 0, 1.0, 0.0)
    # Residuals 0, 1, 0, 2 after the first level and 0, 0, 0, 1 after the second, of a squared norm of 245.
    assert first["reconstruction_error"] == pytest.approx(5 / 245)
    assert second["reconstruction_error"] == pytest.approx(1 / 245)
    assert [row["category_purity"] for row in report["purity"]] == [1.0, 1.0]
    neighbours = report["cooccurrence"][0]
    assert neighbours["consecutive_share_prefix"] == 0.5
    assert neighbours["random_share_prefix"] == pytest.approx(4 / 12)
