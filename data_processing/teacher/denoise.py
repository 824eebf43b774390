"""Which items of a history an argument rests on, where the teacher did not leave any out itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tables import Item
from ..words import telling_words

# An item stays that is so similar to the argument as this share of the most similar one.
LEAST_SIMILAR = 0.5


class Denoiser:
    """Similarity of items to arguments: cosine of TF-IDF vectors over the words of the catalogue."""

    def __init__(self, catalogue: Sequence[Item]) -> None:
        """Weigh words by how few items have them.

        Args:
            catalogue: Items by number.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._weights: Any = TfidfVectorizer(analyzer=telling_words, sublinear_tf=True)
        self._weights.fit([_text_of(item) for item in catalogue])

    def supported(self, history: Sequence[Item], argument: str) -> tuple[int, ...]:
        """Numbers, from 1, of the items that ``argument`` names by ``[number]`` or speaks of in their own words.

        Args:
            history: Items, oldest first.
            argument: Evidence and preference.

        Returns:
            In order; all of them where the argument has no word in common with any.
        """
        named = {int(number) for number in re.findall(r"\[(\d+)\]", argument)}
        items = self._weights.transform([_text_of(item) for item in history])
        similar = (items @ self._weights.transform([argument]).T).toarray()[:, 0]  # [items]
        largest = float(np.max(similar))
        kept = tuple(
            number
            for number, value in enumerate(similar.tolist(), start=1)
            if number in named or (largest > 0 and value >= LEAST_SIMILAR * largest)
        )
        return kept or tuple(range(1, len(history) + 1))


def _text_of(item: Item) -> str:
    return " ".join((item.title, item.brand, *item.categories))
