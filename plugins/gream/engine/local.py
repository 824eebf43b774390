"""A model in this process: prompts in batches by length, the items searched for behind what was just written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from gream.decoding.beam import TrieBeamSearch
from gream.decoding.chain import ChainWriter, Sampling
from gream.decoding.chain_text import Chain
from gream.decoding.language_model import Encoded, batches_by_length
from gream.engine.checkpoint import load_weights
from gream.engine.model import Decoded
from gream.engine.settings import Settings
from gream.semantic_ids.item_ids import ItemIds
from gream.semantic_ids.trie import PrefixTrie


class LocalModel:
    """A causal language model of transformers. Not for two threads at a time.

    Attributes:
        limit: Tokens that it can hold.
    """

    def __init__(self, model: Any, batch_size: int) -> None:
        """Take the model.

        Args:
            model: In evaluation mode.
            batch_size: Prompts per batch; chains, where several follow each.
        """
        self.limit: int = model.config.max_position_embeddings
        self._model = model
        self._batch_size = batch_size

    @staticmethod
    def load(checkpoint: Path, device: str, batch_size: int) -> LocalModel:
        """Read the weights of a folder in Hugging Face format onto "cpu" or "cuda"."""
        return LocalModel(load_weights(checkpoint, device), batch_size)

    def decoder(self, tokenizer: Any, ids: ItemIds, trie: PrefixTrie, settings: Settings) -> LocalDecoder:
        """See `gream.engine.model.Model`."""
        return LocalDecoder(self._model, self._batch_size, tokenizer, trie, settings)


class LocalDecoder:
    """See `gream.engine.model.Decoder`."""

    def __init__(self, model: Any, batch_size: int, tokenizer: Any, trie: PrefixTrie, settings: Settings) -> None:
        self.seconds = 0.0
        self.retries: Counter[str] = Counter()
        self._chains = settings.chains
        self._prompts_per_batch = -(-batch_size // settings.chains)
        self._search = TrieBeamSearch(model, trie, k=settings.list_length, beams=settings.beams, score=settings.score)
        self._writer: ChainWriter | None = None
        if settings.chain_tokens is not None:
            sampling = Sampling(settings.temperature, settings.seed) if settings.temperature else None
            self._writer = ChainWriter(model, tokenizer, budget=settings.chain_tokens, sampling=sampling)

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        excluded: Sequence[Collection[int]],
        done: Callable[[int], object],
        included: Sequence[Sequence[int]] | None = None,
    ) -> list[Decoded]:
        """See `gream.engine.model.Decoder`."""
        decoded: dict[int, Decoded] = {}
        for batch in batches_by_length(prompts, self._prompts_per_batch):
            began = time.monotonic()
            some = self._batch(
                [prompts[at] for at in batch],
                [keys[at] for at in batch],
                [excluded[at] for at in batch],
                None if included is None else [included[at] for at in batch],
            )
            seconds = time.monotonic() - began
            self.seconds += seconds
            decoded.update(
                (at, Decoded(chains, ids, scores, seconds, wanted))
                for at, (chains, ids, scores, wanted) in zip(batch, some, strict=True)
            )
            done(len(batch))
        return [decoded[at] for at in range(len(prompts))]

    def _batch(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        excluded: Sequence[Collection[int]],
        included: Sequence[Sequence[int]] | None,
    ) -> list[tuple[Any, Any, Any, Any]]:
        """Chains, ids and scores of each prompt, and scores of what it includes."""
        each = self._chains
        read: Sequence[Sequence[int]] | Encoded = prompts
        chains: list[Chain] = []
        if self._writer is not None:
            chains, read = self._writer.write(prompts, keys, per_prompt=each)
        out = [ids for ids in excluded for _ in range(each)] if any(excluded) else None
        wanted = None if included is None else [ids for ids in included for _ in range(each)]
        found = self._search.search(read, out, wanted)
        rows = [slice(start, start + each) for start in range(0, len(prompts) * each, each)]
        return [(tuple(chains[own]), found.items[own], found.scores[own], found.included[own]) for own in rows]
