"""Rows packed by verl's own FSDP2 engine under a recipe's attention and fused kernels, against one forward per row.

A program of its own, since verl changes the model's class for good: ``python srpo_packed.py FOLDER RECIPE``. Prints the
largest differences: of log-probabilities, and of gradients as a share of each parameter's largest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from srpo_support import tiny_model, tiny_tokenizer
from test_srpo_recipes import composed
from torch import Tensor
from verl.utils import tensordict_utils
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.dataset.dataset_utils import DatasetPadMode
from verl.workers.engine.base import EngineRegistry

LENGTHS = (7, 31, 2, 18)


def row_by_row(model: Any, rows: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Log-probabilities of each row's tokens behind its first, and the gradients of their sum."""
    scores = [model(input_ids=row[None]).logits[0, :-1].log_softmax(-1).gather(1, row[1:, None])[:, 0] for row in rows]
    torch.cat(scores).sum().backward()
    return [score.detach() for score in scores], {name: part.grad for name, part in model.named_parameters()}


def packed(folder: Path, recipe: str, rows: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor], str]:
    """The same by verl's actor, and the attention that it chose."""
    fsdp = "actor_rollout_ref.actor.fsdp_config"
    config = composed(
        recipe,
        f"actor_rollout_ref.model.path={folder}/model",
        f"+{fsdp}.mixed_precision.param_dtype=fp32",
        f"{fsdp}.dtype=float32",
        f"{fsdp}.use_torch_compile=false",
    )
    OmegaConf.resolve(config)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    assert model.use_remove_padding and model.use_fused_kernels
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=model,
        engine_config=actor.engine,
        optimizer_config=actor.optim,
        checkpoint_config=actor.checkpoint,
    )
    engine.initialize()

    def nested(parts: list[Tensor]) -> Tensor:
        return torch.nested.as_nested_tensor(parts, layout=torch.jagged)

    batch = tensordict_utils.get_tensordict(
        {"input_ids": nested(rows), "position_ids": nested([torch.arange(len(row)) for row in rows])},
        {
            "temperature": 1.0,
            "use_remove_padding": True,
            "use_fused_kernels": True,
            "pad_mode": DatasetPadMode.NO_PADDING,
        },
    )
    seen: list[Tensor] = []

    def loss_of(model_output: Any, data: Any, dp_group: Any) -> tuple[Tensor, dict[str, Any]]:
        parts = model_output["log_probs"].unbind()
        seen.extend(part.detach()[:-1] for part in parts)
        return torch.stack([part[:-1].sum() for part in parts]).sum(), {}

    engine.module.train()
    loss, _ = engine.forward_step(batch, loss_of, forward_only=False)
    loss.backward()
    gradients = {
        name: part.grad.full_tensor() if hasattr(part.grad, "full_tensor") else part.grad
        for name, part in engine.module.named_parameters()
    }
    return seen, gradients, model.hf_config._attn_implementation


def main(folder: Path, recipe: str) -> None:
    """Print the differences."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, head_dim=16).float()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [torch.randint(3, len(tokenizer), (length,)) for length in LENGTHS]
    scores, gradients = row_by_row(model, rows)
    ours, our_gradients, attention = packed(folder, recipe, rows)
    differences = {
        "attention": attention,
        "log_probabilities": max(float((a - b).abs().max()) for a, b in zip(scores, ours, strict=True)),
        "gradients": max(
            float((our_gradients[name] - part).abs().max() / part.abs().max()) for name, part in gradients.items()
        ),
    }
    print(json.dumps(differences))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
