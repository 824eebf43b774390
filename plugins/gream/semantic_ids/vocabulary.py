"""The text form of a semantic id: one token per level, ``<|a_1|><|b_7|>``, codes counted from 1 in text.

In arrays codes count from 0 and -1 stands for "no token at this level".
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from gream.errors import GreamError

LEVEL_LETTERS = string.ascii_lowercase

# Both published spellings: <|a_1|> of GREAM and <a_1> of LC-Rec, LETTER and their descendants.
TOKEN_PATTERN = re.compile(r"<\|?([a-z])_(\d+)\|?>")


def level_token(level: int, code: int) -> str:
    """The token of ``code`` (from 0) at ``level`` (from 0)."""
    return f"<|{LEVEL_LETTERS[level]}_{code + 1}|>"


def find_tokens(text: str) -> list[str]:
    """Every semantic-id token in ``text``, in order, in whichever published spelling it has."""
    return [match.group(0) for match in TOKEN_PATTERN.finditer(text)]


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of all semantic ids.

    Attributes:
        sizes: Number of codes at each level, the disambiguation level last where the policy needs one.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or len(self.sizes) > len(LEVEL_LETTERS):
            raise GreamError(f"semantic-id levels {self.sizes}: 1 to {len(LEVEL_LETTERS)} sizes of 1 or more needed")

    def tokens(self) -> list[str]:
        """All tokens, level by level."""
        return [level_token(level, code) for level, size in enumerate(self.sizes) for code in range(size)]

    def text(self, codes: Sequence[int]) -> str:
        """The text of one id; codes of -1 are left out.

        Raises:
            GreamError: A code lies outside its level.
        """
        parts = []
        for level, code in enumerate(codes):
            if code < 0:
                continue
            if level >= len(self.sizes) or code >= self.sizes[level]:
                raise GreamError(f"semantic id {tuple(codes)}: code {code} lies outside level {level} of {self.sizes}")
            parts.append(level_token(level, code))
        return "".join(parts)
