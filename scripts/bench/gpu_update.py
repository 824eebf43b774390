"""An update's memory and seconds on a GPU, random weights in a shape of Qwen3, against `gream.footprint`'s arithmetic.

    python scripts/bench/gpu_update.py --shape 4B --tokens 8192
    python scripts/bench/gpu_update.py --device cpu --shape tiny --tokens 256

Rows of 256 tokens are packed into one, as verl packs them, layers are checkpointed, and log-probabilities come from all
logits ("plain") and, where verl is installed, from its fused kernels. Counted is what a forward and backward pass holds
beyond weights and their gradients, which verl keeps otherwise. The last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from gream.footprint import FUSED, FUSED_TOKENS, GB, LOSS, QWEN3, Shape, activations, logits
from transformers import Qwen3Config, Qwen3ForCausalLM

SHAPES = {**QWEN3, "tiny": Shape(64, 2, 4, 2, 16, 192, 512, tied=True)}
ROW = 256


def make_model(shape: Shape, device: str) -> Any:
    """A bfloat16 model whose layers are checkpointed, and whose gradients are there."""
    config = Qwen3Config(**shape.config(), attn_implementation="sdpa", use_cache=False)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Qwen3ForCausalLM(config).train()
    torch.set_default_dtype(torch.float32)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for part in model.parameters():
        part.grad = torch.zeros_like(part)
    return model


def plain(states: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of labels, float32 over all logits at once."""
    every = states @ head.T
    return every.float().log_softmax(-1).gather(-1, labels[..., None])[..., 0]


def fused(states: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same by verl's kernels."""
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    return FusedLinearForPPO()(states, head, labels, temperature=1.0)[0]


def measure(model: Any, tokens: int, log_probs: Callable[..., torch.Tensor], device: str) -> tuple[float, int]:
    """Seconds of a pass, and bytes that it holds at most; 0 on a CPU, which does not count them."""
    ids = torch.randint(model.config.vocab_size, (1, tokens), device=device)
    positions = torch.arange(tokens, device=device)[None] % ROW
    for _ in range(2):  # the first warms up
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        began = time.perf_counter()
        states = model.model(input_ids=ids, position_ids=positions).last_hidden_state
        log_probs(states, model.lm_head.weight, ids).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        del states
    return seconds, torch.cuda.max_memory_allocated() - before if device == "cuda" else 0


def main() -> None:
    """Print a line for each way to log-probabilities."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="4B")
    parser.add_argument("--tokens", type=int, default=8192)
    arguments = parser.parse_args()

    shape, tokens = SHAPES[arguments.shape], arguments.tokens
    model = make_model(shape, arguments.device)
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    result: dict[str, Any] = {"device": where, "shape": arguments.shape, "tokens": tokens}
    ways = {"plain": (plain, logits(tokens, shape, LOSS["plain"]))}
    if find_spec("verl"):
        ways["fused"] = (fused, logits(min(tokens, FUSED_TOKENS), shape, FUSED))
    for name, (log_probs, loss) in ways.items():
        seconds, held = measure(model, tokens, log_probs, arguments.device)
        expected = activations(tokens, shape) + loss
        result |= {f"{name}_seconds": round(seconds, 3), f"{name}_tokens_per_second": round(tokens / seconds)}
        result |= {f"{name}_gb": round(held / GB, 2), f"{name}_gb_by_arithmetic": round(expected / GB, 2)}
        print(
            f"{where}, {arguments.shape}, {tokens} tokens, {name}: {seconds:.3f} s, {held / GB:.2f} GB held, "
            f"{expected / GB:.2f} by arithmetic"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
