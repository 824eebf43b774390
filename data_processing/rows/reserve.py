"""Which training targets are SRPO's alone; see `RlConfig.reserved`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from ..config import RlConfig
from ..tables import Sequences


def reserved_users(config: RlConfig, seed: int, sequences: Mapping[int, Sequence[int]]) -> set[int]:
    """Users whose last training item is reserved for SRPO.

    Args:
        config: See `RlConfig`.
        seed: Draws the users.
        sequences: Training sequence of each user.
    """
    long_enough = sorted(user for user, sequence in sequences.items() if len(sequence) > config.min_history)
    count = min(round(config.reserved * len(sequences)), len(long_enough))
    return set(random.Random(f"{seed} reserved").sample(long_enough, count))


def without_reserved(config: RlConfig, seed: int, sequences: Mapping[int, Sequence[int]]) -> Sequences:
    """Training sequences as SFT may see them: reserved items, which are the last of their sequence, left out.

    Args:
        config: See `RlConfig`.
        seed: As for `reserved_users`.
        sequences: Training sequence of each user.
    """
    return Sequences.of(sequences).shortened(1, reserved_users(config, seed, sequences))
