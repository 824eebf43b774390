"""Semantic ids: vocabulary, catalog, trie, residual k-means, collisions, quality."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.collisions import collision_groups, resolve_collisions
from gream.semantic_ids.embeddings import read_embeddings
from gream.semantic_ids.extension import add_id_tokens, centroid_rows, fill_up, semantic_rows, write_rows
from gream.semantic_ids.kmeans import Codebook, fit_residual_kmeans, squared_distances
from gream.semantic_ids.published import disambiguate_index, index_codes, read_index
from gream.semantic_ids.quality import id_quality, quality_report
from gream.semantic_ids.quality_page import quality_page
from gream.semantic_ids.trie import PrefixTrie
from gream.semantic_ids.vocabulary import find_tokens, level_token
from gream.texts import plain_text
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
    with pytest.raises(GreamError, match="numbered 0 to 1, found '2'"):
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


@given(
    ids=st.lists(st.lists(st.sampled_from((0, 1, 7, 2**40)), min_size=1, max_size=6).map(tuple), unique=True),
    more=st.integers(1, 5),
)
def test_trie_has_the_arrays_of_a_plain_construction(ids: list[tuple[int, ...]], more: int) -> None:
    """Against nodes numbered one by one, level by level; with token ids too large for one number per id."""
    ids = [*ids, *[(more,) * length for length in range(1, more + 1) if (more,) * length not in ids]]
    layers = [sorted({tokens[:length] for tokens in ids if len(tokens) >= length}) for length in range(7)]
    node_of = {prefix: node for node, prefix in enumerate(prefix for layer in layers for prefix in layer)}
    below = [[prefix[-1] for prefix in node_of if prefix and prefix[:-1] == parent] for parent in node_of]
    trie = PrefixTrie.build(ids)
    assert trie.start.tolist() == [sum(map(len, below[:node])) for node in range(len(below) + 1)]
    assert trie.child_token.tolist() == [token for children in below for token in children]
    assert trie.item.tolist() == [ids.index(prefix) if prefix in ids else -1 for prefix in node_of]
    assert trie.depth == max(map(len, ids))


def test_trie_refuses_shared_ids() -> None:
    with pytest.raises(GreamError, match="items 0 and 2 share one semantic id"):
        PrefixTrie.build([(1, 2), (3, 4), (1, 2), (1, 2, 3)])
    for none in ([], [(1,), ()]):
        with pytest.raises(GreamError, match="at least one item, and no empty id"):
            PrefixTrie.build(none)


@settings(max_examples=30)
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


def test_balanced_clusters_are_better_than_those_of_lloyd_and_an_exact_assignment() -> None:
    from scipy.optimize import linear_sum_assignment

    points = np.random.default_rng(7).normal(size=(300, 8)).astype(np.float32)
    codebook, codes = fit_residual_kmeans(points, (60,), seed=0)
    assert np.bincount(codes[:, 0]).tolist() == [5] * 60
    centroids = codebook.centroids[0]
    np.testing.assert_allclose(centroids, [points[codes[:, 0] == code].mean(axis=0) for code in range(60)], atol=1e-5)
    error = float(((points - centroids[codes[:, 0]]) ** 2).sum())
    # The oracle: Lloyd iterations with the cheapest assignment there is, from where no start of ours comes.
    plain = points[np.random.default_rng(1).choice(300, size=60, replace=False)]
    for _ in range(30):
        costs = ((points[:, None] - np.repeat(plain, 5, axis=0)[None]) ** 2).sum(axis=2)
        seats = linear_sum_assignment(costs)[1] // 5
        plain = np.stack([points[seats == code].mean(axis=0) for code in range(60)])
    assert error < 0.97 * float(((points - plain[seats]) ** 2).sum())


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


def _reassigned_one_by_one(codes: np.ndarray, points: np.ndarray, codebook: Codebook) -> list[tuple[int, ...]]:
    """The same rule by trying every id of the catalogue in turn."""
    result = [tuple(row) for row in codes.tolist()]
    taken = set(result)

    def preference(point: np.ndarray, key: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
        shared = next((level for level, pair in enumerate(zip(key, other, strict=True)) if len(set(pair)) > 1), 0)
        ranks, residual = [-shared], point
        for level, code in enumerate(other):
            order = np.argsort(squared_distances(residual[None], codebook.centroids[level])[0], kind="stable").tolist()
            ranks.append(0 if level < shared else order.index(code))
            residual = residual - codebook.centroids[level][code]
        return tuple(ranks)

    for key in sorted(set(result)):
        items = [item for item, row in enumerate(codes.tolist()) if tuple(row) == key]
        rebuilt = sum(level[code] for level, code in zip(codebook.centroids, key, strict=True))
        errors = ((points[items] - rebuilt) ** 2).sum(axis=1)
        for index in np.argsort(errors, kind="stable")[1:].tolist():
            free = [other for other in itertools.product(*map(range, codebook.sizes)) if other not in taken]
            result[items[index]] = min(free, key=lambda other: preference(points[items[index]], key, other))
            taken.add(result[items[index]])
    return result


@settings(max_examples=25)
@given(seed=st.integers(0, 999), n=st.integers(1, 26), same=st.booleans())
def test_reassign_equals_trying_every_id(seed: int, n: int, same: bool) -> None:
    random = np.random.default_rng(seed)
    codebook = Codebook(tuple(random.normal(size=(3, 2)).astype(np.float32) for _ in range(3)))
    points = random.normal(size=(n, 2)).astype(np.float32)
    codes = np.zeros((n, 3), dtype=np.int64) if same else codebook.encode(points)
    resolved = resolve_collisions(codes, points, codebook, "reassign")
    assert list(map(tuple, resolved.tolist())) == _reassigned_one_by_one(codes, points, codebook)


def test_ids_that_fit_no_machine_number_are_resolved() -> None:
    codebook = Codebook(tuple(np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32) for _ in range(12)))
    codes = resolve_collisions(np.full((9, 12), 63), np.zeros((9, 2), dtype=np.float32), codebook, "reassign")
    assert len({tuple(row) for row in codes.tolist()}) == 9
    assert (codes[:, :-1] == 63).all()


def test_reassign_says_when_items_do_not_fit() -> None:
    points = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    codebook, raw = fit_residual_kmeans(points, (2, 2), seed=0)
    with pytest.raises(GreamError, match="9 items do not fit"):
        resolve_collisions(raw, points, codebook, "reassign")


@pytest.mark.parametrize("balanced", [True, False])
def test_centroids_of_a_sample_serve_all_items(balanced: bool) -> None:
    random = np.random.default_rng(0)
    points = (random.normal(size=(40, 8))[random.integers(0, 40, 4000)] + 0.5 * random.normal(size=(4000, 8))).astype(
        np.float32
    )

    def fitted(sample: int | None, device: str | None = None) -> tuple[float, np.ndarray]:
        codebook, codes = fit_residual_kmeans(
            points, (16, 16), seed=3, balanced=balanced, restarts=2, sample=sample, device=device
        )
        rebuilt = sum(level[codes[:, i]] for i, level in enumerate(codebook.centroids))
        if balanced:
            assert all(np.bincount(codes[:, level], minlength=16).tolist() == [250] * 16 for level in (0, 1))
        return float(((points - rebuilt) ** 2).sum()), codes

    whole, codes = fitted(None)
    assert (fitted(4000)[1] == codes).all()  # no more items than the sample has
    some, drawn = fitted(800)
    assert whole * 0.99 < some < whole * 1.08
    assert (fitted(800)[1] == drawn).all()
    pytest.importorskip("torch")
    assert fitted(800, "cpu")[0] == pytest.approx(some, rel=0.02)


def test_kmeans_refuses_what_it_cannot_cluster() -> None:
    with pytest.raises(GreamError, match="3 items cannot form 5 clusters"):
        fit_residual_kmeans(np.zeros((3, 2), dtype=np.float32), (5,), seed=0)
    with pytest.raises(GreamError, match="item 1 is not finite"):
        fit_residual_kmeans(np.array([[0.0], [np.nan], [1.0]], dtype=np.float32), (2,), seed=0)
    with pytest.raises(GreamError, match=r"largest value is 1e\+30"):
        fit_residual_kmeans(np.array([[0.0], [1e30], [1.0]], dtype=np.float32), (2,), seed=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int8"])
def test_embeddings_of_any_type_of_number_are_read(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    vectors = [[0, 1], [-2, 0.5 if "float" in dtype else 3]]
    save_file({"embeddings": torch.tensor(vectors).to(getattr(torch, dtype))}, tmp_path / "e.safetensors")
    read = read_embeddings(tmp_path / "e.safetensors", 2)
    assert read.dtype == np.float32
    assert read.tolist() == vectors


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
    page = quality_page(report)
    assert page.count("<svg") == 5
    assert page.count("level 2") == 4  # by chance no two items share a whole id, so there is no lift to show
    assert "http" not in page
    assert "<script" not in page


def test_auction_is_as_good_as_an_optimal_assignment() -> None:
    from gream.semantic_ids.balance import assign_balanced
    from scipy.optimize import linear_sum_assignment

    costs = np.random.default_rng(0).exponential(size=(96, 8)).astype(np.float32)
    assigned = assign_balanced(costs, np, raise_by=1e-4, rounds=10_000)
    assert np.bincount(assigned).tolist() == [12] * 8
    rows, seats = linear_sum_assignment(np.repeat(costs, 12, axis=1))
    best = np.repeat(costs, 12, axis=1)[rows, seats].sum()
    assert costs[np.arange(96), assigned].sum() <= best + 96 * 1e-4 + 1e-3
    # Whatever the prices that it starts from; those of the end are found where they were given.
    prices = np.arange(8, dtype=np.float32)
    again = assign_balanced(costs, np, raise_by=1e-4, rounds=10_000, prices=prices)
    assert costs[np.arange(96), again].sum() <= best + 96 * 1e-4 + 1e-3
    with_prices = costs + prices
    assert (with_prices[np.arange(96), again] <= with_prices.min(axis=1) + 1e-4 + 1e-5).all()


@settings(max_examples=40)
@given(
    n=st.integers(1, 60),
    k=st.integers(1, 9),
    seed=st.integers(0, 99),
    rounds=st.integers(0, 4),
    values=st.integers(1, 4),
)
def test_an_auction_cut_short_is_balanced_all_the_same(n: int, k: int, seed: int, rounds: int, values: int) -> None:
    from gream.semantic_ids.balance import assign_balanced

    costs = np.random.default_rng(seed).integers(values, size=(n, k)).astype(np.float32)
    counts = np.bincount(assign_balanced(costs, np, raise_by=0.0, rounds=rounds), minlength=k)
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1


def test_torch_and_numpy_give_one_result() -> None:
    pytest.importorskip("torch")
    points = np.random.default_rng(0).normal(size=(700, 96))  # wider than the sketch of the start
    for balanced in (True, False):
        ours, codes = fit_residual_kmeans(points, (16, 16), seed=1, balanced=balanced, restarts=2)
        torchs, same = fit_residual_kmeans(points, (16, 16), seed=1, balanced=balanced, restarts=2, device="cpu")
        assert (codes == same).all()
        for a, b in zip(ours.centroids, torchs.centroids, strict=True):
            assert a.dtype == b.dtype == np.float64
            np.testing.assert_allclose(a, b, atol=1e-12)
    # In float32 roundings may part ways; the errors stay within 1 %.
    small = points.astype(np.float32)
    errors = []
    for device in (None, "cpu"):
        codebook, codes = fit_residual_kmeans(small, (16, 16), seed=1, restarts=2, device=device)
        assert codebook.centroids[0].dtype == np.float32
        rebuilt = sum(level[codes[:, i]] for i, level in enumerate(codebook.centroids))
        errors.append(float(((small - rebuilt) ** 2).sum()))
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


def test_a_device_that_is_not_there_is_named() -> None:
    pytest.importorskip("torch")
    with pytest.raises(GreamError, match="device 'tpu9'"):
        fit_residual_kmeans(np.eye(4, dtype=np.float32), (2,), seed=0, device="tpu9")


@settings(max_examples=30)
@given(
    kinds=st.lists(st.integers(0, 3), min_size=6, max_size=40),
    more=st.lists(st.integers(0, 3), max_size=15),
    policy=st.sampled_from(["reassign", "disambiguate"]),
)
def test_a_catalogue_grows_without_changing_its_ids(kinds: list[int], more: list[int], policy: str) -> None:
    # Items of one kind are identical, so most share their codes, within each part and across.
    centres = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    codebook, _ = fit_residual_kmeans(
        np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32), (4, 4, 4), seed=0
    )
    old, new = centres[kinds], centres[np.array(more, dtype=np.int64)]
    given = resolve_collisions(codebook.encode(old), old, codebook, policy)  # type: ignore[arg-type]
    grown = resolve_collisions(codebook.encode(new), new, codebook, policy, given=given)  # type: ignore[arg-type]
    assert grown.shape == (len(more), given.shape[1])
    assert len({tuple(row) for row in [*given.tolist(), *grown.tolist()]}) == len(kinds) + len(more)
    if policy == "disambiguate":
        assert (grown[:, :3] == codebook.encode(new)).all()


@pytest.mark.parametrize("policy", ["reassign", "disambiguate"])
def test_hundreds_of_identical_items(policy: str) -> None:
    points = np.concatenate([np.zeros((600, 2)), np.random.default_rng(0).normal(size=(40, 2))]).astype(np.float32)
    codebook, raw = fit_residual_kmeans(points, (32, 32), seed=0, balanced=False)
    assert max(map(len, collision_groups(raw).values())) > 256
    codes = resolve_collisions(raw, points, codebook, policy)  # type: ignore[arg-type]
    assert len({tuple(row) for row in codes.tolist()}) == 640


def test_shared_published_ids_are_measured_and_resolved() -> None:
    ids = [("<a_0>", "<b_3>"), ("<a_0>", "<b_3>"), ("<a_0>", "<b_3>", "<c_1>"), ("<a_1>",)]
    assert index_codes(ids).tolist() == [[0, 3, -1], [0, 3, -1], [0, 3, 1], [1, -1, -1]]
    # The token <c_1> is taken under this prefix.
    unique = disambiguate_index(ids)
    assert unique == [(*ids[0], "<c_2>"), (*ids[0], "<c_3>"), ids[2], ids[3]]
    assert disambiguate_index([("<|a_1|>",)] * 2) == [("<|a_1|>", "<|b_1|>"), ("<|a_1|>", "<|b_2|>")]
    assert len(Catalog(unique)) == 4
    with pytest.raises(GreamError, match="'<b_1>' at level 1; 'a' expected"):
        index_codes([("<b_1>",)])


def test_published_collisions_are_counted(real_data: Path) -> None:
    for name, sharing in (("Beauty", 24), ("Instruments", 48), ("Industrial_and_Scientific", 31)):
        ids = read_index(real_data / name / f"{name}.index.json.gz")
        codes = index_codes(ids)
        report = id_quality(codes, (256,) * codes.shape[1], embeddings=None, categories=[""] * len(ids), pairs=[])
        assert report["collisions"]["items_sharing"] == sharing
        assert len(Catalog(disambiguate_index(ids))) == len(ids)


def test_quality_without_a_codebook_refits_it() -> None:
    embeddings = np.array([[0.0], [2.0], [10.0], [11.0]], dtype=np.float32)
    codes = np.array([[5, 0], [5, 1], [7, 1], [7, -1]])
    report = id_quality(codes, (8, 8), embeddings=embeddings, categories=["x"] * 4, pairs=[(0, 1)])
    first, second = report["per_level"]
    assert (first["used"], first["dead"]) == (2, 6)
    # Means 1 and 10.5 leave -1, 1, -.5, .5; at level two code 1 has 1 and -.5, whose mean is .25; the last has no code.
    assert first["refit_error"] == pytest.approx(2.5 / 225)
    assert second["refit_error"] == pytest.approx((2 * 0.75**2 + 0.25) / 225)


class _Model:
    """As much of a causal language model as rows are written to."""

    def __init__(self, rows: int, tied: bool) -> None:
        import torch

        torch.manual_seed(0)
        self.input = torch.nn.Embedding(rows, 6)
        self.output = torch.nn.Linear(6, rows, bias=False)
        if tied:
            self.output.weight = self.input.weight

    def get_input_embeddings(self) -> object:
        return self.input

    def get_output_embeddings(self) -> object:
        return self.output


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_a_padded_matrix_are_written_by_token_id(tied: bool) -> None:
    torch = pytest.importorskip("torch")
    # 40 tokens and 10 rows of padding, as Qwen3 has them: the new tokens fall on the padding.
    model = _Model(50, tied)
    before = [model.input.weight.detach().clone(), model.output.weight.detach().clone()]
    # The first token has items 0 and 2, the second none, the third item 1.
    ids, texts = [["x"], ["z"], ["x"]], [[1, 1], [7], [4]]
    write_rows(model, [40, 42, 41], 40, seed=3, rows_of=partial(semantic_rows, ["x", "y", "z"], ids, texts))
    for weight, old in zip((model.input.weight, model.output.weight), before, strict=True):
        assert weight.shape == (50, 6)
        untouched = [*range(40), *range(43, 50)]
        assert torch.equal(weight[untouched], old[untouched])
        torch.testing.assert_close(weight[40], (2 * old[1] + old[4]) / 3)
        torch.testing.assert_close(weight[41], old[7])
    drawn = model.input.weight[42].detach().clone()
    write_rows(model, [40, 42, 41], 40, seed=3)
    assert torch.equal(model.input.weight[42], drawn)
    assert not torch.equal(model.input.weight[41], before[0][7])


@pytest.mark.parametrize(("rows", "filled"), [(0, 64), (60, 64), (64, 64), (65, 128), (320, 320)])
def test_a_vocabulary_is_filled_up_to_its_rows_and_to_a_multiple_of_64(rows: int, filled: int) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({str(word): word for word in range(50)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    add_id_tokens(tokenizer, ["<|a_1|>", "<|a_2|>"])
    assert fill_up(tokenizer, rows) == filled - 52 == len(tokenizer) - 52
    assert fill_up(tokenizer, rows) == 0
    added = tokenizer.get_added_vocab()
    assert sorted(added.values()) == list(range(50, filled))
    # Whole tokens that texts lose, and that are no ids; what is sampled shows.
    token = f"<|unused_{filled - 1}|>"
    assert tokenizer(f"{token}", add_special_tokens=False)["input_ids"] == [filled - 1]
    assert tokenizer.decode([filled - 1], skip_special_tokens=True) == token
    assert plain_text(f"a {token} b") == "a b" and not find_tokens(token)


def test_gaussian_rows_have_the_moments_of_the_old_ones() -> None:
    torch = pytest.importorskip("torch")
    model = _Model(4100, True)
    with torch.no_grad():
        model.input.weight[:100] = model.input.weight[:100] * 0.2 + 3
        model.input.weight[100:] = 99  # padding: must not be fitted to
    write_rows(model, list(range(100, 4100)), 100, seed=0)
    old, new = model.input.weight[:100].detach(), model.input.weight[100:].detach()
    torch.testing.assert_close(new.mean(0), old.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(new.std(0), old.std(0), atol=0.02, rtol=0)


def test_old_rows_are_never_written() -> None:
    pytest.importorskip("torch")
    with pytest.raises(GreamError, match="rows below 40 are old"):
        write_rows(_Model(50, True), [39], 40, seed=0)
    with pytest.raises(GreamError, match="a text holds token 40, and 40 are old"):
        write_rows(_Model(50, True), [40], 40, seed=0, rows_of=partial(semantic_rows, ["x"], [["x"]], [[40]]))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 3))
def test_centroids_are_those_of_residual_quantization_by_hand(seed: int, items: int, levels: int) -> None:
    """Level by level and item by item: what is left of each item, and the mean of it over those that share a token."""
    random_ = random.Random(seed)
    old = np.random.default_rng(seed).normal(size=(9, 4))
    ids = [[f"{level}{random_.randrange(3)}" for level in range(levels)] for _ in range(items)]
    texts = [random_.choices(range(9), k=random_.choice([0, 1, 5])) for _ in range(items)]
    tokens = [f"{level}{code}" for level in range(levels) for code in range(3)]
    rows = centroid_rows(tokens, ids, texts, old)

    known = {item: old[text].mean(axis=0) for item, text in enumerate(texts) if text}
    mean = sum(known.values()) / len(known) if known else None
    left = {item: row - mean for item, row in known.items()}
    for level in range(levels):
        for code in range(3):
            under = [item for item in left if ids[item][level] == f"{level}{code}"]
            row = rows[tokens.index(f"{level}{code}")]
            if under:
                centroid = sum(left[item] for item in under) / len(under)
                np.testing.assert_allclose(row, mean + centroid, atol=1e-9)
                left |= {item: left[item] - centroid for item in under}
            else:
                assert np.isnan(row).all()
