"""Lists by a Qwen3 of the 4B shape with random weights on a GPU: users per second, and the constraint's share of time.

    python scripts/bench/gpu_decoding.py [--index Beauty.index.json.gz]
    python scripts/bench/gpu_decoding.py --device cpu --hidden 64 --layers 1 --users 8 --repeats 1

The second takes the same path anywhere. STATIC reports 0.25 % of the step for its constraint on a TPU. The last line
is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from decoding import make_ids, make_prompts
from gream.decoding.beam import TrieBeamSearch
from gream.decoding.choices import Score
from gream.semantic_ids.trie import PrefixTrie
from transformers import Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 153_000


def make_model(hidden: int, layers: int, device: str) -> Any:
    """Qwen3-4B's shape where hidden is 2,560 and layers are 36; bfloat16 on a GPU."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 9728 // 2560,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32 if device == "cpu" else torch.bfloat16)
    with torch.device(device):
        model = Qwen3ForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


class TimedSearch(TrieBeamSearch):
    """Notes the time between asking for children and having them, the device idle before and after."""

    in_constraint = 0.0

    def children(self, node: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the trie gathers, timed."""
        began = now(node.device)
        found = super().children(node, depth)
        self.in_constraint += now(node.device) - began
        return found


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    """Print a line for each distribution that items are scored by."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", type=Path, help="index.json of a catalogue; random ids by default")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--hidden", type=int, default=2560)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--users", type=int, default=128, help="in a batch")
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    trie = PrefixTrie.build(make_ids(arguments.index, VOCABULARY))
    model = make_model(arguments.hidden, arguments.layers, arguments.device)
    prompts = make_prompts(arguments.users, VOCABULARY)
    device = torch.device(arguments.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{where}, torch {torch.__version__}: {sum(weight.numel() for weight in model.parameters()) / 1e9:.2f} B "
        f"parameters, {(trie.item >= 0).sum():,} items, batches of {arguments.users} users, prompts of "
        f"{max(map(len, prompts))} tokens, {arguments.beams} beams"
    )
    result: dict[str, str | int | float] = {"device": where, "users": arguments.users, "beams": arguments.beams}
    for score in Score:
        search = TrieBeamSearch(model, trie, k=10, beams=arguments.beams, score=score)
        timed = TimedSearch(model, trie, k=10, beams=arguments.beams, score=score)
        for warm in (search, timed):
            warm.search(prompts)
        timed.in_constraint = 0.0
        seconds = {}
        for name, each in (("plain", search), ("timed", timed)):
            began = now(device)
            for _ in range(arguments.repeats):
                each.search(prompts)
            seconds[name] = (now(device) - began) / arguments.repeats
        result |= {
            f"{score}_users_per_second": round(arguments.users / seconds["plain"], 1),
            f"{score}_constraint_share": timed.in_constraint / arguments.repeats / seconds["timed"],
        }
        print(
            f"softmax over {score}: {seconds['plain']:.3f} s per batch, {arguments.users / seconds['plain']:,.1f} "
            f"users per second; constraint {result[f'{score}_constraint_share']:.2%} of the time"
        )
    if device.type == "cuda":
        result["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
