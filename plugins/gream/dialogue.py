"""What is said to the model and what it answers: one source for SFT, RL and evaluation.

A conversation is a list of ``{"role", "content"}`` messages. The direct prompt asks for the next item at once; the
reasoning prompt asks for the five-stage chain first (paper section 3.3). The next item can be asked for in two forms:
"question" puts the history into the question, one row per target; "sequence" lets the model write the whole sequence,
so that one row trains every target in it: under causal attention each sees the items before it and no other.

A reasoned answer has one grammar, which
`ReasonedAnswer.render` writes and `parse_reasoned_answer` reads:

    <think>
    Evidence: what the history shows
    Preference: what the user likes
    Intent: what the user wants now
    Recommendation: what kind of item follows
    </think>
    History: the denoised sequence of semantic ids
    <answer>SEMANTIC ID</answer>
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict

from gream.semantic_ids.vocabulary import find_tokens


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


SYSTEM_PROMPT = "You recommend items from a catalogue. Each item is written as its semantic id."

# A ChatML template without a thinking block: exactly what LLaMA-Factory's ``qwen3_nothink`` renders.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

ANSWER_OPEN = "<answer>"
ANSWER_CLOSE = "</answer>"

DIRECT_QUESTION = "The user's items, oldest first: {history}\nWhich item comes next?"
# Short, because a row of this form has no other overhead: no system prompt, no space between ids.
SEQUENCE_QUESTION = "Items, oldest first:"
REASONING_QUESTION = "The user's items, oldest first: {history}\nThink it through, then name the next item."


class Form(StrEnum):
    """How a model is asked for the next item at once: in the form that it was trained on."""

    question = "question"
    sequence = "sequence"


_STAGES = ("Evidence", "Preference", "Intent", "Recommendation")

# They and the rewritten history.
STEPS = len(_STAGES) + 1

_ANSWER = re.compile(
    r"<think>\n"
    + "".join(rf"{stage}: (?P<{stage.lower()}>[^\n]+)\n" for stage in _STAGES)
    + r"</think>\nHistory: (?P<history>[^\n]*)\n<answer>(?P<answer>(?:(?!</?answer>)[^\n])*)</answer>"
)


def join_history(ids: Sequence[str]) -> str:
    """Semantic ids of a history as they stand in a prompt."""
    return " ".join(ids)


def direct_prompt(history: Sequence[str]) -> list[Message]:
    """The conversation that asks for the next item at once.

    Args:
        history: Semantic ids as text, oldest first.
    """
    return _ask(DIRECT_QUESTION.format(history=join_history(history)))


def reasoning_prompt(history: Sequence[str]) -> list[Message]:
    """The conversation that asks for a chain of reasoning and then the next item.

    Args:
        history: Semantic ids as text, oldest first.
    """
    return _ask(REASONING_QUESTION.format(history=join_history(history)))


def sequence_messages(items: Sequence[str]) -> list[Message]:
    """The conversation in which the model writes a whole sequence: every item of the answer is a target.

    Args:
        items: Semantic ids as text, oldest first.
    """
    return [{"role": "user", "content": SEQUENCE_QUESTION}, {"role": "assistant", "content": "".join(items)}]


def direct_text(history: Sequence[str], form: Form) -> str:
    """The text after which a model writes the next item at once.

    Args:
        history: Semantic ids as text, oldest first.
        form: That of the rows it was trained on.
    """
    if form == Form.question:
        return render_prompt(direct_prompt(history))
    question, answer = sequence_messages(history)
    return render_prompt([question]) + answer["content"]


def _ask(question: str) -> list[Message]:
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]


def render_prompt(messages: Sequence[Message]) -> str:
    """The conversation as the text a model completes; equal to `CHAT_TEMPLATE` with a generation prompt."""
    turns = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages)
    return turns + "<|im_start|>assistant\n"


@dataclass(frozen=True)
class ReasonedAnswer:
    """The five stages of reasoning and the item they lead to.

    Attributes:
        evidence: Behavioural evidence extraction.
        preference: Latent preference modelling.
        intent: Intent inference.
        recommendation: Recommendation formulation.
        history: Denoised sequence: semantic ids as text, oldest first.
        answer: Semantic id of the recommended item.
    """

    evidence: str
    preference: str
    intent: str
    recommendation: str
    history: tuple[str, ...]
    answer: str

    def render(self, steps: int = STEPS) -> str:
        """The answer as the model is taught to write it.

        Args:
            steps: How many of the five stages it holds, from 1 on; a curriculum teaches them one after the other.
        """
        stages = "\n".join(f"{stage}: {getattr(self, stage.lower())}" for stage in _STAGES[:steps])
        history = f"History: {join_history(self.history)}\n" if steps == STEPS else ""
        return f"<think>\n{stages}\n</think>\n{history}{ANSWER_OPEN}{self.answer}{ANSWER_CLOSE}"


def parse_reasoned_answer(text: str) -> ReasonedAnswer | None:
    """Read what `ReasonedAnswer.render` writes; None where ``text`` does not follow the grammar exactly.

    The answer is returned as written: whether an item has this id is the catalog's question.
    """
    match = _ANSWER.fullmatch(text)
    if match is None:
        return None
    history = tuple("".join(find_tokens(part)) for part in match["history"].split(" ") if part)
    stages = {stage.lower(): match[stage.lower()] for stage in _STAGES}
    return ReasonedAnswer(**stages, history=history, answer=match["answer"])


_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"


def extract_answer(text: str) -> str | None:
    """The content of the one ``<answer>`` that follows a closed ``<think>`` block: what the reward reads.

    None where the block or the answer is missing or unclosed, and where there are several answers: which of them
    is meant cannot be known.
    """
    # Plain searches, since a pattern that steps over long thoughts takes most of a reward's time.
    answer = text.find(ANSWER_OPEN)
    if answer < 0 or text.find(ANSWER_OPEN, answer + len(ANSWER_OPEN)) >= 0:
        return None
    thought = text.find(_THINK_OPEN, 0, answer)
    if thought < 0 or text.find(_THINK_CLOSE, thought + len(_THINK_OPEN), answer) < 0:
        return None
    start = answer + len(ANSWER_OPEN)
    end = text.find(ANSWER_CLOSE, start)
    return text[start:end].strip() if end >= 0 else None
