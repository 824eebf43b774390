"""What users choose between in decoding, by the names that they type; nothing else is imported here."""

from __future__ import annotations

from enum import StrEnum


class Score(StrEnum):
    """The distribution of each next token: over all tokens, or over those that the trie allows."""

    vocabulary = "vocabulary"
    legal = "legal"


class ServerEngine(StrEnum):
    """What runs on inference servers."""

    sglang = "sglang"
    vllm = "vllm"
