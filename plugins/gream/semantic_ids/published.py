"""Ids that others published: read as they are, collisions included, measured as they are, resolved only when asked.

Published index files give some items the same id. Such ids can be measured (`index_codes`), but no model can be trained
on them or decode them before `disambiguate_index` has made them unique: `Catalog` refuses them until then.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gream.errors import GreamError
from gream.files import read_json
from gream.semantic_ids.kmeans import Codes
from gream.semantic_ids.vocabulary import LEVEL_LETTERS, TOKEN_PATTERN

Ids = list[tuple[str, ...]]


def read_token_lists(path: Path) -> Ids:
    """Tokens of each item from an ``index.json``, plain or gzip'd, item 0 first, whatever the tokens look like.

    Raises:
        GreamError: The file cannot be read, or its items are not 0 to n-1 with a list of texts each, none empty.
    """
    raw = read_json(path, remedy="make or download the index of semantic ids again")
    if not isinstance(raw, dict) or not raw:
        raise GreamError(f"{path}: a JSON object that maps item numbers to the tokens of their ids is expected")
    numbers = {str(item) for item in range(len(raw))}
    for key in raw:
        if key not in numbers:
            raise GreamError(f"{path}: items must be numbered 0 to {len(raw) - 1}, found '{key[:40]}'")
    ids = [raw[str(item)] for item in range(len(raw))]
    for item, tokens in enumerate(ids):
        if not isinstance(tokens, list) or not tokens:
            raise GreamError(f"{path}: item {item} must have a list of tokens, found {json.dumps(tokens)[:60]}")
        for token in tokens:
            if not isinstance(token, str) or not token:
                raise GreamError(f"{path}: item {item} has {json.dumps(token)[:60]}, no token like <a_1> or <|a_1|>")
    return [tuple(tokens) for tokens in ids]


def read_index(path: Path) -> Ids:
    """Tokens of each item from an ``index.json``, plain or gzip'd, item 0 first; ids may be shared.

    Raises:
        GreamError: The file cannot be read, its items are not 0 to n-1, or an id is not one token per level, ``a``
            first, all in one spelling, ``<a_1>`` or ``<|a_1|>``.
    """
    ids = read_token_lists(path)
    bars: int | None = None
    for item, tokens in enumerate(ids):
        for level, token in enumerate(tokens):
            match = TOKEN_PATTERN.fullmatch(token)
            if match is None or token.count("|") == 1:
                raise GreamError(f"{path}: item {item} has {json.dumps(token)[:60]}, no token like <a_1> or <|a_1|>")
            if match.group(1) != LEVEL_LETTERS[level]:
                raise GreamError(
                    f"{path}: item {item} has '{token}' at level {level + 1}, where '{LEVEL_LETTERS[level]}' belongs"
                )
            bars = token.count("|") if bars is None else bars
            if token.count("|") != bars:
                raise GreamError(f"{path}: item {item} has '{token}', spelled unlike the tokens before it")
    return ids


def index_codes(ids: Sequence[Sequence[str]]) -> Codes:
    """The codes in the tokens, int64 ``[n, longest]`` with the numbers as written, -1 behind the end of an id.

    Raises:
        GreamError: A string is no token, or its letter is not that of its level.
    """
    codes = np.full((len(ids), max(map(len, ids), default=0)), -1, dtype=np.int64)
    for item, tokens in enumerate(ids):
        for level, token in enumerate(tokens):
            match = TOKEN_PATTERN.fullmatch(token)
            if match is None or match.group(1) != LEVEL_LETTERS[level]:
                raise GreamError(f"item {item} has '{token}' at level {level + 1}; '{LEVEL_LETTERS[level]}' expected")
            codes[item, level] = int(match.group(2))
    return codes


def disambiguate_index(ids: Sequence[Sequence[str]]) -> Ids:
    """Unique ids: items that share one get a further token, numbered from 1, in the spelling of their others."""
    shared = {tokens for tokens, count in Counter(map(tuple, ids)).items() if count > 1}
    taken = {tuple(tokens) for tokens in ids} - shared
    result = []
    for tokens in map(tuple, ids):
        if tokens in shared:
            start, end = ("<|", "|>") if tokens[-1].startswith("<|") else ("<", ">")
            number = 1
            while (longer := (*tokens, f"{start}{LEVEL_LETTERS[len(tokens)]}_{number}{end}")) in taken:
                number += 1
            taken.add(longer)
            tokens = longer
        result.append(tokens)
    return result
