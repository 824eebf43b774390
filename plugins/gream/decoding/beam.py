"""Trie-constrained beam search: the k most probable items of the catalogue after each prompt.

A hypothesis is a node of the prefix trie. All children of all beams are gathered from the CSR arrays at once,
so no full-vocabulary mask is ever built. The prompt is read once; its keys and values are neither copied nor
reordered over the beams: they branch off it by attention mask, and a batch of B prompts with W beams holds
the keys and values of B prompts, not of B x W.

The shapes of a level follow from the trie, the batch, the beams and the number of items excluded alone, and nothing is
read back from the device before the lists are done: a level can be compiled or captured, and a GPU never waits for the
host.
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
        items: int64 ``[B, k]``, distinct within a row; -1 where what was excluded leaves fewer than in
            another row.
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
        self._item = torch.from_numpy(trie.item).to(device)
        self._token = torch.from_numpy(trie.child_token).to(device)
        # Where a row has fewer hypotheses than others, the rest are placed on a leaf: no child, so no
        # candidate.
        self._leaf = int(np.flatnonzero(np.diff(trie.start) == 0)[0])
        self._levels, at = _levels(trie)
        self._used = [torch.from_numpy(level.tokens).to(device) for level in self._levels]
        self._at = torch.from_numpy(at).to(device)

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
        encoded = prompts if isinstance(prompts, Encoded) else self._lm.encode(prompts, room=self._trie.depth)
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
        broken = torch.zeros((), dtype=torch.bool, device=device)
        for depth, level in enumerate(self._levels):
            edge, legal = self.children(node, depth)  # [B, W, C] each
            child = edge + 1
            ends, inner = self._open(child, excluded)
            total = self._scores(hidden, score, edge, legal & (ends | inner), depth)
            broken = broken | total.isnan().any()
            item_ends = total.masked_fill(~ends, -torch.inf)
            items, item_scores = self._collect(items, item_scores, child, item_ends)
            inside = total.masked_fill(~inner, -torch.inf).flatten(1)
            leads = child.flatten(1)[:, None] == wanted[:, :, depth, None]  # [B, F, W * C]
            leads &= legal.flatten(1)[:, None]
            arrived = leads & (wanted[:, :, depth + 1, None] < 0)
            included = included.maximum(torch.where(arrived, item_ends.flatten(1)[:, None], -torch.inf).amax(2))
            kept = leads.any(1) & (inside > -torch.inf)  # [B, W * C]
            room = self._beams + kept.sum(1, keepdim=True)
            # At most this many hypotheses can go on.
            width = min(self._beams + wanted.shape[1], inside.shape[1], level.inner)
            if width == 0:
                break
            best = inside.masked_fill(kept, torch.inf).sort(descending=True, stable=True).indices[:, :width]
            # A row has as many beams whatever the others include.
            score = inside.gather(1, best).masked_fill(torch.arange(width, device=device) >= room, -torch.inf)
            parent = best // level.widest
            # [B, W, S]: what the parent consists of, and the token itself.
            ancestry = ancestry.gather(1, parent[..., None].expand(-1, -1, ancestry.shape[2]))
            own = torch.eye(width, dtype=torch.bool, device=device).expand(batch, -1, -1)
            ancestry = torch.cat([ancestry, own], dim=2)
            chosen = edge.flatten(1).gather(1, best)
            node = torch.where(score > -torch.inf, chosen + 1, self._leaf)
            hidden = self._lm.branch(encoded, self._token[chosen], ancestry, depth)
        if broken:
            raise GreamError("the model computes logits that are not numbers; the checkpoint is broken")
        found = items.masked_fill(item_scores == -torch.inf, -1).cpu().numpy()
        longest = int((found >= 0).sum(1).max())
        return BeamResult(found[:, :longest], item_scores.cpu().numpy()[:, :longest], included.cpu().numpy())

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
        self, hidden: torch.Tensor, score: torch.Tensor, edge: torch.Tensor, legal: torch.Tensor, depth: int
    ) -> torch.Tensor:
        """Score of what every edge ``[B, W, C]`` leads to; -inf where it is not legal."""
        used = self._used[depth]
        at = self._at[edge].clamp(max=len(used) - 1)  # that of an edge of another level does not matter
        logits = self._lm.logits_of(hidden, used).gather(2, at).masked_fill(~legal, -torch.inf)
        if self._score == Score.vocabulary:
            logs = logits - self._lm.normaliser(hidden)[..., None]
        else:
            logs = logits - logits.logsumexp(2, keepdim=True)
        return torch.where(legal, score[..., None] + logs, -torch.inf)

    def children(self, node: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Edges to the children of the nodes ``[B, W]`` of a depth, and where there is one: ``[B, W, C]`` each.

        This is all that the constraint takes: one gather from the CSR arrays.
        """
        start, stop = self._start[node], self._start[node + 1]  # [B, W]
        edge = start[..., None] + torch.arange(self._levels[depth].widest, device=node.device)
        return edge.clamp(max=len(self._token) - 1), edge < stop[..., None]

    def _collect(
        self, items: torch.Tensor, scores: torch.Tensor, child: torch.Tensor, total: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best of the items found so far and those that end at ``child``, -inf in ``total`` where none does."""
        scores = torch.cat([scores, total.flatten(1)], dim=1)
        scores, best = (part[:, : self.k] for part in scores.sort(dim=1, descending=True, stable=True))
        return torch.cat([items, self._item[child].flatten(1)], dim=1).gather(1, best), scores


@dataclass(frozen=True)
class _Level:
    """What is the same for every search at one depth of a trie.

    Attributes:
        tokens: int64 ``[U]`` sorted, on the edges that leave this depth.
        widest: Most children of one node.
        inner: How many nodes of the next depth have children.
    """

    tokens: npt.NDArray[np.int64]
    widest: int
    inner: int


def _levels(trie: PrefixTrie) -> tuple[list[_Level], npt.NDArray[np.int64]]:
    """The levels of a trie, and where each edge's token stands among its level's, int64 ``[edges]``."""
    levels, at = [], np.zeros(len(trie.child_token), dtype=np.int64)
    first, last = 0, 1  # nodes of a depth: breadth first, they lie side by side, and so do the edges that leave them
    for _ in range(trie.depth):
        edges = slice(trie.start[first], trie.start[last])
        widest = int(np.diff(trie.start[first : last + 1]).max())
        first, last = edges.start + 1, edges.stop + 1
        tokens, at[edges] = np.unique(trie.child_token[edges], return_inverse=True)
        levels.append(_Level(tokens, widest, int((np.diff(trie.start[first : last + 1]) > 0).sum())))
    return levels, at
