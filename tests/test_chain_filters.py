"""Planted bad chains are caught, each by the filter that is meant; good ones pass."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from gream.dialogue import ReasonedAnswer
from hypothesis import given, settings
from hypothesis import strategies as st

from data_processing.tables import Item
from data_processing.teacher.filters import Rejection, Titles, length_of, rejections
from data_processing.teacher.labels import labelled
from data_processing.teacher.template import argue, usual_successors

KETTLES, TEAS, CUPS = ("Home", "Kettles"), ("Food", "Green Teas"), ("Home", "Tea Cups")


def item(title: str, brand: str, path: tuple[str, ...]) -> Item:
    return Item(title, "", brand, path[-1], path)


HISTORY = [
    item("Arbor Copper Kettle of Old Times", "Arbor", KETTLES),
    item("Birch Glass Kettle", "Birch", KETTLES),
    item("Arbor Jasmine Green Tea, Loose Leaf", "Arbor", TEAS),
]
TARGET = item("Cedar Zanzibar Moonlight Porcelain Tea Cup", "Cedar", CUPS)
OTHER = item("Dogwood Painted Travel Mug With Lid", "Dogwood", ("Home", "Mugs"))
# Every word of a title is distinctive or not by how many titles hold it: these make the common ones common.
FILLING = [item(f"{brand} Kettle Green Tea Cup Porcelain {n}", brand, KETTLES) for n, brand in enumerate(["Elm"] * 300)]
TITLES = Titles([*HISTORY, TARGET, OTHER, *FILLING])
IDS = ("<|a_1|><|b_1|>", "<|a_2|><|b_1|>", "<|a_3|><|b_1|>")
TARGET_ID = "<|a_9|><|b_4|>"
GOOD = ReasonedAnswer(
    evidence=f"{IDS[2]} came last, a green tea by Arbor; Arbor in 2 of 3, kettles in 2 of 3.",
    preference="Arbor again and again, and plain things for tea.",
    intent="What goes with green tea: tea cups come after it.",
    recommendation="A tea cup of fine porcelain, perhaps one by Cedar.",
    history=(IDS[0], IDS[2]),
    answer=TARGET_ID,
)


def judged(text: str, longest: int = 200) -> list[Rejection]:
    return rejections(
        text,
        history=HISTORY,
        history_ids=IDS,
        target=TARGET,
        target_id=TARGET_ID,
        titles=TITLES,
        longest=longest,
    )


def test_a_good_chain_passes() -> None:
    assert judged(GOOD.render()) == []


BAD: list[tuple[str, ReasonedAnswer | str, Rejection]] = [
    ("no text", "", Rejection.stages),
    ("a refusal", "I cannot help with that.", Rejection.stages),
    ("no thinking marks", GOOD.render().replace("<think>\n", ""), Rejection.stages),
    ("a stage is missing", GOOD.render().replace("Intent: ", "Idea: "), Rejection.stages),
    ("a stage is empty", replace(GOOD, intent=" "), Rejection.stages),
    (
        "stages out of order",
        GOOD.render().replace("Evidence: ", "X: ").replace("Preference: ", "Evidence: ").replace("X: ", "Preference: "),
        Rejection.stages,
    ),
    ("a stage twice", GOOD.render().replace("\nIntent", "\nPreference: more\nIntent"), Rejection.stages),
    ("no history", GOOD.render().replace("\nHistory", "\nStory"), Rejection.stages),
    ("no answer", GOOD.render().replace("answer>", "reply>"), Rejection.stages),
    ("words after the answer", GOOD.render() + " Enjoy!", Rejection.stages),
    ("another answer", replace(GOOD, answer=IDS[0]), Rejection.answer),
    ("words in the answer", replace(GOOD, answer=f"it is {TARGET_ID}"), Rejection.answer),
    ("an unfinished answer", replace(GOOD, answer="<|a_9|>"), Rejection.answer),
    ("an empty answer", replace(GOOD, answer=""), Rejection.answer),
    ("the title as evidence", replace(GOOD, evidence=f"They bought {TARGET.title}."), Rejection.leak),
    ("the title as recommendation", replace(GOOD, recommendation=TARGET.title.upper()), Rejection.leak),
    ("most of the title", replace(GOOD, recommendation="A zanzibar moonlight porcelain tea cup."), Rejection.leak),
    ("a word of the title as evidence", replace(GOOD, evidence="Likes of Zanzibar."), Rejection.leak),
    ("a word of the title as preference", replace(GOOD, preference="Moonlight, again."), Rejection.leak),
    ("a word of the title as intent", replace(GOOD, intent="To dream of zanzibar's shores."), Rejection.leak),
    ("all telling words, apart", replace(GOOD, recommendation="Moonlight over Zanzibar."), Rejection.leak),
    ("its brand as preference", replace(GOOD, preference="Cedar, more than once."), Rejection.leak),
    ("its id as evidence", replace(GOOD, evidence=f"{TARGET_ID} is near."), Rejection.leak),
    ("its id in the history", replace(GOOD, history=(IDS[2], TARGET_ID)), Rejection.leak),
    ("another item by id", replace(GOOD, evidence="<|a_5|><|b_2|> came last."), Rejection.unknown_item),
    ("another item by title", replace(GOOD, evidence=f"They bought {OTHER.title}."), Rejection.unknown_item),
    ("another title, cut", replace(GOOD, intent="More like dogwood painted travel mug with."), Rejection.unknown_item),
    ("half an id", replace(GOOD, evidence="<|a_3|> came last."), Rejection.malformed_id),
    ("an id too long", replace(GOOD, evidence="<|a_3|><|b_1|><|c_1|> came last."), Rejection.malformed_id),
    ("levels exchanged", replace(GOOD, evidence="<|b_1|><|a_3|> came last."), Rejection.malformed_id),
    ("ids run together", replace(GOOD, evidence=f"{IDS[0]}{IDS[1]} are two."), Rejection.malformed_id),
    ("a broken token", replace(GOOD, evidence="<|a_3<|b_1|> came last."), Rejection.malformed_id),
    ("a special token", replace(GOOD, preference="Tea.<|im_end|>"), Rejection.malformed_id),
    ("words in the history", GOOD.render().replace("History: ", "History: first "), Rejection.malformed_id),
    ("commas in the history", GOOD.render().replace(f" {IDS[2]}\n", f", {IDS[2]}\n"), Rejection.malformed_id),
    ("history reversed", replace(GOOD, history=(IDS[2], IDS[0])), Rejection.not_denoised),
    ("an item twice", replace(GOOD, history=(IDS[0], IDS[0])), Rejection.not_denoised),
    ("nothing left", replace(GOOD, history=()), Rejection.not_denoised),
    ("an invented item", replace(GOOD, history=(IDS[0], "<|a_7|><|b_7|>")), Rejection.not_denoised),
    ("far too long", replace(GOOD, intent="On and on. " * 100), Rejection.too_long),
]


@pytest.mark.parametrize(("chain", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_planted_bad_chain_is_caught(chain: ReasonedAnswer | str, reason: Rejection) -> None:
    assert reason in judged(chain if isinstance(chain, str) else chain.render())


def test_every_filter_has_a_planted_chain() -> None:
    assert {case[2] for case in BAD} == set(Rejection)


@pytest.mark.parametrize(
    "chain",
    [
        replace(GOOD, evidence=f"{HISTORY[2].title} came last; {HISTORY[1].title} before."),
        replace(GOOD, evidence="Copper, glass and jasmine: each once."),
        replace(GOOD, recommendation="Something by Cedar for the moonlight hours."),  # one word of two does not name it
        replace(GOOD, history=IDS),
        replace(GOOD, intent="Kettle green tea cup: all of it."),
        replace(GOOD, intent="As new as can be, after all, with more of the same."),
    ],
    ids=["titles of the history", "words of the history", "half of a name", "nothing to leave out", "kinds", "fillers"],
)
def test_what_the_history_or_the_kind_says_is_no_leak(chain: ReasonedAnswer) -> None:
    assert judged(chain.render()) == []


def test_a_word_that_the_history_shows_is_no_leak() -> None:
    assert Rejection.leak in judged(replace(GOOD, preference="Moonlight, again.").render())
    history = [*HISTORY[:2], item("Elm Moonlight Lamp", "Elm", ("Home", "Lamps"))]
    found = rejections(
        replace(GOOD, preference="Moonlight, again.").render(),
        history=history,
        history_ids=IDS,
        target=TARGET,
        target_id=TARGET_ID,
        titles=TITLES,
        longest=200,
    )
    assert found == []


def test_length_counts_ids_words_and_marks() -> None:
    assert length_of("Tea, <|a_1|><|b_22|> again.") == 6


ITEMS = st.builds(
    lambda brand, path, word, number: item(f"{brand} {word} {path[-1][:-1]} {number}", brand, path),
    st.sampled_from(("Arbor", "Birch", "Cedar Hill")),
    st.sampled_from((KETTLES, TEAS, CUPS)),
    st.sampled_from(("Copper", "Jasmine", "Zanzibar", "Moonlight", "Old")),
    st.integers(1, 99),
)


@settings(max_examples=150)
@given(items=st.lists(ITEMS, min_size=3, max_size=10, unique_by=lambda entry: entry.title), seed=st.integers(0, 99))
def test_every_chain_of_the_template_teacher_passes(items: list[Item], seed: int) -> None:
    known = labelled(items)
    ids = [f"<|a_{number}|>" for number in range(1, len(items) + 1)]
    successors = usual_successors([known, known])
    answer = argue(known[:-1], known[-1], ids[:-1], ids[-1], successors, random.Random(seed))
    if answer is not None:
        assert (
            rejections(
                answer.render(),
                history=known[:-1],
                history_ids=ids[:-1],
                target=known[-1],
                target_id=ids[-1],
                titles=Titles(known),
                longest=400,
            )
            == []
        )
