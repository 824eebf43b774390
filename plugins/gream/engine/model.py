"""What the engine needs of a model, wherever it runs: chains, and the ids that are likeliest after each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gream.decoding.chain_text import Chain
from gream.engine.settings import Settings
from gream.semantic_ids.item_ids import ItemIds
from gream.semantic_ids.trie import PrefixTrie


@dataclass(frozen=True)
class Decoded:
    """What a model makes of one prompt: m lists, one after each chain, or a single one without a chain.

    Attributes:
        chains: m; none where ids were asked for directly.
        ids: int64 ``[m, w]``, numbers of ids of the trie, best first; -1 where what was excluded leaves fewer.
        scores: float32 ``[m, w]``, log-probability of the id; -inf where there is none.
        seconds: From handing over the prompt, with others, until its lists were there.
        included: float32 ``[m, F]``, that of the ids that were asked about, in their order.
    """

    chains: tuple[Chain, ...]
    ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    seconds: float
    included: npt.NDArray[np.float32] | None = None


class Decoder(Protocol):
    """A model that is asked in one way.

    Attributes:
        seconds: Wall time of decoding so far, that of earlier starts included where a journal holds what they did.
        retries: Further tries so far, by cause, where requests can fail.
    """

    seconds: float
    retries: Counter[str]

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        excluded: Sequence[Collection[int]],
        done: Callable[[int], object],
        included: Sequence[Sequence[int]] | None = None,
    ) -> list[Decoded]:
        """Chains and lists of each prompt, in order.

        Args:
            prompts: Token ids, none empty; chains and ids have room behind them.
            keys: A number for each prompt, which with the seed determines what is drawn, and in no way the batch.
            excluded: Ids that the lists of each prompt shall not hold.
            done: Told how many more prompts are done.
            included: Ids whose log-probability is wanted for each prompt, wherever they stand.

        Raises:
            GreamError: All ids are excluded, the model or its servers fail, or servers are asked about ``included``.
        """


class Model(Protocol):
    """A model that can be asked.

    Attributes:
        limit: Tokens that it can hold.
    """

    limit: int

    def decoder(self, tokenizer: Any, ids: ItemIds, trie: PrefixTrie, settings: Settings) -> Decoder:
        """The model, asked for ``ids``, whose trie is ``trie``, as ``settings`` say.

        Raises:
            GreamError: The settings are impossible, or model and tokenizer are not suited.
        """
