"""The template teacher argues from real evidence only, and calls items by what tells them apart."""

from __future__ import annotations

import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from data_processing.tables import Item
from data_processing.teacher.labels import labelled, title_brands
from data_processing.teacher.template import (
    MOST_KEPT,
    argue,
    describe_item,
    describe_user,
    label_of,
    state_intention,
    usual_successors,
)

CATEGORIES = ("Kettles", "Teapots", "Cups", "Trays", "Spoons")
BRANDS = ("Arbor", "Birch", "Cedar", "")


def item(category: str, brand: str, title: str = "") -> Item:
    return Item(title or f"{brand} {category} thing", "", brand, category, ("Kitchen", category) if category else ())


items = st.builds(item, st.sampled_from((*CATEGORIES, "")), st.sampled_from(BRANDS))
SUCCESSORS = {"Kettles": ["Teapots", "Cups"], "Teapots": ["Cups"], "Arbor": ["Birch"]}


@settings(max_examples=300)
@given(history=st.lists(items, min_size=1, max_size=9), target=items, seed=st.integers(0, 9))
def test_a_chain_says_only_what_is_true_of_the_history(history: list[Item], target: Item, seed: int) -> None:
    ids = [f"<|a_{n + 1}|>" for n in range(len(history))]
    answer = argue(history, target, ids, "<|a_99|>", SUCCESSORS, random.Random(seed))
    after = set(SUCCESSORS.get(label_of(history[-1]), ()))
    known = {entry.category for entry in history} | after
    brands = ({entry.brand for entry in history} | after) - {""}
    if answer is None:
        assert target.category not in known - {""}
        assert target.brand not in {entry.brand for entry in history} - {""}
        assert label_of(target) not in after
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
    assert len(answer.history) <= MOST_KEPT
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
    # Twice is usual, once is not; and what follows everything follows nothing in particular.
    pairs = [[a, b]] * 3 + [[a, c]] * 2 + [[a, d]] * 2 + [[a, e]] + [[b, a]] * 4 + [[c, a]] * 4
    successors = usual_successors(pairs)
    assert successors["Kettles"] == ["Teapots", "Cups", "Trays"]
    assert successors["Teapots"] == ["Kettles"]
    everywhere = usual_successors([[a, b]] * 2 + [[c, b]] * 2 + [[d, b]] * 2)
    assert everywhere == {"Kettles": [], "Cups": [], "Trays": []}


def test_a_brand_stands_in_where_there_is_no_category() -> None:
    outback, robin, sears = (item("", name, f"{name} Gift Card") for name in ("Outback", "Red Robin", "Sears"))
    successors = usual_successors([[outback, robin]] * 3 + [[robin, sears]])
    assert successors["Outback"] == ["Red Robin"]
    answer = argue([sears, outback], robin, ["<|a_1|>", "<|a_2|>"], "<|a_3|>", successors, random.Random(1))
    assert answer is not None
    assert "Red Robin" in answer.intent and "Red Robin" in answer.recommendation
    assert "Red Robin" not in answer.evidence + answer.preference
    assert answer.history == ("<|a_2|>",)


def test_preferences_count_what_was_bought() -> None:
    history = [item("Cups", "Arbor"), item("Cups", "Arbor"), item("Trays", "Birch"), item("Cups", "Arbor")]
    preference = describe_user(history)
    assert preference.general == "In all Cups (3 of 4) and Trays (1 of 4), often by Arbor."
    assert preference.short_term.startswith("Lately Cups (2 of 3)")
    assert preference.long_term.startswith("Earlier Cups (1 of 1)")


def test_what_is_not_known_of_an_item_is_not_said() -> None:
    assert describe_item(item("Cups", "Arbor", title="Zanzibar")) == "Zanzibar (Kitchen > Cups), by Arbor."
    assert describe_item(item("Cups", "", title="Zanzibar")) == "Zanzibar (Kitchen > Cups)."
    assert describe_item(item("", "Arbor", title="Zanzibar")) == "Zanzibar, by Arbor."
    assert describe_item(item("", "", title="Zanzibar")) == ""
    assert state_intention(item("Cups", "Arbor", title="Zanzibar")) == "I am looking for Cups by Arbor."
    assert state_intention(item("", "Arbor", title="Zanzibar")) == "I am looking for something by Arbor."
    assert state_intention(item("", "", title="Zanzibar")) == ""


def test_a_history_of_titles_alone_is_told_by_their_first_words() -> None:
    history = [item("", "", "Green tea of the upper valley, loose"), item("", "", "山" * 60), item("", "Arbor", "Tray")]
    general = describe_user([*history, history[0]]).general
    assert general == f"In all Green tea of the upper (2 of 4) and {'山' * 40} (1 of 4)."


def test_a_category_that_most_items_share_is_no_label() -> None:
    catalogue = [item("Gift Cards", brand) for brand in ("Arbor", "Birch", "Cedar")] + [item("Trays", "Arbor")]
    assert [entry.category for entry in labelled(catalogue)] == ["", "", "", "Trays"]
    assert [entry.title for entry in labelled(catalogue)] == [entry.title for entry in catalogue]


def test_a_category_of_several_parents_is_named_with_its_parent() -> None:
    paths = (("Hair", "Oils"), ("Skin", "Oils"), ("Skin", "Soaps"), ("Hair", "Combs"))
    catalogue = [Item("thing", "", "", path[-1], path) for path in paths]
    assert [entry.category for entry in labelled(catalogue)] == ["Oils (Hair)", "Oils (Skin)", "Soaps", "Combs"]


def test_brands_are_read_off_titles_only_where_titles_begin_with_them() -> None:
    acme = ["Acme Red Soap", "ACME Blue Soap", "Acme Green Comb", "Acme Comb for Hair"]
    paul = ["Paul Mitchell Shampoo One", "Paul Mitchell Hair Oil", "Paul Mitchell Tonic Blue", "Paul Frank Comb, Red"]
    # "Hair" begins three titles and stands in more; numbers and short words are no names.
    hair = ["Hair Oil of Roses", "Hair Comb Red", "Hair Tonic Blue", "Soap for Hair", "Cream for Hair"]
    rest = ["12 Red Combs", "12 Blue Combs", "12 Green Combs", "St One Red", "St Two Red", "St Three Red"]
    found = title_brands([*acme, *paul, *hair, *rest])
    assert found == ["Acme"] * 4 + ["Paul Mitchell"] * 3 + ["Paul"] + [""] * (len(hair) + len(rest))


def test_a_title_may_begin_with_the_brand_of_another_item() -> None:
    bare = Item("Red Robin Gift Card", "", "", "Cups", ("Cups",))
    catalogue = [item("Cups", "Red Robin"), bare, item("Trays", ""), item("Trays", "Arbor")]
    assert [entry.brand for entry in labelled(catalogue)] == ["Red Robin", "Red Robin", "", "Arbor"]
