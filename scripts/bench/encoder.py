"""Items per second of a language model's backbone as an encoder: batches by length against batches in catalogue order.

    PYTHONPATH=. python scripts/bench/encoder.py --shape 0.6B          (on a GPU; --shape tiny anywhere)

Weights are random, in the shape of Qwen3, for speed does not depend on them; so are tokens. Lengths are those of titles
and descriptions: log-normal with medians of 16 and 110 tokens. Both sides use the same model and count the same tokens;
the other side pads 32 texts at a time as they come. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3Model

from data_processing.encoders.language_model import mean_pooled

# hidden size, width of the feed-forward part, layers, heads, heads of keys and values, as published for Qwen3.
SHAPES = {
    "tiny": (64, 192, 2, 4, 2),
    "0.6B": (1024, 3072, 28, 16, 8),
    "4B": (2560, 9728, 36, 32, 8),
}
BATCH = 32


def texts(items: int, vocabulary: int) -> list[list[int]]:
    """Token ids of a title and a description per item."""
    random = np.random.default_rng(0)
    sequences = []
    for median in (16, 110):
        lengths = np.clip(random.lognormal(np.log(median), 0.6, size=items), 1, 400).astype(int)
        sequences.append([random.integers(vocabulary, size=length).tolist() for length in lengths])
    return [sequence for pair in zip(*sequences, strict=True) for sequence in pair]


def in_order(model: Any, sequences: list[list[int]]) -> np.ndarray:
    """`mean_pooled` of 32 texts at a time, as they come."""
    parts = [sequences[start : start + BATCH] for start in range(0, len(sequences), BATCH)]
    return np.concatenate([mean_pooled(model, part, BATCH * max(map(len, part))) for part in parts])


def timed(encode: Callable[[], np.ndarray], device: str) -> tuple[float, np.ndarray]:
    """Seconds and result."""
    start = time.perf_counter()
    vectors = encode()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, vectors


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--items", type=int, default=4096)
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()

    hidden, feed_forward, layers, heads, key_heads = SHAPES[arguments.shape]
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=hidden // heads if arguments.shape == "tiny" else 128,
        use_cache=False,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32 if arguments.device == "cpu" else torch.bfloat16)
    with torch.device(arguments.device):
        model = Qwen3Model(config).eval()
    sequences = texts(arguments.items, config.vocab_size)
    tokens = sum(map(len, sequences))
    mean_pooled(model, sequences[: 8 * BATCH], arguments.batch_tokens)  # the first call of every kernel
    in_order(model, sequences[: 2 * BATCH])
    ours, vectors = timed(lambda: mean_pooled(model, sequences, arguments.batch_tokens), arguments.device)
    theirs, others = timed(lambda: in_order(model, sequences), arguments.device)
    weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    result = {
        "shape": arguments.shape,
        "device": torch.cuda.get_device_name() if arguments.device != "cpu" else "cpu",
        "items": arguments.items,
        "tokens": tokens,
        "batch_tokens": arguments.batch_tokens,
        "seconds": round(ours, 3),
        "items_per_second": round(arguments.items / ours, 1),
        "tokens_per_second": round(tokens / ours),
        "teraflops_per_second": round(2 * weights * tokens / ours / 1e12, 2),
        "seconds_in_catalogue_order": round(theirs, 3),
        "times_faster": round(theirs / ours, 2),
        "largest_difference": float(np.abs(vectors - others).max()),
        "gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if arguments.device != "cpu" else None,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
