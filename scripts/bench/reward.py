"""The reward of 100,000 responses in one call, against a call per response and a plain loop; the results are compared.

OMP_NUM_THREADS=1 python scripts/bench/reward.py
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from gream.dialogue import ReasonedAnswer
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import level_token
from verl_srpo.reward import ResidualReward

LEVELS, CODES, ITEMS = 4, 256, 12_101
T = TypeVar("T")


def catalogue(draw: random.Random) -> Catalog:
    """As many items as Amazon Beauty has, ids drawn at random."""
    ids: set[tuple[int, ...]] = set()
    while len(ids) < ITEMS:
        ids.add(tuple(draw.randrange(CODES) for _ in range(LEVELS)))
    return Catalog([[level_token(level, code) for level, code in enumerate(codes)] for codes in sorted(ids)])


def responses(catalog: Catalog, count: int, draw: random.Random) -> tuple[list[str], list[str]]:
    """Chains of some 1,500 characters with answers right, half right, wrong, without form; and their truths."""
    words = (
        "the",
        "user",
        "bought",
        "likes",
        "wants",
        "a",
        "soft",
        "bright",
        "new",
        "shampoo",
        "brush",
        "brand",
        "again",
    )
    texts, truths = [], []
    for _ in range(count):
        truth = draw.randrange(len(catalog))
        tokens = list(catalog.ids[truth])
        for level in range(draw.randrange(LEVELS + 1), LEVELS):
            tokens[level] = level_token(level, draw.randrange(CODES))
        stages = [" ".join(draw.choices(words, k=60)) for _ in range(4)]
        history = tuple(catalog.text(draw.randrange(len(catalog))) for _ in range(5))
        text = ReasonedAnswer(*stages, history=history, answer="".join(tokens)).render() + "<|im_end|>"
        texts.append(text if draw.random() < 0.95 else text[: draw.randrange(len(text))])
        truths.append(catalog.text(truth))
    return texts, truths


FORM = re.compile(r"<think>.*?</think>(?:(?!<answer>).)*<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)


def plain(response: str, truth: str) -> float:
    """The reward as one would write it for a single response (ids of one length)."""
    found = FORM.search(response) if response.count("<answer>") == 1 else None
    if found is None:
        return 0.0
    answer, wanted = (re.findall(r"<\|[a-z]_\d+\|>", text) for text in (found[1], truth))
    if answer == wanted:
        return 1.0
    level = 0
    while level < min(len(answer), LEVELS) and answer[level] == wanted[level]:
        level += 1
    return math.sqrt(min(level, LEVELS - 1) / LEVELS)


def timed(name: str, function: Callable[[], T]) -> tuple[T, float]:
    """Best of three runs, in seconds of one core's work."""
    best = math.inf
    for _ in range(3):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    print(f"{name}: {best:.2f} s")
    return result, best


def main(arguments: Sequence[str] | None = None) -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--responses", type=int, default=100_000)
    count = parser.parse_args(arguments).responses
    draw = random.Random(0)
    catalog = catalogue(draw)
    texts, truths = responses(catalog, count, draw)
    reward = ResidualReward(catalog)
    print(f"{count} responses of {sum(map(len, texts)) / count:.0f} characters, {ITEMS} items, {LEVELS} levels")
    batch, batch_seconds = timed("one call", lambda: reward(texts, truths).reward.tolist())
    rows, rows_seconds = timed(
        "a call per response",
        lambda: [float(reward([text], [truth]).reward[0]) for text, truth in zip(texts, truths, strict=True)],
    )
    loop, loop_seconds = timed(
        "plain loop", lambda: [plain(text, truth) for text, truth in zip(texts, truths, strict=True)]
    )
    if not batch == rows == loop:
        raise SystemExit("the three do not agree")
    print(f"one call is {rows_seconds / batch_seconds:.1f} x as fast as a call per response, ", end="")
    print(f"{loop_seconds / batch_seconds:.1f} x as fast as the plain loop")


if __name__ == "__main__":
    main()
