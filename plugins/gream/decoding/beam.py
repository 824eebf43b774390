"""Trie-constrained beam search: the k most probable items of the catalogue after each prompt.

A hypothesis is a node of the prefix trie. All children of all beams are gathered from the CSR arrays at once,
so no full-vocabulary mask is ever built. The prompt is read once; its keys and values are neither copied nor
reordered over the beams: they branch off it by attention mask, and a batch of B prompts with W beams holds
the keys and values of B prompts, not of B x W.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gream.decoding.choices import Score
from gream.decoding.language_model import Encoded, LanguageModel
from gream.errors import GreamError
from gream.semantic_ids.trie import PrefixTrie


@dataclass(frozen=True)
class BeamResult:
    """Recommended items, best first.

    Attributes:
        items: int64 ``[B, k]``, distinct within a row; -1 where what was excluded leaves fewer.
        scores: float32 ``[B, k]``, log-probability of the item's id after the prompt: the sum over its
            tokens, without any token that ends the answer; -inf where there is no item.
        included: float32 ``[B, F]``, that of the items that were asked about, in their order; -inf behind a row's last
            one, and where an item was excluded.
    """

    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    included: npt.NDArray[np.float32]


class TrieBeamSearch:
    """Beam search over the ids of a catalogue.

    ``score`` names the distribution of each next token: "vocabulary" is the softmax over all tokens, as the
    literature reports it; "legal" is the softmax over the tokens that the trie allows there, for which only
    those rows of the model's head are computed.
    """

    def __init__(self, model: Any, trie: PrefixTrie, *, k: int, beams: int, score: Score = Score.vocabulary) -> None:
        """Prepare the search.

        Args:
            model: A transformers causal language model in evaluation mode.
            trie: The catalogue, over this model's token ids.
            k: Items per list; the whole catalogue where it is smaller.
            beams: Hypotheses kept per step; as many as there are items makes the search exact.
            score: See the class.

        Raises:
            GreamError: ``k`` is below 1, the beams are too few to fill a list, a token lies
                outside the vocabulary, or the model is not suited (see `LanguageModel`).
        """
        catalogue = int((trie.item >= 0).sum())
        self.k = min(k, catalogue)
        if k < 1 or beams < self.k:
            raise GreamError(f"{beams} beams cannot fill a list of {k} items; beams >= k >= 1 needed")
        self._lm = LanguageModel(model)
        if trie.child_token.max() >= self._lm.vocabulary:
            raise GreamError(
                f"token {trie.child_token.max()} of a semantic id lies outside the model's "
                f"{self._lm.vocabulary} tokens; the catalogue and the model do not belong together"
            )
        self._beams = beams
        self._score = score
        self._trie = trie
        device = self._lm.device
        self._start = torch.from_numpy(trie.start).to(device)
        self._token = torch.from_numpy(trie.child_token).to(device)
        self._item = torch.from_numpy(trie.item).to(device)
        # Where a row has fewer hypotheses than others, the rest are placed on a leaf: no child, so no
        # candidate.
        self._leaf = int(np.flatnonzero(np.diff(trie.start) == 0)[0])

    @torch.inference_mode()
    def search(
        self,
        prompts: Sequence[Sequence[int]] | Encoded,
        exclude: Sequence[Collection[int]] | None = None,
        include: Sequence[Sequence[int]] | None = None,
    ) -> BeamResult:
        """The best items after each prompt.

        Items end at different depths where ids differ in length. An item that has ended leaves the beam and
        competes with other items only, so the prefix of a longer id cannot crowd it out.

        Args:
            prompts: B lists of token ids, one batch; lengths may differ. Or what was read already, such as prompts
                and chains by `ChainWriter.write`; it is used up.
            exclude: For each prompt, items that its list shall not hold. The search is that over a catalogue
                without them: no beam is spent on a prefix that only they have.
            include: For each prompt, items whose scores are wanted wherever they stand. What leads to them is kept
                beside the beams.

        Raises:
            GreamError: A prompt is empty or too long, all items are excluded, or the model computes logits that are
                not numbers.
        """
        depths = self._trie.depth
        encoded = prompts if isinstance(prompts, Encoded) else self._lm.encode(prompts, room=depths)
        device = self._lm.device
        batch = len(encoded.lengths)
        excluded = None if exclude is None else self._excluded(exclude)
        wanted = self._wanted([()] * batch if include is None else include)  # [B, F, depth + 1]
        included = torch.full(wanted.shape[:2], -torch.inf, device=device)
        hidden = encoded.hidden[:, None]  # [B, W, d], W = 1
        node = torch.zeros(batch, 1, dtype=torch.int64, device=device)  # [B, W]
        score = torch.zeros(batch, 1, device=device)  # [B, W]
        ancestry = torch.zeros(batch, 1, 0, dtype=torch.bool, device=device)  # [B, W, S]
        items = torch.zeros(batch, 0, dtype=torch.int64, device=device)  # [B, <= k]
        item_scores = torch.zeros(batch, 0, device=device)  # [B, <= k]
        for depth in range(depths):
            token, child, legal = self.children(node)  # [B, W, C] each
            ends, inner = self._open(child, excluded)
            total = self._scores(hidden, score, token, legal & (ends | inner))
            item_ends = total.masked_fill(~ends, -torch.inf)
            items, item_scores = self._collect(items, item_scores, child, item_ends)
            inside = total.masked_fill(~inner, -torch.inf).flatten(1)
            leads = child.flatten(1)[:, None] == wanted[:, :, depth, None]  # [B, F, W * C]
            leads &= legal.flatten(1)[:, None]
            arrived = leads & (wanted[:, :, depth + 1, None] < 0)
            included = included.maximum(torch.where(arrived, item_ends.flatten(1)[:, None], -torch.inf).amax(2))
            kept = leads.any(1) & (inside > -torch.inf)  # [B, W * C]
            room = self._beams + kept.sum(1, keepdim=True)
            # Reading the device waits for it: only where items are included.
            widest = int(room.max()) if wanted.shape[1] else self._beams
            width = min(widest, int((inside > -torch.inf).sum(1).max()))
            if width == 0:
                break
            best = inside.masked_fill(kept, torch.inf).sort(descending=True, stable=True).indices[:, :width]
            # A row has as many beams whatever the others include.
            score = inside.gather(1, best).masked_fill(torch.arange(width, device=device) >= room, -torch.inf)
            parent = best // token.shape[2]
            # [B, W, S]: what the parent consists of, and the token itself.
            ancestry = ancestry.gather(1, parent[..., None].expand(-1, -1, ancestry.shape[2]))
            own = torch.eye(width, dtype=torch.bool, device=device).expand(batch, -1, -1)
            ancestry = torch.cat([ancestry, own], dim=2)
            node = torch.where(score > -torch.inf, child.flatten(1).gather(1, best), self._leaf)
            hidden = self._lm.branch(encoded, token.flatten(1).gather(1, best), ancestry, depth)
        items = items.masked_fill(item_scores == -torch.inf, -1)
        return BeamResult(items.cpu().numpy(), item_scores.cpu().numpy(), included.cpu().numpy())

    def _wanted(self, include: Sequence[Sequence[int]]) -> torch.Tensor:
        """Nodes on the way to the items that each row includes, ``[B, F, depth + 1]``; -1 behind an item's own."""
        most = max(map(len, include))
        nodes = np.full((len(include), most, self._trie.depth + 1), -1, dtype=np.int64)
        for row, items in enumerate(include):
            nodes[row, : len(items), :-1] = self._trie.paths(items)
        return torch.from_numpy(nodes).to(self._lm.device)

    def _excluded(self, exclude: Sequence[Collection[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """What `PrefixTrie.excluding` says for each row, its nodes as ``row * nodes + node``."""
        nodes = len(self._trie.item)
        ends, barren = zip(*(self._trie.excluding(items) for items in exclude), strict=True)

        def keys(rows: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
            numbered = np.concatenate([row * nodes + some for row, some in enumerate(rows)])
            return torch.from_numpy(numbered).to(self._lm.device)

        return keys(ends), keys(barren)

    def _open(
        self, child: torch.Tensor, excluded: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Whether an item ends at each of the nodes ``[B, W, C]``, and whether any does below it."""
        ends, inner = self._item[child] >= 0, self._start[child] < self._start[child + 1]
        if excluded is not None:
            row = torch.arange(len(child), device=child.device)[:, None, None]
            key = row * len(self._trie.item) + child
            out, barren = excluded
            ends, inner = ends & ~torch.isin(key, out), inner & ~torch.isin(key, barren)
        return ends, inner

    def _scores(
        self, hidden: torch.Tensor, score: torch.Tensor, token: torch.Tensor, legal: torch.Tensor
    ) -> torch.Tensor:
        """Score of every child of every beam, ``[B, W, C]``; -inf where none is."""
        used = torch.unique(token[legal])  # [U] sorted
        at = torch.searchsorted(used, token).clamp(max=len(used) - 1)
        logits = self._lm.logits_of(hidden, used).gather(2, at).masked_fill(~legal, -torch.inf)
        if self._score == Score.vocabulary:
            logs = logits - self._lm.normaliser(hidden)[..., None]
        else:
            logs = logits - logits.logsumexp(2, keepdim=True)
        total = torch.where(legal, score[..., None] + logs, -torch.inf)
        if total.isnan().any():
            raise GreamError("the model computes logits that are not numbers; the checkpoint is broken")
        return total

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
        """The k best of the items found so far and those that end at ``child``, -inf in ``total`` where none does."""
        scores = torch.cat([scores, total.flatten(1)], dim=1)
        width = min(self.k, int((scores > -torch.inf).sum(1).max()))
        scores, best = (part[:, :width] for part in scores.sort(dim=1, descending=True, stable=True))
        return torch.cat([items, self._item[child].flatten(1)], dim=1).gather(1, best), scores
