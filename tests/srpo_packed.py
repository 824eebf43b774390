"""Rows packed by verl's own FSDP2 engine under a recipe's attention, against one forward per row.

A program of its own, since verl changes the model's class for good: ``python srpo_packed.py FOLDER RECIPE KERNELS
ANSWERS``. KERNELS are "fused", as in the recipes, or "plain"; ANSWERS are "free", or "confined" to a catalogue. Prints
the largest differences: of log-probabilities, of entropies, and of gradients as a share of each parameter's largest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import find_tokens
from omegaconf import OmegaConf
from srpo_support import tiny_model, tiny_tokenizer
from test_answer import ITEMS, encode, naive
from test_srpo_recipes import composed
from torch import Tensor
from verl.utils import tensordict_utils
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.dataset.dataset_utils import DatasetPadMode
from verl.workers.engine.base import EngineRegistry

LENGTHS = (7, 31, 2, 18)
TEMPERATURE = 0.7

# Of each row's tokens behind its first: log-probabilities, and entropies of what they were chosen among; gradients.
Seen = tuple[list[Tensor], list[Tensor], dict[str, Tensor]]


def row_by_row(model: Any, rows: list[Tensor], confined: bool) -> Seen:
    """By the model alone, and by the text of an answer where answers are confined."""
    scores, entropies = [], []
    for row in rows:
        logits = model(input_ids=row[None]).logits[0, :-1] / TEMPERATURE
        for position, allowed in naive(row.tolist()[:-1]) if confined else []:
            possible = torch.zeros(logits.shape, dtype=torch.bool)
            possible[position, allowed] = True
            possible[:position] = possible[position + 1 :] = True
            logits = logits.masked_fill(~possible, -1e9)
        logs = logits.log_softmax(-1)
        scores.append(logs.gather(1, row[1:, None])[:, 0])
        entropies.append(-(logs.exp() * logs).sum(-1).detach())
    torch.cat(scores).sum().backward()
    return [score.detach() for score in scores], entropies, {name: part.grad for name, part in model.named_parameters()}


def packed(folder: Path, recipe: str, rows: list[Tensor], fused: bool, confined: bool) -> tuple[Seen, str]:
    """By verl's actor, and the attention that it chose."""
    fsdp = "actor_rollout_ref.actor.fsdp_config"
    config = composed(
        recipe,
        f"actor_rollout_ref.model.path={folder}/model",
        f"+{fsdp}.mixed_precision.param_dtype=fp32",
        f"{fsdp}.dtype=float32",
        f"{fsdp}.use_torch_compile=false",
        f"actor_rollout_ref.model.use_fused_kernels={fused}",
        *([f"+actor_rollout_ref.model.override_config.answer_catalog={folder}/index.json"] if confined else []),
    )
    OmegaConf.resolve(config)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    assert model.use_remove_padding
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
            "temperature": TEMPERATURE,
            "use_remove_padding": True,
            "use_fused_kernels": fused,
            "calculate_entropy": True,
            "pad_mode": DatasetPadMode.NO_PADDING,
        },
    )
    seen: list[Tensor] = []
    spread: list[Tensor] = []

    def loss_of(model_output: Any, data: Any, dp_group: Any) -> tuple[Tensor, dict[str, Any]]:
        parts = model_output["log_probs"].unbind()
        seen.extend(part.detach()[:-1] for part in parts)
        spread.extend(part.detach()[:-1] for part in model_output["entropy"].unbind())
        return torch.stack([part[:-1].sum() for part in parts]).sum(), {}

    engine.module.train()
    loss, _ = engine.forward_step(batch, loss_of, forward_only=False)
    loss.backward()
    gradients = {
        name: part.grad.full_tensor() if hasattr(part.grad, "full_tensor") else part.grad
        for name, part in engine.module.named_parameters()
    }
    return (seen, spread, gradients), model.hf_config._attn_implementation


def main(folder: Path, recipe: str, kernels: str, answers: str) -> None:
    """Print the differences."""
    torch.manual_seed(0)
    tokenizer, confined = tiny_tokenizer(), answers == "confined"
    model = tiny_model(tokenizer, head_dim=16).float()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    Catalog([find_tokens(item) for item in ITEMS]).save(folder / "index.json")
    rows = [torch.randint(3, len(tokenizer), (length,)) for length in LENGTHS]
    # An answer at the end of a row, one in the middle, and one that is cut off.
    for at, text in (
        (1, f"<answer>{ITEMS[1]}</answer>"),
        (3, f"<answer>{ITEMS[0]}</answer>\n"),
        (0, "<answer><|a_2|>"),
    ):
        rows[at] = torch.cat([rows[at], torch.tensor(encode(text))])
    theirs = row_by_row(model, rows, confined)
    ours, attention = packed(folder, recipe, rows, kernels == "fused", confined)
    differences = {
        "attention": attention,
        "gradients": max(
            float((ours[2][name] - part).abs().max() / part.abs().max()) for name, part in theirs[2].items()
        ),
    }
    for name, a, b in zip(("log_probabilities", "entropies"), theirs[:2], ours[:2], strict=True):
        differences[name] = max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))
    print(json.dumps(differences))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
