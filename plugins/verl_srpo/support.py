"""Answers that only items can be: what a rollout chose among, for the probabilities of actor and reference.

Where a rollout may choose among some tokens only, the actor's and the reference's probabilities must be shares among
the same ones, or the ratio of PPO is off from the first step on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gream.decoding.answer import AnswerConstraint
from gream.engine.checkpoint import catalogue_token_ids
from gream.semantic_ids.catalog import Catalog

# Key of actor_rollout_ref.model.override_config: the one place that a rollout server and a training engine both see.
OPTION = "answer_catalog"

# Finite, because verl's entropy multiplies logits by probabilities of 0.
_FORBIDDEN = -1e9


@dataclass(frozen=True)
class Choices:
    """Places of a batch whose next token is one of some.

    Attributes:
        at: Their indices, int64 ``[N]`` per dimension of the batch.
        row: int64 ``[M]``, for each allowed token the number of its place.
        token: int64 ``[M]``, the allowed tokens.
    """

    at: tuple[torch.Tensor, ...]
    row: torch.Tensor
    token: torch.Tensor

    @staticmethod
    def of(
        at: Sequence[Sequence[int]], allowed: Sequence[npt.NDArray[np.int64]], device: torch.device | str
    ) -> Choices:
        """Take the indices of each place, and the tokens allowed there."""
        token = np.concatenate(allowed)
        row = np.repeat(np.arange(len(allowed)), [len(tokens) for tokens in allowed])
        indices = np.array(at, dtype=np.int64).T
        return Choices(
            tuple(torch.from_numpy(part).to(device) for part in np.ascontiguousarray(indices)),
            torch.from_numpy(row).to(device),
            torch.from_numpy(token).to(device),
        )

    def only(self, logits: torch.Tensor) -> torch.Tensor:
        """``[N, V]`` logits of the places, those of all other tokens made impossible."""
        forbidden = torch.ones(logits.shape, dtype=torch.bool, device=logits.device)
        forbidden[self.row, self.token] = False
        return logits.masked_fill(forbidden, _FORBIDDEN)

    def restrict(self, logits: torch.Tensor) -> torch.Tensor:
        """``[..., V]`` logits of the batch, with those of the places restricted."""
        return logits.index_put(self.at, self.only(logits[self.at]))


def read_constraint(override_config: Mapping[str, Any], tokenizer: Any) -> AnswerConstraint | None:
    """The constraint that verl's model section asks for; None where it asks for none."""
    path = override_config.get(OPTION)
    if not path:
        return None
    return AnswerConstraint(catalogue_token_ids(Catalog.load(Path(path)).ids, tokenizer), tokenizer)
