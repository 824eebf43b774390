"""Trie-constrained beam search over an inference server: only the legal tokens' log-probabilities cross the wire.

The same search as `gream.decoding.beam.TrieBeamSearch`, one prompt at a time, with the server's prefix cache in the
place of shared keys and values: what is asked for at a depth differs from the depth before by one token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gream.decoding.choices import Score
from gream.errors import GreamError
from gream.semantic_ids.trie import PrefixTrie

# Log-probability of each of ``tokens[i]`` behind ``prefixes[i]``, over the whole vocabulary.
NextLogs = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Awaitable[Sequence[npt.NDArray[np.float32]]]]


@dataclass(frozen=True)
class ServerBeamSearch:
    """Beam search over the ids of a catalogue.

    Attributes:
        trie: The catalogue, over the model's token ids.
        k: Items per list; the whole catalogue where it is smaller.
        beams: Hypotheses kept per step; as many as there are items makes the search exact.
        score: See `TrieBeamSearch`.
    """

    trie: PrefixTrie
    k: int
    beams: int
    score: Score = Score.vocabulary

    def __post_init__(self) -> None:
        k = min(self.k, int((self.trie.item >= 0).sum()))
        if k < 1 or self.beams < k:
            raise GreamError(f"{self.beams} beams cannot fill a list of {k} items; beams >= k >= 1 needed")
        object.__setattr__(self, "k", k)

    async def search(
        self, prompt: Sequence[int], next_logs: NextLogs, exclude: Collection[int] = ()
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The best items after ``prompt``, ``[k]`` or what ``exclude`` leaves, and their scores, float32 ``[k]``.

        Candidates stand in the order of their beams, and sorting is stable, as in `TrieBeamSearch`: where scores are
        equal, so is the choice.

        Args:
            prompt: Token ids.
            next_logs: Asks the server.
            exclude: Items that the list shall not hold.

        Raises:
            GreamError: All items are excluded, or the server fails.
        """
        start, item = self.trie.start, self.trie.item
        out, barren = self.trie.excluding(exclude)
        prefixes: list[list[int]] = [list(prompt)]
        node = np.zeros(1, dtype=np.int64)  # [W]
        score = np.zeros(1, dtype=np.float32)  # [W]
        items = np.zeros(0, dtype=np.int64)
        item_scores = np.zeros(0, dtype=np.float32)
        while len(node):
            # The child behind edge e is node e + 1.
            child = np.concatenate([np.arange(start[part], start[part + 1]) + 1 for part in node])  # [C]
            parent = np.repeat(np.arange(len(node)), start[node + 1] - start[node])  # [C]
            ends = (item[child] >= 0) & ~np.isin(child, out)
            inner = (start[child] < start[child + 1]) & ~np.isin(child, barren)
            child, parent, ends, inner = (part[ends | inner] for part in (child, parent, ends, inner))
            token = self.trie.child_token[child - 1]
            tokens = np.split(token, np.searchsorted(parent, np.arange(1, len(node))))
            logs = list(await next_logs(prefixes, [part.tolist() for part in tokens]))
            if self.score == Score.legal:
                logs = [part - np.logaddexp.reduce(part.astype(np.float64)).astype(np.float32) for part in logs]
            total = score[parent] + np.concatenate(logs)  # [C]

            items = np.concatenate([items, item[child[ends]]])
            item_scores = np.concatenate([item_scores, total[ends]])
            best = np.argsort(-item_scores, kind="stable")[: self.k]
            items, item_scores = items[best], item_scores[best]

            inside = np.flatnonzero(inner)
            kept = inside[np.argsort(-total[inside], kind="stable")[: self.beams]]
            prefixes = [[*prefixes[parent[at]], int(token[at])] for at in kept]
            node, score = child[kept], total[kept]
        return items, item_scores
