"""Keys and values that grow in place.

The cache of transformers joins old and new with each token, which copies all of it: with a small model and many rows
this takes as long as the attention that reads it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

# Tokens that there is room for beyond those at hand, whenever room is made.
_ROOM = 64


class GrowingLayer(DynamicLayer):
    """One layer's keys and values ``[B, heads, T, head_dim]``, views into tensors with room behind them.

    A layer that is copied shares that room, and only one of both may grow.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._space: tuple[torch.Tensor, ...] = ()
        self._grown: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values of new tokens; see `DynamicLayer`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        # Whoever selects rows or puts other tensors in their place leaves the room behind.
        if self.keys is not self._grown or end > self._space[0].shape[-2]:
            self._space = tuple(
                torch.cat([old, new.new_empty(*new.shape[:-2], end + _ROOM - start, new.shape[-1])], dim=-2)
                for old, new in ((self.keys, key_states), (self.values, value_states))
            )
        for space, new in zip(self._space, (key_states, value_states), strict=True):
            space[..., start:end, :] = new
        self.keys, self.values = (space[..., :end, :] for space in self._space)
        self._grown = self.keys
        return self.keys, self.values


def growing_cache() -> Cache:
    """An empty cache of such layers, for any model of full attention."""
    return Cache(layer_class_to_replicate=GrowingLayer)
