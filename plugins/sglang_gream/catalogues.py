"""The catalogues that a server knows by name, read at its start from the files that an environment variable names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from gream.config import Config, parse_config
from gream.decoding.choices import Score
from gream.engine.checkpoint import catalogue_token_ids
from gream.engine.contract import Contract, ids_digest
from gream.errors import GreamError, shown
from gream.semantic_ids.item_ids import ItemIds
from gream.semantic_ids.trie import PrefixTrie
from pydantic import NonNegativeInt

from sglang_gream.search import DeviceTrie

VARIABLE = "GREAM_CATALOGUES"  # NAME=index.json, and more of them behind colons
KEY = "gream"  # of a request's custom_params, of a server's info and of a model's configuration


class Asked(Config):
    """What a request says under `KEY` in its ``custom_params``.

    Attributes:
        catalogue: Name of a catalogue, or the digest of its ids (`gream.engine.contract.ids_digest`).
        exclude: Numbers of items that the list shall not hold.
        only: Numbers of the items that it may hold; None for all.
        score: See `gream.decoding.beam.TrieBeamSearch`.
    """

    catalogue: str
    exclude: tuple[NonNegativeInt, ...] = ()
    only: tuple[NonNegativeInt, ...] | None = None
    score: Score = Score.vocabulary

    @staticmethod
    def read(raw: Any) -> Asked:
        """The request's words.

        Raises:
            GreamError: They are none.
        """
        if not isinstance(raw, dict):
            raise GreamError(f"custom_params.{KEY}: an object is expected, with the key 'catalogue'")
        return parse_config(Asked, raw, source=f"custom_params.{KEY}")


class Catalogue:
    """The items of one catalogue.

    Attributes:
        ids: The ids that the model knows them by.
        digest: Of the ids.
    """

    def __init__(self, ids: ItemIds, tokenizer: Any, device: torch.device | str) -> None:
        """Take the ids.

        Raises:
            GreamError: The tokenizer lacks a token of theirs.
        """
        self.ids = ids
        self.digest = ids_digest(ids.of_items)

        def trie_of(ids: ItemIds) -> tuple[ItemIds, DeviceTrie]:
            return ids, DeviceTrie(PrefixTrie.build(catalogue_token_ids(ids.ids, tokenizer)), device)

        self._whole = trie_of(ids)
        # Parts of a catalogue are few, and asked for again and again.
        self._part = lru_cache(maxsize=16)(lambda items: trie_of(ids.only(items)))

    def of(self, only: tuple[int, ...] | None) -> tuple[ItemIds, DeviceTrie]:
        """The ids, and their trie, of the whole catalogue or of a part of it.

        Raises:
            GreamError: There is no such item, or the part is empty.
        """
        if only is None:
            return self._whole
        self.check_items(only)
        if not only:
            raise GreamError("'only' names no item")
        return self._part(frozenset(only))

    def check_items(self, items: tuple[int, ...]) -> None:
        """Refuse numbers of items that are not there.

        Raises:
            GreamError: See above.
        """
        if items and max(items) >= len(self.ids):
            raise GreamError(f"there is no item {max(items)}; the catalogue has the items 0 to {len(self.ids) - 1}")


class Catalogues:
    """All catalogues of a server.

    Attributes:
        named: By name.
    """

    def __init__(self, named: Mapping[str, Catalogue]) -> None:
        self.named = dict(named)
        self._of_digest = {catalogue.digest: catalogue for catalogue in named.values()}

    @staticmethod
    def load(
        files: Mapping[str, Path], tokenizer: Any, contract: Any, vocabulary: int, device: torch.device | str
    ) -> Catalogues:
        """Read the catalogues of a model.

        Args:
            files: ``index.json`` of each, by name.
            tokenizer: That of the model.
            contract: Key ``gream`` of the model's ``config.json``; None where it has none.
            vocabulary: Rows of the model's head.
            device: Where the model is.

        Raises:
            GreamError: A file cannot be read, or the model was not made for these ids.
        """
        made_for = None if contract is None else parse_config(Contract, contract, source=f"config.json, {KEY}")
        model = Path(tokenizer.name_or_path)
        named = {}
        for name, path in files.items():
            ids = ItemIds.load(path)
            if made_for is not None:
                made_for.check_ids(ids.of_items, model, path)
            named[name] = Catalogue(ids, tokenizer, device)
            largest = int(named[name].of(None)[1].token.max())
            if largest >= vocabulary:
                raise GreamError(f"{path}: token {largest} lies outside the {vocabulary} tokens of {model}")
        return Catalogues(named)

    def find(self, name: str) -> Catalogue:
        """The catalogue of that name or digest.

        Raises:
            GreamError: There is none.
        """
        found = self.named.get(name) or self._of_digest.get(name)
        if found is None:
            raise GreamError(f"no catalogue {shown(name)}; this server has {', '.join(self.named)}")
        return found


def named_files(environment: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """The files that the variable names; none where it is not set.

    Raises:
        GreamError: It is not written as it should be, or a file is not there.
    """
    files: dict[str, Path] = {}
    for part in filter(None, environment.get(VARIABLE, "").split(os.pathsep)):
        name, mark, path = part.partition("=")
        if not name or not mark or name in files:
            raise GreamError(f"{VARIABLE}: NAME=INDEX{os.pathsep}NAME=INDEX expected, not {shown(part)}")
        if not Path(path).is_file():
            raise GreamError(f"{VARIABLE}: {path} is not there; name the index.json of a run")
        files[name] = Path(path)
    return files
