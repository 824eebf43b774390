"""How long rows get before a tokenizer is there to ask, and texts cut so that question and answer stay within a row."""

from __future__ import annotations

from collections.abc import Mapping

from gream.errors import GreamError

from ..config import SftConfig
from ..readers.text import cut_text

# Tokens per character or byte: a vocabulary of two thousand, trained on the catalogue, makes fewer of most texts.
_PER_ASCII = 1 / 3
_PER_OTHER_BYTE = 2 / 3
# What each text may take of a row. Five titles fit, or a title and a description, beside the question's own words.
_SHARES = {"title": 1 / 8, "description": 1 / 2, "brand": 1 / 16, "category": 1 / 16}
# System prompt, question and chat markers.
_OWN_WORDS = 64


def estimated_tokens(text: str) -> float:
    """Tokens of a text without semantic ids: an estimate on the safe side."""
    ascii_, whole = len(text.encode("ascii", "ignore")), len(text.encode())
    return ascii_ * _PER_ASCII + (whole - ascii_) * _PER_OTHER_BYTE


def fitted_text(text: str, tokens: float) -> str:
    """``text``, or its beginning, in about so many tokens; a single character at least."""
    if estimated_tokens(text) <= tokens:
        return text
    short, long = 1, len(text)
    while long - short > 1:
        middle = (short + long) // 2
        short, long = (middle, long) if estimated_tokens(text[:middle]) <= tokens else (short, middle)
    return cut_text(text, short)


def fitted_items(items: list[dict[str, str]], longest_row: int) -> dict[str, int]:
    """Shorten the texts of items in place, so that every row about one has room for its question and its answer.

    Args:
        items: Texts by name; see `gream.tasks.ITEM_TEXTS`.
        longest_row: Tokens.

    Returns:
        How many texts of each name were shortened, those of which none was left out.
    """
    shortened = dict.fromkeys(_SHARES, 0)
    for texts in items:
        for name, share in _SHARES.items():
            fitted = fitted_text(texts[name], share * longest_row)
            shortened[name] += fitted != texts[name]
            texts[name] = fitted
    return {name: count for name, count in shortened.items() if count}


def check_fit(config: SftConfig, tokens_per_id: int) -> None:
    """Make sure that ids alone do not fill a row.

    Raises:
        GreamError: ``sft.history`` or ``sft.sequence_items`` is too large for ``sft.longest_row``.
    """
    most: Mapping[str, int] = {
        "history": config.longest_row // 2 // (tokens_per_id + 1),
        "sequence_items": (config.longest_row - _OWN_WORDS) // tokens_per_id,
    }
    wanted = {"history": config.history, **({"sequence_items": config.sequence_items} if config.sequence else {})}
    for name, count in wanted.items():
        if count > most[name]:
            raise GreamError(
                f"sft.{name} {count}: so many ids of {tokens_per_id} tokens leave no room in rows of sft.longest_row "
                f"{config.longest_row}; {most[name]} would do, or a longer row (and cutoff_len of the SFT recipe)"
            )
