"""What the logits processor of ``vllm_gream`` adds to a decoding step, beside the step of a 4-billion model.

OMP_NUM_THREADS=1 python -P scripts/bench/answer_processor.py --items 12000 --rows 1 --rows 64 --rows 256

Measured is the work of the processor on a made-up batch: with no request in its answer, and with some (one in fifty
tokens is an answer's). Logits are 2,000 wide, so that their arithmetic hardly counts; for Qwen3's 152,704 a GPU is
reckoned to take 5 microseconds for each of 9 kernels, and 3.35 TB/s for what they write.
The step beside it is reckoned from what it must at least read on an H100: 8.04 GB of weights in bfloat16, and keys and
values of 1,000 tokens for each request (36 layers, 8 heads of 128, 147 kB per token). A real step is longer, and vLLM,
which schedules ahead, lets the processor work while the step runs: the share is an upper bound.
"""

from __future__ import annotations

import statistics
import time
from typing import Annotated

import numpy as np
import torch
import typer
from gream.console import make_console
from gream.decoding.answer import AnswerConstraint
from gream.footprint import QWEN3
from rich.table import Table
from vllm_gream.rows import AnswerRows

SHAPE, WIDTH = QWEN3["4B"], 2000  # of the step beside it, and of what is measured
BYTES_PER_SECOND = 3.35e12
WEIGHTS = SHAPE.parameters * 2  # bytes
KEYS_AND_VALUES = 2 * SHAPE.layers * SHAPE.kv_heads * SHAPE.head_dim * 2  # bytes per token
CONTEXT = 1000  # tokens per request
LEVELS, CODES = 4, 256
INSIDE = 0.02  # share of a response's tokens
MARK, WORD = (0, 2, 3), 9  # tokens of `Words`
KERNELS, KERNEL = 9, 5e-6  # those of `AnswerRows._forbid`, and seconds of each


class Words:
    """A tokenizer of that size: ``<answer>`` and ``</answer>`` in three tokens each, everything else words."""

    def __len__(self) -> int:
        return WIDTH

    def get_vocab(self) -> dict[str, int]:
        """Token ids by what they are."""
        return {f"w{token}": token for token in range(WIDTH)}

    def encode(self, _: str, add_special_tokens: bool) -> list[int]:
        """Tokens of ``</answer>``, the only text that is asked for."""
        return [1, 2, 3]

    def batch_decode(self, tokens: np.ndarray) -> list[str]:
        """What each token stands for."""
        return [{0: "<", 1: "</", 2: "answer", 3: ">"}.get(int(token), " word") for (token,) in tokens]


def main(
    items: Annotated[int, typer.Option(help="In the catalogue.")] = 12_000,
    rows: Annotated[list[int] | None, typer.Option(help="Requests in a batch; repeat.")] = None,
    steps: Annotated[int, typer.Option(help="Steps to measure.")] = 300,
) -> None:
    """Print microseconds per step, and their share of the reckoned step."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    codes = np.unique(draw.integers(0, CODES, (items, LEVELS)), axis=0)
    first = WIDTH - LEVELS * CODES
    began = time.perf_counter()
    constraint = AnswerConstraint((codes + first + np.arange(LEVELS) * CODES).tolist(), Words())
    console = make_console()
    console.print(f"{len(codes)} items, prepared in {time.perf_counter() - began:.1f} s")
    table = Table("requests", "no answer, us", "in an answer", "with those, us", "4 billion, us", "share")
    for count in rows or [1, 64, 256]:
        busy = max(1, round(count * INSIDE))
        idle, answering = host_seconds(constraint, count, 0, steps), host_seconds(constraint, count, busy, steps)
        answering += KERNELS * KERNEL + busy * SHAPE.rows * 4 / BYTES_PER_SECOND
        step = (WEIGHTS + count * CONTEXT * KEYS_AND_VALUES) / BYTES_PER_SECOND
        steps_with = 1 - (1 - INSIDE) ** count  # share of steps in which somebody is in an answer
        share = (steps_with * answering + (1 - steps_with) * idle) / step
        numbers = (count, f"{idle * 1e6:.1f}", busy, f"{answering * 1e6:.1f}", f"{step * 1e6:.0f}", f"{share:.2%}")
        table.add_row(*map(str, numbers))
    console.print(table)


def host_seconds(constraint: AnswerConstraint, count: int, busy: int, steps: int) -> float:
    """Median time of a step, with ``busy`` requests at the root of the trie, where most tokens are allowed."""
    batch = AnswerRows(constraint, count)
    outputs: list[list[int]] = [[] for _ in range(count)]
    batch.update([], [(row, None, [WORD], output) for row, output in enumerate(outputs)], [])
    logits = torch.zeros(count, WIDTH)
    taken = []
    for _ in range(steps):
        batch.update([], [(row, None, list(MARK), outputs[row]) for row in range(busy)], [])
        for output in outputs[busy:]:
            output.append(WORD)
        began = time.perf_counter()
        batch.confine(logits)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    typer.run(main)
