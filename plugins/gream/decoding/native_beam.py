"""Lists by a server's own beam search: SGLang with the plugin sglang_gream, one request for each.

The search is that of `gream.decoding.beam.TrieBeamSearch`; the server holds the trie, which a digest of its ids names.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gream.decoding.choices import Score
from gream.decoding.server_client import ServerClient
from gream.decoding.server_protocol import aborted
from gream.errors import GreamError
from gream.semantic_ids.item_ids import ItemIds

# Of a beam search of one hypothesis SGLang makes a plain generation.
FEWEST_BEAMS = 2


@dataclass(frozen=True)
class NativeBeamSearch:
    """Beam search over the ids of a catalogue that servers hold.

    Attributes:
        ids: The ids that the model knows items by, or a part of them.
        catalogue: Digest of all of them, see `gream.engine.contract.ids_digest`.
        k: Items per list.
        beams: Hypotheses kept per step.
        score: See `TrieBeamSearch`.
    """

    ids: ItemIds
    catalogue: str
    k: int
    beams: int
    score: Score = Score.vocabulary

    async def search(
        self, client: ServerClient, prompt: Sequence[int], exclude: Collection[int] = ()
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The best ids after ``prompt``, ``[k]`` or what ``exclude`` leaves, and their scores, float32 ``[k]``.

        Args:
            client: The servers.
            prompt: Token ids.
            exclude: Numbers of ids that the list shall not hold.

        Raises:
            GreamError: All ids are excluded, or the servers fail.
        """
        asked: dict[str, Any] = {"catalogue": self.catalogue, "score": self.score}
        if self._part is not None:
            asked["only"] = self._part
        if exclude:
            asked["exclude"] = [item for number in exclude for item in self.ids.items[number]]
        answer = await client.post(
            "/generate",
            {
                "input_ids": list(prompt),
                "sampling_params": {
                    "beam_width": self.beams,
                    "n": min(self.k, len(self.ids.ids)),
                    "custom_params": {"gream": asked},
                },
            },
            aborted,
        )
        try:
            found = [
                (self._number[beam["meta_info"]["finish_reason"]["items"][0]], beam["meta_info"]["sequence_score"])
                for beam in answer["meta_info"]["beam_results"]
                if beam["meta_info"]["finish_reason"]["items"]
            ]
        except (TypeError, KeyError, IndexError):
            raise GreamError(
                "the server's answer is no list of this catalogue; was it started again without GREAM_CATALOGUES?"
            ) from None
        if not found or not all(isinstance(score, float) and math.isfinite(score) for _, score in found):
            raise GreamError("the server computes probabilities that are not numbers; the checkpoint is broken")
        return np.array([number for number, _ in found]), np.array([score for _, score in found], dtype=np.float32)

    @cached_property
    def _part(self) -> list[int] | None:
        """The items of a part of the catalogue; None where it is the whole."""
        items = sorted(item for items in self.ids.items for item in items)
        return None if len(items) == len(self.ids) else items

    @cached_property
    def _number(self) -> dict[int, int]:
        """The number of each id, by its first item."""
        return {items[0]: number for number, items in enumerate(self.ids.items)}
