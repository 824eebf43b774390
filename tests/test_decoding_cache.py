"""The cache that grows in place, beside the one of transformers."""

from __future__ import annotations

import torch
from gream.decoding.cache import growing_cache
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Cache
from transformers.cache_utils import DynamicLayer

STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 90)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 2), min_size=1, max_size=4)),
    st.tuples(st.just("repeat"), st.integers(1, 2)),
    st.tuples(st.just("crop"), st.integers(1, 80)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=8), st.integers(0, 9))
def test_it_holds_what_the_cache_of_transformers_holds(steps: list[tuple[str, object]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = growing_cache(), Cache(layer_class_to_replicate=DynamicLayer)
    rows = 3
    for kind, value in [("append", 5), *steps]:
        if kind == "append":
            new = [torch.randn(rows, 2, value, 4, generator=generator) for _ in range(2)]  # type: ignore[call-overload]
            for layer in (0, 1):
                seen = [cache.update(*new, layer) for cache in (ours, theirs)]
                assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))
        elif kind == "select":
            chosen = torch.tensor([row % rows for row in value])  # type: ignore[attr-defined]
            rows = len(chosen)
            for cache in (ours, theirs):
                cache.batch_select_indices(chosen)
        elif kind == "repeat":
            rows *= value  # type: ignore[operator]
            for cache in (ours, theirs):
                cache.batch_repeat_interleave(value)
        else:
            for cache in (ours, theirs):
                cache.crop(value)
        assert ours.get_seq_length() == theirs.get_seq_length()
        for one, other in zip(ours.layers, theirs.layers, strict=True):
            assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


def test_tokens_are_appended_without_a_copy_of_those_before() -> None:
    cache = growing_cache()
    places = set()
    for _ in range(60):
        keys, _ = cache.update(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4), 0)
        places.add(keys.data_ptr())
    assert len(places) == 1
