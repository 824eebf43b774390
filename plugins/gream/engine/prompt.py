"""The text that a model is asked with: this project's prompts, or the one of a model that was trained elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gream.dialogue import Form, direct_text, reasoning_prompt, render_prompt
from gream.engine.settings import Mode
from gream.errors import GreamError

_HISTORY = re.compile(r"\{history(?::([^{}]*))?\}")


def prompt_text(history: Sequence[str], mode: Mode, form: Form | None) -> str:
    """The text after which a model writes a chain, or the next item at once.

    Args:
        history: Semantic ids as text, oldest first.
        mode: Which of the two.
        form: Of the direct prompt.
    """
    if mode is Mode.reasoning:
        return render_prompt(reasoning_prompt(history))
    assert form is not None  # noqa: S101 - `gream.engine.contract.settle`
    return direct_text(history, form)


def encode_prompts(tokenizer: Any, texts: Sequence[str], *, room: int, limit: int) -> list[list[int]]:
    """Token ids of each prompt.

    Args:
        tokenizer: That of the model.
        texts: Prompts with their chat markers.
        room: Most tokens that follow a prompt.
        limit: Positions of the model.

    Raises:
        GreamError: A prompt leaves less room than that.
    """
    prompts: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    longest = max(map(len, prompts))
    if longest + room > limit:
        raise GreamError(
            f"the longest prompt has {longest} tokens and up to {room} follow, but the model has {limit} positions; "
            "lower --chain-tokens, or train with a shorter history"
        )
    return prompts


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt as text with one place for the history.

    Attributes:
        before: Text in front of the history.
        separator: What stands between two items of it.
        after: Text behind it.
    """

    before: str
    separator: str
    after: str

    @staticmethod
    def load(path: Path) -> PromptTemplate:
        r"""Read a template: text, special tokens included, with ``{history}`` or ``{history:SEPARATOR}`` in it.

        Items are separated by a space unless told otherwise; ``\n`` in the separator is a new line. A new line at the
        end of the file, which editors put there, is not part of the prompt.

        Raises:
            GreamError: The file cannot be read, or does not name the history exactly once.
        """
        try:
            text = path.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise GreamError(f"{path}: cannot be read as text ({error})") from None
        places = list(_HISTORY.finditer(text))
        if len(places) != 1:
            raise GreamError(f"{path}: names the history {len(places)} times; write {{history}} or {{history:, }} once")
        separator = " " if places[0][1] is None else places[0][1].replace("\\n", "\n")
        return PromptTemplate(text[: places[0].start()], separator, text[places[0].end() :])

    def render(self, history: Sequence[str]) -> str:
        """The prompt for a history of ids as text, oldest first."""
        return f"{self.before}{self.separator.join(history)}{self.after}"
