"""Trie-constrained beam search: the k most probable items of the catalogue after each prompt.

A hypothesis is a node of the prefix trie. All children of all beams are gathered from the CSR arrays at once,
so no full-vocabulary mask is ever built. The prompt is read once; its keys and values are neither copied nor
reordered over the beams: they branch off it by attention mask, and a batch of B prompts with W beams holds
the keys and values of B prompts, not of B x W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from gream.decoding.language_model import LanguageModel
from gream.errors import GreamError
from gream.semantic_ids.trie import PrefixTrie

Score = Literal["vocabulary", "legal"]


@dataclass(frozen=True)
class BeamResult:
    """Recommended items, best first.

    Attributes:
        items: int64 ``[B, k]``, distinct within a row.
        scores: float32 ``[B, k]``, log-probability of the item's id after the prompt: the sum over its
            tokens, without any token that ends the answer.
    """

    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


class TrieBeamSearch:
    """Beam search over the ids of a catalogue.

    ``score`` names the distribution of each next token: "vocabulary" is the softmax over all tokens, as the
    literature reports it; "legal" is the softmax over the tokens that the trie allows there, for which only
    those rows of the model's head are computed.
    """

    def __init__(self, model: Any, trie: PrefixTrie, *, k: int, beams: int, score: Score = "vocabulary") -> None:
        """Prepare the search.

        Args:
            model: A transformers causal language model in evaluation mode.
            trie: The catalogue, over this model's token ids.
            k: Items per list; the whole catalogue where it is smaller.
            beams: Hypotheses kept per step; as many as there are items makes the search exact.
            score: See the class.

        Raises:
            GreamError: ``k`` is below 1, the beams are too few to fill a list, the score is unknown, a token
                lies outside the vocabulary, or the model is not suited (see `LanguageModel`).
        """
        catalogue = int((trie.item >= 0).sum())
        self.k = min(k, catalogue)
        if k < 1 or beams < self.k:
            raise GreamError(f"{beams} beams cannot fill a list of {k} items; beams >= k >= 1 needed")
        if score not in get_args(Score):
            raise GreamError(f"score '{score}' is unknown; one of {', '.join(get_args(Score))} needed")
        self._lm = LanguageModel(model)
        if trie.child_token.max() >= self._lm.vocabulary:
            raise GreamError(
                f"token {trie.child_token.max()} of a semantic id lies outside the model's "
                f"{self._lm.vocabulary} tokens; the catalogue and the model do not belong together"
            )
        self._beams = beams
        self._score = score
        self._depth = trie.depth
        device = self._lm.device
        self._start = torch.from_numpy(trie.start).to(device)
        self._token = torch.from_numpy(trie.child_token).to(device)
        self._item = torch.from_numpy(trie.item).to(device)
        # Where a row has fewer hypotheses than others, the rest are placed on a leaf: no child, so no
        # candidate.
        self._leaf = int(np.flatnonzero(np.diff(trie.start) == 0)[0])

    @torch.inference_mode()
    def search(self, prompts: Sequence[Sequence[int]]) -> BeamResult:
        """The best items after each prompt.

        Items end at different depths where ids differ in length. An item that has ended leaves the beam and
        competes with other items only, so the prefix of a longer id cannot crowd it out.

        Args:
            prompts: B lists of token ids: a rendered prompt, or a prompt and a chain up to its ``<answer>``.
                One batch; lengths may differ.

        Raises:
            GreamError: A prompt is empty or too long, or the model computes logits that are not numbers.
        """
        encoded = self._lm.encode(prompts, room=self._depth)
        device = self._lm.device
        batch = len(prompts)
        hidden = encoded.hidden[:, None]  # [B, W, d], W = 1
        node = torch.zeros(batch, 1, dtype=torch.int64, device=device)  # [B, W]
        score = torch.zeros(batch, 1, device=device)  # [B, W]
        ancestry = torch.zeros(batch, 1, 0, dtype=torch.bool, device=device)  # [B, W, S]
        items = torch.zeros(batch, 0, dtype=torch.int64, device=device)  # [B, <= k]
        item_scores = torch.zeros(batch, 0, device=device)  # [B, <= k]
        for depth in range(self._depth):
            token, child, total = self._expand(hidden, node, score)  # [B, W, C] each
            items, item_scores = self._collect(items, item_scores, child, total)
            inner = total.masked_fill(self._start[child] == self._start[child + 1], -torch.inf).flatten(1)
            width = min(self._beams, int((inner > -torch.inf).sum(1).max()))
            if width == 0:
                break
            score, best = (part[:, :width] for part in inner.sort(descending=True, stable=True))
            parent = best // token.shape[2]
            # [B, W, S]: what the parent consists of, and the token itself.
            ancestry = ancestry.gather(1, parent[..., None].expand(-1, -1, ancestry.shape[2]))
            own = torch.eye(width, dtype=torch.bool, device=device).expand(batch, -1, -1)
            ancestry = torch.cat([ancestry, own], dim=2)
            node = torch.where(score > -torch.inf, child.flatten(1).gather(1, best), self._leaf)
            hidden = self._lm.branch(encoded, token.flatten(1).gather(1, best), ancestry, depth)
        return BeamResult(items.cpu().numpy(), item_scores.cpu().numpy())

    def _expand(
        self, hidden: torch.Tensor, node: torch.Tensor, score: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token, node and score of every child of every beam, ``[B, W, C]``; score -inf where none is."""
        token, child, legal = self.children(node)
        used = torch.unique(token[legal])  # [U] sorted
        at = torch.searchsorted(used, token).clamp(max=len(used) - 1)
        logits = self._lm.logits_of(hidden, used).gather(2, at).masked_fill(~legal, -torch.inf)
        if self._score == "vocabulary":
            logs = logits - self._lm.normaliser(hidden)[..., None]
        else:
            logs = logits - logits.logsumexp(2, keepdim=True)
        total = torch.where(legal, score[..., None] + logs, -torch.inf)
        if total.isnan().any():
            raise GreamError("the model computes logits that are not numbers; the checkpoint is broken")
        return token, child, total

    def children(self, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token and node of every child of the nodes ``[B, W]``, and where there is one: ``[B, W, C]`` each.

        This is all that the constraint takes: one gather from the CSR arrays.
        """
        start, stop = self._start[node], self._start[node + 1]  # [B, W]
        offset = torch.arange(int((stop - start).max()), device=node.device)  # [C]
        edge = start[..., None] + offset
        legal = edge < stop[..., None]
        edge = edge.clamp(max=len(self._token) - 1)
        return self._token[edge], edge + 1, legal

    def _collect(
        self, items: torch.Tensor, scores: torch.Tensor, child: torch.Tensor, total: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best of the items found so far and those that end at ``child``."""
        ended = self._item[child].flatten(1)  # [B, W * C], -1 where no item ends
        scores = torch.cat([scores, total.flatten(1).masked_fill(ended < 0, -torch.inf)], dim=1)
        width = min(self.k, int((scores > -torch.inf).sum(1).max()))
        scores, best = (part[:, :width] for part in scores.sort(dim=1, descending=True, stable=True))
        return torch.cat([items, ended], dim=1).gather(1, best), scores
