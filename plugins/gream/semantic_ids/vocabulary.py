"""The text form of a semantic id: one token per level, ``<|a_1|><|b_7|>``, codes counted from 1 in text.

In arrays codes count from 0 and -1 stands for "no token at this level".
"""

from __future__ import annotations

import re
import string

LEVEL_LETTERS = string.ascii_lowercase

# Both published spellings: <|a_1|> of GREAM and <a_1> of LC-Rec, LETTER and their descendants.
TOKEN_PATTERN = re.compile(r"<\|?([a-z])_(\d+)\|?>")


def level_token(level: int, code: int) -> str:
    """The token of ``code`` (from 0) at ``level`` (from 0)."""
    return f"<|{LEVEL_LETTERS[level]}_{code + 1}|>"


def find_tokens(text: str) -> list[str]:
    """Every semantic-id token in ``text``, in order, in whichever published spelling it has."""
    return [match.group(0) for match in TOKEN_PATTERN.finditer(text)]
