"""Which random numbers each rollout of a prompt gets: told by the trainer, before rollouts meet in a server's queue.

A server that counted the requests itself would give two rows with the same prompt their rollouts in the order in which
they happen to arrive.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tensordict import TensorDict
from verl.utils import tensordict_utils

# The field of a prompt that says which draw its first rollout is; its further rollouts follow.
FIRST_DRAW = "first_draw"


class NumberedDispatch:
    """verl's agent loop manager, with every prompt numbered on its way to the workers."""

    def __init__(self, manager: Any, *, rollouts: int, validation_rollouts: int) -> None:
        """Wrap ``manager``.

        Args:
            manager: verl's.
            rollouts: Per prompt in training.
            validation_rollouts: Per prompt in validation.
        """
        self._manager = manager
        self._rollouts = {False: rollouts, True: validation_rollouts}
        self._occasion: tuple[bool, int] | None = None
        self._seen: Counter[str] = Counter()

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Number ``prompts`` and hand them on; a prompt that comes again in the same step gets further draws."""
        validate = bool(tensordict_utils.get(prompts, "validate", False))
        occasion = validate, int(tensordict_utils.get(prompts, "global_steps"))
        if occasion != self._occasion:
            self._occasion = occasion
            self._seen.clear()
        numbers = []
        for raw in list(prompts["raw_prompt"]):
            text = repr(raw)
            numbers.append(self._seen[text] * self._rollouts[validate])
            self._seen[text] += 1
        tensordict_utils.assign_non_tensor_stack(prompts, FIRST_DRAW, numbers)
        self._manager.generate_sequences(prompts)
