"""verl's FSDP engine, with probabilities under the rollout's constraint where a recipe names an ``answer_catalog``."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from gream.decoding.answer import AnswerConstraint
from verl.utils import tensordict_utils
from verl.utils.device import get_device_id
from verl.utils.experimental.torch_functional import FusedLinearForPPO
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl_srpo.support import OPTION, Choices, read_constraint


def choices_of(constraint: AnswerConstraint, input_ids: Any, *, packed: bool) -> Choices | None:
    """Places of a batch that the constraint restricts; None where it restricts none.

    Args:
        constraint: What answers may be.
        input_ids: Nested ``[B, T]``.
        packed: Whether the model sees one row without padding, ``[1, sum of T]``, and not ``[B, longest T]``.
    """
    offsets = input_ids.offsets().tolist()
    found = [
        (row, position, allowed)
        for row, tokens in enumerate(input_ids.unbind())
        for position, allowed in constraint.restrictions(tokens.tolist())
    ]
    if not found:
        return None
    at = [(0, offsets[row] + position) if packed else (row, position) for row, position, _ in found]
    return Choices.of(at, [allowed for *_, allowed in found], get_device_id())


_fused: Choices | None = None  # of the batch that a model is at; verl's fused kernels are called inside of it


def _restrict_fused(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def forward(
        self: Any, hidden_states: Any, vocab_weights: Any, input_ids: Any, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs, entropy = original(self, hidden_states, vocab_weights, input_ids, temperature)
        if _fused is None:
            return log_probs, entropy
        # A few places per sequence: their logits are small, where those of all tokens are what fused kernels avoid.
        logits = _fused.only(((hidden_states[_fused.at] @ vocab_weights.t()) / temperature).float())
        logs = logits.log_softmax(dim=-1)  # [N, V]
        own = logs.gather(-1, input_ids[_fused.at].long()[:, None]).squeeze(-1)
        spread = -(logs.exp() * logs).sum(dim=-1)
        return (
            log_probs.index_put(_fused.at, own.to(log_probs.dtype)),
            entropy.index_put(_fused.at, spread.to(entropy.dtype)),
        )

    return forward


class ConfinedEngine(FSDPEngineWithLMHead):
    """See the module."""

    def __init__(self, model_config: Any, *rest: Any, **named: Any) -> None:
        """Take verl's configurations of an engine."""
        self._constraint = read_constraint(model_config.override_config, model_config.tokenizer)
        self._choices: Choices | None = None
        # verl writes what it overrides into the model's own configuration, and so into checkpoints.
        vars(model_config.hf_config).pop(OPTION, None)
        if self._constraint is not None and not hasattr(FusedLinearForPPO.forward, "__wrapped__"):
            FusedLinearForPPO.forward = _restrict_fused(FusedLinearForPPO.forward)
        super().__init__(model_config, *rest, **named)

    def forward_step(self, micro_batch: Any, *rest: Any, **named: Any) -> Any:
        """What the model says of a micro-batch, and the loss."""
        global _fused
        if self._constraint is None:
            return super().forward_step(micro_batch, *rest, **named)
        packed = tensordict_utils.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True)
        self._choices = choices_of(self._constraint, micro_batch["input_ids"], packed=packed)
        _fused = self._choices
        try:
            return super().forward_step(micro_batch, *rest, **named)
        finally:
            self._choices = _fused = None

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: Any, logits_processor_func: Any
    ) -> Any:
        """The same, before it is made into log-probabilities; fused kernels have made it so by now."""
        fused = tensordict_utils.get_non_tensor_data(data=micro_batch, key="use_fused_kernels", default=False)
        if self._choices is not None and not fused:
            output.logits = self._choices.restrict(output.logits)
        return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)


def register_for_gpus() -> None:
    """Put the engine in the place of verl's own; verl's decorator refuses a device that has one."""
    for backend in ("fsdp", "fsdp2"):
        EngineRegistry._engines["language_model"][backend]["cuda"] = ConfinedEngine
