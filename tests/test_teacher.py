"""The template teacher argues from real evidence only, and the curriculum's ramp is even."""

from __future__ import annotations

import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from data_processing.curriculum import ramp
from data_processing.tables import Item
from data_processing.teacher import argue, describe_item, describe_user, state_intention, usual_successors

CATEGORIES = ("Kettles", "Teapots", "Cups", "Trays", "Spoons")
BRANDS = ("Arbor", "Birch", "Cedar", "")


def item(category: str, brand: str, title: str = "") -> Item:
    return Item(title or f"{brand} {category} thing", "", brand, category, ("Kitchen", category) if category else ())


items = st.builds(item, st.sampled_from((*CATEGORIES, "")), st.sampled_from(BRANDS))
SUCCESSORS = {"Kettles": ["Teapots", "Cups"], "Teapots": ["Cups"]}


@settings(max_examples=300)
@given(history=st.lists(items, min_size=1, max_size=9), target=items, seed=st.integers(0, 9))
def test_a_chain_says_only_what_is_true_of_the_history(history: list[Item], target: Item, seed: int) -> None:
    ids = [f"<|a_{n + 1}|>" for n in range(len(history))]
    answer = argue(history, target, ids, "<|a_99|>", SUCCESSORS, random.Random(seed))
    known = {entry.category for entry in history} | set(SUCCESSORS.get(history[-1].category, ()))
    brands = {entry.brand for entry in history} - {""}
    if answer is None:
        assert target.category not in known - {""}
        assert target.brand not in brands
        return
    said = " ".join((answer.evidence, answer.preference, answer.intent, answer.recommendation))
    for category in CATEGORIES:
        assert (category in said) <= (category in known)
    for brand in BRANDS[:-1]:
        assert (brand in said) <= (brand in brands)
    assert ids[-1] in answer.evidence
    for what, count, total in re.findall(r"(\w+) in (\d+) of (\d+)", answer.evidence):
        assert int(total) == len(history)
        assert int(count) == sum(what in (entry.brand, entry.category) for entry in history)
    # Denoised: in order, the latest kept, nothing invented, everything else of the argued brand or category.
    assert list(answer.history) == [name for name in ids if name in answer.history]
    assert answer.history[-1] == ids[-1]
    for name in answer.history[:-1]:
        kept = history[ids.index(name)]
        assert kept.brand == target.brand or kept.category == target.category
    assert answer.answer == "<|a_99|>"


def test_the_target_text_never_enters_a_chain() -> None:
    target = item("Cups", "Arbor", title="Zanzibar Moonlight Special")
    history = [item("Kettles", "Arbor"), item("Teapots", "Birch")]
    for seed in range(50):
        answer = argue(history, target, ["<|a_1|>", "<|a_2|>"], "<|a_3|>", SUCCESSORS, random.Random(seed))
        assert answer is not None
        assert not set(["Zanzibar", "Moonlight", "Special"]) & set(answer.render().split())


def test_wordings_vary() -> None:
    history = [item("Kettles", "Arbor"), item("Teapots", "Birch")]
    target = item("Cups", "Arbor")
    texts = set()
    for seed in range(50):
        answer = argue(history, target, ["<|a_1|>", "<|a_2|>"], "<|a_3|>", SUCCESSORS, random.Random(seed))
        assert answer is not None
        texts.add(answer.render())
    assert len(texts) > 10


def test_usual_successors_are_counted_and_ties_settled_by_name() -> None:
    a, b, c, d, e = (item(name, "") for name in CATEGORIES)
    assert usual_successors([[a, b], [a, b], [a, d], [a, c], [a, e]])["Kettles"] == [
        "Teapots",
        "Cups",
        "Spoons",
    ]


def test_preferences_count_what_was_bought() -> None:
    history = [item("Cups", "Arbor"), item("Cups", "Arbor"), item("Trays", "Birch"), item("Cups", "Arbor")]
    preference = describe_user(history)
    assert preference.general == "In all Cups (3 of 4) and Trays (1 of 4), often by Arbor."
    assert preference.short_term.startswith("Lately Cups (2 of 3)")
    assert preference.long_term.startswith("Earlier Cups (1 of 1)")


def test_descriptions_and_intentions_are_never_empty() -> None:
    bare = item("", "", title="Thing")
    assert describe_item(bare).startswith("Thing")
    assert state_intention(bare)
    assert "Zanzibar" not in state_intention(item("Cups", "Arbor", title="Zanzibar"))


@given(direct=st.integers(0, 300), reasoning=st.integers(0, 300))
def test_ramp_keeps_rows_and_orders(direct: int, reasoning: int) -> None:
    a, b = [("d", n) for n in range(direct)], [("r", n) for n in range(reasoning)]
    merged = ramp(a, b)
    assert [row for row in merged if row[0] == "d"] == a
    assert [row for row in merged if row[0] == "r"] == b


def test_ramp_rises_evenly_and_has_no_block_at_the_tail() -> None:
    merged = ramp(["d"] * 500, ["r"] * 500)
    shares = [merged[start : start + 100].count("r") / 100 for start in range(0, 1000, 100)]
    assert all(abs(share - (0.05 + 0.1 * step)) < 0.03 for step, share in enumerate(shares))
