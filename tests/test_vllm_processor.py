"""The rows of vLLM's batch, without vLLM: which tokens each may be given, as requests come, move and go."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import numpy as np
import pytest
import torch
from gream.dialogue import ANSWER_OPEN
from gream.errors import GreamError
from hypothesis import given, settings
from hypothesis import strategies as st
from test_answer import constraint, encode, naive, parts
from vllm_gream.rows import AnswerRows

ROWS, VOCABULARY = 5, 700


class Direction(Enum):
    """vLLM's ``MoveDirectionality``."""

    UNIDIRECTIONAL = auto()
    SWAP = auto()


def expected(prompt: list[int], output: list[int]) -> list[int] | None:
    """Tokens that may come next, by the text; None for all. Prompts hold no mark here, but for a last one."""
    opened = prompt[-len(encode(ANSWER_OPEN)) :] == encode(ANSWER_OPEN)
    tokens = (encode(ANSWER_OPEN) if opened else []) + output
    found = dict(naive(tokens))
    return found.get(len(tokens) - 1) if tokens else None


def check(rows: AnswerRows, requests: list[tuple[list[int], list[int]]]) -> None:
    logits = torch.randn(len(requests), VOCABULARY)
    confined = rows.confine(logits.clone())
    for row, (prompt, output) in enumerate(requests):
        allowed = expected(prompt, output)
        possible = range(VOCABULARY) if allowed is None else allowed
        assert torch.isfinite(confined[row]).nonzero().flatten().tolist() == list(possible)
        assert torch.equal(confined[row, list(possible)], logits[row, list(possible)])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_row_is_confined_by_what_its_request_wrote(data: st.DataObject) -> None:
    """Requests come, write, are swapped, resumed with what they wrote, cut, and go, as vLLM's batches have it."""
    rows = AnswerRows(constraint(), ROWS)
    batch: list[tuple[list[int], list[int]]] = []
    for _ in range(data.draw(st.integers(1, 8))):
        removed, added, moved = [], [], []
        # Those that end leave holes, which new ones fill; the last ones move into the holes that are left.
        holes = sorted(data.draw(st.sets(st.sampled_from(range(len(batch))))) if batch else [])
        removed += holes
        for _ in range(data.draw(st.integers(0, ROWS - len(batch) + len(holes)))):
            prompt = data.draw(st.sampled_from([encode("so"), encode("so" + ANSWER_OPEN), []]))
            output = [token for part in data.draw(st.lists(st.sampled_from(parts()), max_size=2)) for token in part]
            row = holes.pop(0) if holes else len(batch)
            removed = [hole for hole in removed if hole != row]
            batch[row : row + 1] = [(prompt, output)]
            added.append((row, None, prompt, output))
        while holes:
            if holes[-1] == len(batch) - 1:
                holes.pop()
            else:
                hole = holes.pop(0)
                moved.append((len(batch) - 1, hole, Direction.UNIDIRECTIONAL))
                batch[hole] = batch[-1]
            batch.pop()
        if len(batch) > 1 and data.draw(st.booleans()):
            moved.append((0, len(batch) - 1, Direction.SWAP))
            batch[0], batch[-1] = batch[-1], batch[0]
        rows.update(removed[::-1], added, moved)
        if batch:
            check(rows, batch)
        for _, output in batch:
            allowed = expected([], output)
            output.append(data.draw(st.sampled_from(allowed or [token for part in parts() for token in part])))
            if data.draw(st.integers(0, 9)) == 0:
                del output[-2:]  # as after keys and values were lost


def test_what_vllm_keeps_to_itself_is_an_error() -> None:
    rows = AnswerRows(constraint(), ROWS)
    rows.update([], [(0, None, encode("so"), [-1])], [])
    with pytest.raises(GreamError, match="keeps what it sampled to itself"):
        rows.confine(torch.zeros(1, VOCABULARY))


def test_nothing_is_copied_where_no_row_is_in_an_answer() -> None:
    rows = AnswerRows(constraint(), ROWS)
    rows.update([], [(0, None, encode("so"), encode("so"))], [])
    logits = torch.zeros(1, VOCABULARY)
    assert rows.confine(logits) is logits and not logits.any()


def test_half_precision_keeps_its_values() -> None:
    rows = AnswerRows(constraint(), ROWS)
    rows.update([], [(0, None, encode(ANSWER_OPEN), [])], [])
    confined: Any = rows.confine(torch.full((1, VOCABULARY), 0.5, dtype=torch.bfloat16))
    assert np.flatnonzero(np.isfinite(confined.float().numpy()[0])).tolist() == encode("<|a_1|><|a_2|>")
