"""``answer_catalog`` in a recipe: what can keep to it, and what vLLM is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gream.errors import GreamError
from omegaconf import OmegaConf, open_dict

from verl_srpo.support import OPTION

_NAME = f"actor_rollout_ref.model.override_config.{OPTION}"
_ROLLOUT = "actor_rollout_ref.rollout"
PROCESSOR = "vllm_gream.processor:AnswerProcessor"


def answer_catalog(config: Any) -> Path | None:
    """The ``index.json`` that answers are confined to; None where they are free."""
    named = (config.actor_rollout_ref.model.override_config or {}).get(OPTION)
    return Path(named) if named else None


def check_confined(config: Any) -> None:
    """Whether rollout, actor and reference can all keep to the catalogue that a recipe names.

    Raises:
        GreamError: One cannot; names the setting.
    """
    if answer_catalog(config) is None:
        return
    actor_rollout_ref = config.actor_rollout_ref
    rollout, model = actor_rollout_ref.rollout, actor_rollout_ref.model

    def refuse(setting: str, value: Any, reason: str, remedy: str) -> GreamError:
        return GreamError(f"{setting}={value}: {reason} {_NAME}; {remedy}")

    if rollout.name not in ("hf_cpu", "vllm"):
        raise refuse(
            f"{_ROLLOUT}.name",
            rollout.name,
            "verl hands this engine plain sampling parameters, which cannot keep to",
            "set it to vllm, or remove the catalogue",
        )
    if rollout.name == "vllm" and rollout.get("logprobs_mode") != "processed_logprobs":
        raise refuse(
            f"{_ROLLOUT}.logprobs_mode",
            rollout.get("logprobs_mode"),
            "log-probabilities over the whole vocabulary are not those of a rollout under",
            "set it to processed_logprobs",
        )
    backend = (model.get("fused_kernel_options") or {}).get("impl_backend", "torch")
    if model.get("use_fused_kernels") and backend == "triton":
        raise refuse(
            "actor_rollout_ref.model.fused_kernel_options.impl_backend",
            backend,
            "this kernel knows the whole vocabulary only, not the support of",
            "set it to torch",
        )
    for role in ("actor", "ref"):
        section = actor_rollout_ref[role]
        strategy = section.get("strategy", "fsdp2")
        if strategy not in ("fsdp", "fsdp2"):
            raise refuse(
                f"actor_rollout_ref.{role}.strategy",
                strategy,
                "only verl's FSDP engine takes its probabilities over the support of",
                "set it to fsdp2",
            )
        for where in ("ulysses_sequence_parallel_size", "fsdp_config.ulysses_sequence_parallel_size"):
            parts = OmegaConf.select(section, where, default=1)
            if parts != 1:
                raise refuse(
                    f"actor_rollout_ref.{role}.{where}",
                    parts,
                    "a sequence in parts does not show where its answer begins, as is needed for",
                    "set it to 1",
                )


def confine_vllm(config: Any) -> None:
    """Have verl start vLLM with the logits processor of `vllm_gream`, where a recipe names a catalogue.

    Args:
        config: verl's whole configuration; its ``rollout.engine_kwargs.vllm`` is completed.
    """
    catalog, rollout = answer_catalog(config), config.actor_rollout_ref.rollout
    if catalog is None or rollout.name != "vllm":
        return
    engine = OmegaConf.to_container(rollout.get("engine_kwargs") or OmegaConf.create(), resolve=True)
    assert isinstance(engine, dict)  # noqa: S101 - a mapping in verl's configuration
    vllm = dict(engine.get("vllm") or {})
    processors = [*(vllm.get("logits_processors") or []), PROCESSOR]
    additional = {**(vllm.get("additional_config") or {}), "gream": {"catalogue": str(catalog.resolve())}}
    engine["vllm"] = {**vllm, "logits_processors": processors, "additional_config": additional}
    with open_dict(rollout):
        rollout.engine_kwargs = engine
