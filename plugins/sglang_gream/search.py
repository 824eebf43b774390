"""A search for items as SGLang's beam search steps through it: logits of all beams in, the next beams and items out.

The same search as `gream.decoding.beam.TrieBeamSearch`, ties included, in shapes that depend on the depth alone.
Nothing is read back from the device, so that a step may run while the one before it is not yet known to the processor.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from gream.decoding.choices import Score
from gream.semantic_ids.trie import PrefixTrie

# The score of a place that nothing fills: finite, so that sums of it are no NaN.
EMPTY = -1.0e30


class DeviceTrie:
    """A prefix trie on a device.

    Attributes:
        trie: The same on the processor.
    """

    def __init__(self, trie: PrefixTrie, device: torch.device | str) -> None:
        self.trie = trie
        self.start, self.token, self.item = (
            torch.from_numpy(part).to(device) for part in (trie.start, trie.child_token, trie.item)
        )
        degree = np.diff(trie.start)
        # Nodes are numbered breadth first, so that those of a depth are neighbours.
        self.widest: list[int] = []  # most children of a node, by depth
        first, last = 0, 1
        for _ in range(trie.depth):
            self.widest.append(int(degree[first:last].max()))
            first, last = int(trie.start[first]) + 1, int(trie.start[last]) + 1
        self.leaf = int(np.flatnonzero(degree == 0)[0])


@dataclass(frozen=True)
class Step:
    """What a step finds; places that nothing fills come last, with the score `EMPTY`.

    Attributes:
        tokens: int64 ``[beams]``, the token of each next beam, best first.
        parents: int64 ``[beams]``, the row of the beam that it extends.
        scores: float32 ``[beams]``.
        last_tokens: int64 ``[k]``, the last token of each item that ends here.
        last_parents: int64 ``[k]``.
        last_scores: float32 ``[k]``.
    """

    tokens: torch.Tensor
    parents: torch.Tensor
    scores: torch.Tensor
    last_tokens: torch.Tensor
    last_parents: torch.Tensor
    last_scores: torch.Tensor


class Search:
    """The search for one list."""

    def __init__(
        self, trie: DeviceTrie, *, beams: int, k: int, score: Score = Score.vocabulary, excluded: Collection[int] = ()
    ) -> None:
        """Begin.

        Args:
            trie: The catalogue.
            beams: Hypotheses kept per step.
            k: Items that are looked for, at most ``beams``.
            score: See `TrieBeamSearch`.
            excluded: Items of the trie that the list shall not hold.

        Raises:
            GreamError: All items are excluded.
        """
        out, barren = trie.trie.excluding(excluded)
        device = trie.start.device
        self._excluded = (torch.from_numpy(out).to(device), torch.from_numpy(barren).to(device)) if excluded else None
        self._trie, self._beams, self._k, self._score = trie, beams, k, score
        self._node = torch.zeros(1, dtype=torch.int64, device=device)  # [R]
        self._depth = 0

    def step(self, scores: torch.Tensor, logits: torch.Tensor) -> Step:
        """The best extensions of the beams.

        Args:
            scores: float32 ``[R]``, of each beam; one at first, then as many as the step before returned.
            logits: ``[R, vocabulary]``, behind each of them.
        """
        trie = self._trie
        # Overlapped schedules run one step past the last one; nobody reads it.
        width = trie.widest[self._depth] if self._depth < len(trie.widest) else 1
        start, stop = trie.start[self._node], trie.start[self._node + 1]  # [R]
        edge = start[:, None] + torch.arange(width, device=start.device)  # [R, C]
        legal = edge < stop[:, None]
        edge = edge.clamp(max=len(trie.token) - 1)
        token, child = trie.token[edge], edge + 1
        ends, inner = trie.item[child] >= 0, trie.start[child] < trie.start[child + 1]
        if self._excluded is not None:
            out, barren = self._excluded
            ends, inner = ends & ~torch.isin(child, out), inner & ~torch.isin(child, barren)
        legal &= ends | inner
        logits = logits.float()
        logs = logits.gather(1, token).masked_fill(~legal, -torch.inf)
        logs = logs - (logits if self._score == Score.vocabulary else logs).logsumexp(1, keepdim=True)
        total = torch.where(legal, scores[:, None] + logs, EMPTY)  # [R, C]

        last_scores, last = _best(total.masked_fill(~ends, EMPTY), self._k)
        scores, best = _best(total.masked_fill(~inner, EMPTY), self._beams)
        self._node = torch.where(scores > EMPTY / 2, child.flatten()[best], trie.leaf)
        self._depth += 1
        token = token.flatten()
        return Step(token[best], best // width, scores, token[last], last // width, last_scores)


def _best(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` best of ``scores``, equal ones as they stand, and their places; `EMPTY` where there are fewer."""
    flat = scores.flatten()
    found, at = flat.sort(descending=True, stable=True)
    missing = max(0, count - len(flat))
    if missing:
        found = torch.nn.functional.pad(found, (0, missing), value=EMPTY)
        at = torch.nn.functional.pad(at, (0, missing))
    return found[:count], at[:count]
