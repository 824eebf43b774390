"""The dialogue contract: one prompt everywhere, one grammar that is written and read."""

from __future__ import annotations

import string

import pytest
from gream.dialogue import (
    CHAT_TEMPLATE,
    ReasonedAnswer,
    direct_prompt,
    direct_text,
    extract_answer,
    parse_reasoned_answer,
    reasoning_prompt,
    render_prompt,
    sequence_messages,
)
from gream.errors import GreamError
from gream.semantic_ids.vocabulary import level_token
from gream.tasks import render_task
from gream.templates import TEMPLATES
from hypothesis import given
from hypothesis import strategies as st

sentences = st.text(string.ascii_letters + " .,;'()0123456789<>/", min_size=1).map(str.strip).filter(bool)
ids = st.lists(st.integers(0, 255), min_size=1, max_size=5).map(
    lambda codes: "".join(level_token(level, code) for level, code in enumerate(codes))
)


@given(
    answer=st.builds(
        ReasonedAnswer,
        evidence=sentences,
        preference=sentences,
        intent=sentences,
        recommendation=sentences,
        history=st.lists(ids, max_size=6).map(tuple),
        answer=ids,
    )
)
def test_what_is_rendered_is_parsed_back(answer: ReasonedAnswer) -> None:
    assert parse_reasoned_answer(answer.render()) == answer


WELL_FORMED = ReasonedAnswer("e", "p", "i", "r", ("<|a_1|>",), "<|a_2|>").render()


@pytest.mark.parametrize(
    "text",
    [
        WELL_FORMED.replace("</think>", ""),
        WELL_FORMED.replace("Intent: i\n", ""),
        WELL_FORMED.replace("</answer>", ""),
        WELL_FORMED + " and more",
        WELL_FORMED + "<answer><|a_3|></answer>",
        WELL_FORMED.replace("Evidence: e", "Evidence: "),
        "",
    ],
)
def test_malformed_answers_are_not_parsed(text: str) -> None:
    assert parse_reasoned_answer(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (WELL_FORMED, "<|a_2|>"),
        ("<think>anything</think>\n<answer> <|a_2|> </answer>", "<|a_2|>"),
        ("<think>anything</think> so <answer>the <|a_2|></answer> yes", "the <|a_2|>"),
        ("<answer><|a_2|></answer>", None),
        ("<think>open <answer><|a_2|></answer>", None),
        ("<answer><|a_2|></answer><think>late</think>", None),
        ("<think>x</think><answer><|a_2|>", None),
        ("<think>x</think><answer><|a_2|></answer><answer><|a_3|></answer>", None),
    ],
)
def test_extract_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_prompt_equals_the_chat_template() -> None:
    import jinja2

    template = jinja2.Environment(autoescape=False).from_string(CHAT_TEMPLATE)  # noqa: S701 - a chat prompt, no HTML
    for messages in (direct_prompt(["<|a_1|>", "<|a_2|>"]), reasoning_prompt(["<|a_1|>"])):
        assert template.render(messages=messages, add_generation_prompt=True) == render_prompt(messages)


def test_training_asks_as_evaluation_does() -> None:
    history = ["<|a_1|>", "<|a_2|>"]
    row = render_task("next_item", 0, {"history": " ".join(history), "item": "<|a_3|>"})
    assert row[:-1] == direct_prompt(history)
    assert row[-1]["content"] == "<|a_3|>"
    assert direct_text(history, "question") == render_prompt(row[:-1])


def test_a_sequence_is_asked_for_by_its_own_beginning() -> None:
    """Whatever the history, the prompt is the beginning of the row that holds the whole sequence."""
    whole = sequence_messages(["<|a_1|>", "<|a_2|>", "<|a_3|>"])
    row = render_prompt(whole[:1]) + whole[1]["content"]
    assert row == "<|im_start|>user\nItems, oldest first:<|im_end|>\n<|im_start|>assistant\n<|a_1|><|a_2|><|a_3|>"
    for end in range(4):
        assert row.startswith(direct_text(["<|a_1|>", "<|a_2|>", "<|a_3|>"][:end], "sequence"))


def test_every_template_renders_with_its_slots() -> None:
    for task, wordings in TEMPLATES.items():
        for number, wording in enumerate(wordings):
            names = [name for _, name, _, _ in string.Formatter().parse(wording.question + wording.answer) if name]
            messages = render_task(task, number, {name: f"[{name}]" for name in names})
            text = messages[1]["content"] + messages[2]["content"]
            assert all(f"[{name}]" in text for name in names)


@pytest.mark.parametrize(
    ("task", "template", "slots", "said"),
    [
        ("nonsense", 0, {}, "no template 0 of task 'nonsense'"),
        ("next_item", 99, {}, "no template 99"),
        ("next_item", 0, {"history": "x"}, "slot 'item' is empty"),
        ("next_item", 0, {"history": "x", "item": " "}, "slot 'item' is empty"),
    ],
)
def test_bad_records_are_refused(task: str, template: int, slots: dict[str, str], said: str) -> None:
    with pytest.raises(GreamError, match=said):
        render_task(task, template, slots)
