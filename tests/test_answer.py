"""What may follow ``<answer>``: the automaton against a reading of the text, character by character."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from gream.decoding.answer import AnswerConstraint
from gream.dialogue import ANSWER_CLOSE, ANSWER_OPEN
from hypothesis import given, settings
from hypothesis import strategies as st
from srpo_support import tiny_tokenizer

# Ids of two lengths: the shorter one is no beginning of the longer ones.
ITEMS = ("<|a_1|><|b_2|>", "<|a_2|><|b_2|><|c_1|>", "<|a_2|><|b_3|><|c_1|>")


@cache
def tokenizer() -> Any:
    return tiny_tokenizer()


@cache
def piece(token: int) -> str:
    text: str = tokenizer().decode([token])
    return text


@cache
def _encoded(text: str) -> tuple[int, ...]:
    return tuple(tokenizer().encode(text, add_special_tokens=False))


def encode(text: str) -> list[int]:
    return list(_encoded(text))


@cache
def constraint() -> AnswerConstraint:
    return AnswerConstraint([encode(item) for item in ITEMS], tokenizer())


def allowed_behind(said: Sequence[int]) -> list[int]:
    """What may come next in an answer that holds ``said``."""
    paths = [[*encode(item), *encode(ANSWER_CLOSE)] for item in ITEMS]
    return sorted({path[len(said)] for path in paths if path[: len(said)] == list(said) and len(path) > len(said)})


def openings(tokens: Sequence[int]) -> list[int]:
    """Positions behind which the text ends with the mark."""
    pieces = [piece(token) for token in tokens]
    return [at for at in range(len(tokens)) if "".join(pieces[: at + 1]).endswith(ANSWER_OPEN)]


def naive(tokens: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Positions whose next token is one of some, and which: by the text of all that stands before, anew each time."""
    found = []
    for first in openings(tokens)[:1]:
        for position in range(first, len(tokens)):
            if not (allowed := allowed_behind(tokens[first + 1 : position + 1])):
                break
            found.append((position, allowed))
    return found


def found_by(tokens: Sequence[int]) -> list[tuple[int, list[int]]]:
    return [(at, allowed.tolist()) for at, allowed in constraint().restrictions(tokens)]


@cache
def parts() -> list[list[int]]:
    """What sequences are made of, so that answers come up: whole ids, beginnings of the mark, single characters."""
    marks = [ANSWER_OPEN, ANSWER_CLOSE, "<", "<ans", "wer>", "answer", "><", "so", "\n"]
    cut = [[token] for character in ANSWER_OPEN for token in encode(character)]
    ids = [encode(item) for item in (*ITEMS, "<|a_1|>", "<|b_2|>", "<|c_3|>")]
    return [*map(encode, marks), *cut, *ids, encode(ANSWER_OPEN) + encode(ITEMS[0]) + encode(ANSWER_CLOSE)]


sequences = st.lists(st.deferred(lambda: st.sampled_from(parts())), max_size=8).map(lambda some: list(chain(*some)))


def test_what_may_follow_inside_an_answer() -> None:
    tokens = encode("<think>\nso\n</think>\n<answer><|a_2|><|b_2|><|c_1|></answer> <answer><|c_3|>")
    first = tokens.index(encode("<|a_2|>")[0])
    expected = [(first - 1, encode("<|a_1|><|a_2|>")), (first, encode("<|b_2|><|b_3|>"))]
    expected += [(first + 1, encode("<|c_1|>"))]
    expected += [(first + 2 + number, [token]) for number, token in enumerate(encode(ANSWER_CLOSE))]
    assert found_by(tokens) == expected  # the second answer is free


def test_a_token_that_was_not_allowed_ends_the_constraint() -> None:
    tokens = encode("<answer><|c_3|><|a_1|></answer>")
    assert [position for position, _ in found_by(tokens)] == [tokens.index(encode("<|c_3|>")[0]) - 1]
    assert found_by(encode("<|a_1|> no answer")) == []


@settings(max_examples=150, deadline=None)
@given(sequences)
def test_the_mark_is_found_in_whatever_pieces_it_is_written(tokens: list[int]) -> None:
    assert found_by(tokens) == naive(tokens)


@settings(max_examples=200, deadline=None)
@given(sequences)
def test_an_answer_that_the_prompt_leaves_open_goes_on(prompt: list[int]) -> None:
    allowed = constraint().allowed(constraint().behind(prompt))
    opened = [allowed_behind(prompt[last + 1 :]) for last in openings(prompt)[-1:]]
    assert ([] if allowed is None else allowed.tolist()) == list(chain(*opened))


def test_a_prompt_may_end_in_the_middle_of_the_mark() -> None:
    state = constraint().behind(encode("<answer><|a_1|><|b_2|></answer>\n<ans"))
    for token in encode("wer>"):
        assert constraint().allowed(state) is None
        state = constraint().after(state, token)
    allowed = constraint().allowed(state)
    assert allowed is not None and allowed.tolist() == encode("<|a_1|><|a_2|>")


def test_tokens_beyond_the_tokenizer_are_outside_of_any_answer() -> None:
    assert constraint().after(AnswerConstraint.START, 10**6) == AnswerConstraint.START
    assert constraint().allowed(constraint().after(constraint().behind(encode(ANSWER_OPEN)), 10**6)) is None
