"""Beam search over the trie against exhaustive scoring and a plain beam search one prefix at a time."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from eval_support import exact_scores, make_model
from gream.decoding.beam import BeamResult, TrieBeamSearch
from gream.decoding.choices import Score
from gream.errors import GreamError
from gream.semantic_ids.extension import write_rows
from gream.semantic_ids.trie import PrefixTrie
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from transformers import GraniteConfig, GraniteForCausalLM

VOCABULARY = 60


def fixed_ids(seed: int, items: int = 40, levels: int = 3, codes: int = 5) -> list[tuple[int, ...]]:
    """Unique ids whose level l uses tokens 10 + l * codes and up."""
    random = np.random.default_rng(seed)
    chosen = random.choice(codes**levels, size=items, replace=False)
    return [
        tuple(10 + level * codes + int(number) // codes**level % codes for level in range(levels)) for number in chosen
    ]


def uneven_ids() -> list[tuple[int, ...]]:
    """Ids of one to four tokens; one is the prefix of another."""
    return [
        (11,),
        (12, 20),
        (12, 20, 30),
        (12, 21, 30, 40),
        (12, 21, 30, 41),
        (13, 22),
        (13, 23, 31),
        (14, 20, 30),
    ]


def prompts_of(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, VOCABULARY, size=length).tolist() for length in lengths]


def search(model: Any, ids: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], **settings: Any) -> BeamResult:
    return TrieBeamSearch(model, PrefixTrie.build(ids), **settings).search(prompts)


@settings(max_examples=40)
@given(
    st.sets(st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple), min_size=2, max_size=25),
    st.lists(st.sets(st.integers(0, 23), max_size=20), min_size=1, max_size=3),
    st.integers(1, 8),
    st.sampled_from(list(Score)),
)
def test_a_search_without_items_is_one_over_a_catalogue_that_lacks_them(
    ids: set[tuple[int, ...]], excluded: list[set[int]], beams: int, score: Score
) -> None:
    model = make_model(VOCABULARY)
    catalogue = sorted(ids)
    prompts = prompts_of(0, range(1, len(excluded) + 1))
    exclude = [items & set(range(len(ids) - 1)) for items in excluded]  # the last item is left
    k = min(beams, 5)
    together = TrieBeamSearch(model, PrefixTrie.build(catalogue), k=k, beams=beams, score=score).search(
        prompts, exclude
    )
    for row, (prompt, out) in enumerate(zip(prompts, exclude, strict=True)):
        left = [item for item in range(len(catalogue)) if item not in out]
        alone = search(model, [catalogue[item] for item in left], [prompt], k=k, beams=beams, score=score)
        found = together.items[row][together.items[row] >= 0]
        assert set(found) <= set(left)
        np.testing.assert_allclose(together.scores[row][: len(found)], alone.scores[0], atol=1e-4)
        assert np.isneginf(together.scores[row][len(found) :]).all()
        # Scores of this model lie far apart; where two do not, either order is right.
        swapped = found != np.array(left)[alone.items[0]]
        assert not swapped.any() or np.isclose(np.diff(np.sort(alone.scores[0])), 0, atol=1e-4).any()


@pytest.mark.parametrize("score", list(Score))
def test_a_level_has_fixed_shapes_and_reads_nothing_back(score: Score) -> None:
    """Whatever the prompts say, the same operations in the same shapes; the device is read once the lists are done."""

    class Recorder(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.operations: list[tuple[str, list[tuple[int, ...]]]] = []

        def __torch_function__(self, operation: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            made = operation(*given, **(named or {}))
            name = getattr(operation, "__name__", str(operation))
            self.operations.append((name, [tuple(each.shape) for each in (*given, made) if type(each) is torch.Tensor]))
            return made

    searcher = TrieBeamSearch(make_model(VOCABULARY), PrefixTrie.build(uneven_ids()), k=4, beams=5, score=score)
    recorded = []
    for seed in range(4):
        with torch.inference_mode():
            encoded = searcher._lm.encode(prompts_of(seed, (6, 6, 6)), room=4)
        # Items whose ids differ in length are included.
        with Recorder() as recorder:
            searcher.search(encoded, include=[[seed], [7 - seed], [3]])
        recorded.append(recorder.operations)
    assert all(operations == recorded[0] for operations in recorded)
    names = [name for name, _ in recorded[0]]
    waits = {"__bool__", "__int__", "__float__", "__index__", "item", "tolist", "nonzero", "unique", "cpu", "numpy"}
    assert [name for name in names if name in waits] == ["__bool__", "cpu", "numpy", "cpu", "numpy", "cpu", "numpy"]
    assert "__bool__" in names[-20:]


def test_excluding_the_whole_catalogue_is_refused() -> None:
    catalogue = PrefixTrie.build(uneven_ids())
    with pytest.raises(GreamError, match="all 8 items of the catalogue are excluded"):
        TrieBeamSearch(make_model(VOCABULARY), catalogue, k=1, beams=1).search([[1], [1]], [range(8), ()])


def naive_beam_search(
    model: Any, prompt: Sequence[int], ids: Sequence[Sequence[int]], *, k: int, beams: int
) -> list[tuple[float, int]]:
    """Beam search one prefix at a time, each with its own full forward pass."""
    item_of = {tuple(tokens): item for item, tokens in enumerate(ids)}
    prefixes = {tuple(tokens[:length]) for tokens in ids for length in range(1, len(tokens) + 1)}
    inner = {prefix[:-1] for prefix in prefixes}
    beam: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended: list[tuple[float, int]] = []
    while beam:
        grown = []
        for score, prefix in beam:
            with torch.no_grad():
                logs = model(torch.tensor([[*prompt, *prefix]])).logits[0, -1].double().log_softmax(0)
            children = [child for child in prefixes if child[:-1] == prefix and len(child) == len(prefix) + 1]
            grown += [(score + float(logs[child[-1]]), child) for child in children]
        ended += [(score, item_of[prefix]) for score, prefix in grown if prefix in item_of]
        beam = heapq.nlargest(beams, [hypothesis for hypothesis in grown if hypothesis[1] in inner])
    return heapq.nlargest(k, ended)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("ids", [fixed_ids(0), uneven_ids()], ids=["fixed", "uneven"])
@pytest.mark.parametrize("score", list(Score))
def test_a_beam_as_wide_as_the_catalogue_ranks_and_scores_it_exactly(
    ids: list[tuple[int, ...]], score: Score, tied: bool
) -> None:
    model = make_model(VOCABULARY, tied=tied)
    prompts = prompts_of(1, [9, 4, 1])
    result = search(model, ids, prompts, k=len(ids), beams=len(ids), score=score)
    assert result.items.dtype == np.int64 and result.scores.dtype == np.float32
    for row, prompt in enumerate(prompts):
        exact = np.array(exact_scores(model, prompt, ids, legal=score == "legal"))
        # Two ids of which one goes on into the other alone are tied among legal tokens: either may be first.
        assert sorted(result.items[row].tolist()) == list(range(len(ids)))
        assert np.all(np.diff(exact[result.items[row]]) < 1e-5)
        np.testing.assert_allclose(result.scores[row], np.sort(exact)[::-1], atol=1e-4)


def test_scores_over_a_vocabulary_too_large_to_be_held_at_once_are_exact() -> None:
    ids = fixed_ids(0)
    model = make_model(20_000)
    prompts = prompts_of(1, [9, 4, 1])
    result = search(model, ids, prompts, k=len(ids), beams=len(ids))
    for row, prompt in enumerate(prompts):
        exact = np.array(exact_scores(model, prompt, ids))
        np.testing.assert_allclose(result.scores[row], exact[result.items[row]], atol=1e-4)
        np.testing.assert_allclose(result.scores[row], np.sort(exact)[::-1], atol=1e-4)


def test_legal_scores_of_a_catalogue_of_equal_lengths_are_a_distribution() -> None:
    ids = fixed_ids(2)
    result = search(make_model(VOCABULARY), ids, prompts_of(0, [7]), k=len(ids), beams=len(ids), score=Score.legal)
    assert np.exp(result.scores.astype(float)).sum() == pytest.approx(1.0, abs=1e-5)


def test_rows_of_unused_tokens_are_in_no_list_and_in_every_softmax_over_the_vocabulary() -> None:
    """As for any token that leads to no item: legal scores stay, others lose what the new rows take of each step."""
    ids, prompts = fixed_ids(3), prompts_of(4, [12, 3])
    plain, filled = make_model(VOCABULARY), make_model(VOCABULARY)
    filled.resize_token_embeddings(64)
    write_rows(filled, range(VOCABULARY, 64), VOCABULARY, seed=1)
    before, after = (search(model, ids, prompts, k=9, beams=40, score=Score.legal) for model in (plain, filled))
    assert np.array_equal(before.items, after.items) and np.array_equal(before.scores, after.scores)
    whole = search(filled, ids, prompts, k=9, beams=40)
    for row, prompt in enumerate(prompts):
        exact = np.array(exact_scores(filled, prompt, ids))
        assert (exact < exact_scores(plain, prompt, ids)).all()
        assert whole.items[row].tolist() == np.argsort(-exact)[:9].tolist()
        np.testing.assert_allclose(whole.scores[row], np.sort(exact)[::-1][:9], atol=1e-4)


@pytest.mark.parametrize("beams", [5, 8])
@pytest.mark.parametrize("ids", [fixed_ids(3, items=60), uneven_ids()], ids=["fixed", "uneven"])
def test_a_narrow_beam_finds_what_a_naive_beam_search_finds(ids: list[tuple[int, ...]], beams: int) -> None:
    model = make_model(VOCABULARY, seed=5)
    prompts = prompts_of(4, [12, 3, 8, 5])
    result = search(model, ids, prompts, k=5, beams=beams)
    for row, prompt in enumerate(prompts):
        naive = naive_beam_search(model, prompt, ids, k=5, beams=beams)
        assert result.items[row].tolist() == [item for _, item in naive]
        np.testing.assert_allclose(result.scores[row], [score for score, _ in naive], atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("beams", [4, 10])
def test_lists_are_those_of_transformers_beam_search_under_a_naive_trie(tied: bool, beams: int) -> None:
    model, ids = make_model(VOCABULARY, tied=tied, seed=7), fixed_ids(5, items=70)
    prompts = prompts_of(8, [9, 3, 14])
    width = max(map(len, prompts))
    followers: dict[tuple[int, ...], list[int]] = {}
    for tokens in ids:
        for length in range(len(tokens)):
            followers.setdefault(tokens[:length], []).append(tokens[length])
    generated = model.generate(
        input_ids=torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts]),
        attention_mask=torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
        prefix_allowed_tokens_fn=lambda _, tokens: followers[tuple(tokens[width:].tolist())],
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=3,
        do_sample=False,
        length_penalty=0.0,
        eos_token_id=VOCABULARY + 1,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    item_of = {tokens: item for item, tokens in enumerate(ids)}
    expected = [item_of[tuple(tokens)] for tokens in generated.sequences[:, width:].tolist()]
    result = search(model, ids, prompts, k=beams, beams=beams)
    assert result.items.flatten().tolist() == expected
    np.testing.assert_allclose(result.scores.flatten(), generated.sequences_scores.numpy(), atol=1e-4)


@pytest.mark.parametrize("score", list(Score))
def test_half_precision_changes_scores_by_its_rounding_only(score: Score) -> None:
    ids = fixed_ids(0)
    model = make_model(VOCABULARY, spread=0.1).bfloat16()
    prompts = prompts_of(1, [9, 4, 1])
    result = search(model, ids, prompts, k=len(ids), beams=len(ids), score=score)
    rounded = model.float()  # the same weights, computed exactly
    for row, prompt in enumerate(prompts):
        exact = np.array(exact_scores(rounded, prompt, ids, legal=score == "legal"))
        np.testing.assert_allclose(result.scores[row], exact[result.items[row]], atol=0.1)
        assert exact.std() > 0.2  # so that the tolerance is small beside what items differ by


@given(
    ids=st.sets(st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple), min_size=1, max_size=30).map(sorted),
    k=st.integers(1, 12),
    more=st.integers(0, 5),
    score=st.sampled_from(list(Score)),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
@settings(max_examples=60)
def test_lists_are_full_distinct_existing_and_sorted(
    ids: list[tuple[int, ...]], k: int, more: int, score: Score, lengths: list[int]
) -> None:
    model = make_model(VOCABULARY)
    prompts = prompts_of(9, lengths)
    result = search(model, ids, prompts, k=k, beams=k + more, score=score)
    assert result.items.shape == result.scores.shape == (len(prompts), min(k, len(ids)))
    assert ((result.items >= 0) & (result.items < len(ids))).all()
    assert all(len(set(row)) == len(row) for row in result.items.tolist())
    assert (np.diff(result.scores, axis=1) <= 0).all()
    exact = exact_scores(model, prompts[0], ids, legal=score == "legal")
    np.testing.assert_allclose(result.scores[0], [exact[item] for item in result.items[0]], atol=1e-4)


def test_neither_padding_nor_neighbours_in_the_batch_change_a_row() -> None:
    model = make_model(VOCABULARY)
    ids = fixed_ids(0)
    prompts = prompts_of(6, [2, 30, 11, 7, 19])
    together = search(model, ids, prompts, k=6, beams=9)
    for row, prompt in enumerate(prompts):
        alone = search(model, ids, [prompt], k=6, beams=9)
        assert alone.items[0].tolist() == together.items[row].tolist()
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-5)


def test_the_generation_config_of_a_model_takes_no_part() -> None:
    model = make_model(VOCABULARY)
    ids, prompts = fixed_ids(0), prompts_of(6, [5, 9])
    before = search(model, ids, prompts, k=5, beams=5)
    model.generation_config.update(do_sample=True, top_k=2, top_p=0.1, temperature=9.0, num_beams=3, max_new_tokens=1)
    after = search(model, ids, prompts, k=5, beams=5)
    np.testing.assert_array_equal(before.items, after.items)
    np.testing.assert_array_equal(before.scores, after.scores)


def test_a_prefix_decoded_before_is_part_of_the_prompt() -> None:
    model, ids = make_model(VOCABULARY), fixed_ids(0)
    prompts, chains = prompts_of(1, [6, 3]), prompts_of(2, [2, 7])
    joined = [prompt + chain for prompt, chain in zip(prompts, chains, strict=True)]
    result = search(model, ids, joined, k=3, beams=len(ids))
    for row, prefix in enumerate(joined):
        exact = np.array(exact_scores(model, prefix, ids))
        assert result.items[row].tolist() == np.argsort(-exact)[:3].tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 10, "beams": 9}, "9 beams cannot fill a list of 10"),
        ({"k": 0, "beams": 9}, "k >= 1"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(GreamError, match=message):
        search(make_model(VOCABULARY), fixed_ids(0), [[1]], **settings)


def test_unsuited_models_and_prompts_are_named() -> None:
    model, ids = make_model(VOCABULARY), fixed_ids(0)
    with pytest.raises(GreamError, match="outside the model's 20 tokens"):
        search(make_model(20), ids, [[1]], k=2, beams=2)
    with pytest.raises(GreamError, match="no empty one"):
        search(model, ids, [[1], []], k=2, beams=2)
    with pytest.raises(GreamError, match="exceed the model's 512 positions"):
        search(model, ids, [[1] * 510], k=2, beams=2)
    with pytest.raises(GreamError, match=r"model.eval\(\)"):
        search(make_model(VOCABULARY).train(), ids, [[1]], k=2, beams=2)
    windowed = make_model(VOCABULARY)
    windowed.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(GreamError, match="sliding_attention layers"):
        search(windowed, ids, [[1]], k=2, beams=2)
    scaled = GraniteForCausalLM(
        GraniteConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            logits_scaling=8.0,
            initializer_range=1.0,
        )
    )
    with pytest.raises(GreamError, match="changes the logits after its head"):
        search(scaled.eval(), ids, [[1]], k=2, beams=2)
    broken = make_model(VOCABULARY)
    torch.nn.init.constant_(broken.model.norm.weight, torch.inf)
    with pytest.raises(GreamError, match="not numbers"):
        search(broken, ids, [[1]], k=2, beams=2)
