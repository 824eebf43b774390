"""Encoding speed of a tokenizer before and after semantic ids were added, on text laden with ids.

python scripts/bench/tokenizer.py --model FOLDER
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

from gream.semantic_ids.extension import add_id_tokens
from gream.semantic_ids.vocabulary import level_token

LEVELS, CODES = 5, 256


def seconds(tokenizer: Any, texts: list[str]) -> float:
    """Best of three runs over all texts."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        tokenizer(texts, add_special_tokens=False)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Print megabytes per second of plain and id-laden text, before and after."""
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    tokenizer = AutoTokenizer.from_pretrained(parser.parse_args().model)
    draw = random.Random(0)
    # Digits keep the ids of a model that was extended already from being its tokens.
    tokens = [[level_token(level, code + 100_000) for code in range(CODES)] for level in range(LEVELS)]
    plain = ["The user bought a nail lacquer, a matte top coat and cuticle oil last week. " * 20] * 500
    laden = [
        "History: " + ", ".join("".join(draw.choice(level) for level in tokens[:4]) for _ in range(20))
        for _ in range(500)
    ]
    before = [seconds(tokenizer, texts) for texts in (plain, laden)]
    add_id_tokens(tokenizer, [token for level in tokens for token in level])
    after = [seconds(tokenizer, texts) for texts in (plain, laden)]
    for name, texts, old, new in zip(("plain", "id-laden"), (plain, laden), before, after, strict=True):
        size = sum(map(len, texts)) / 1e6
        print(f"{name} text: {size / old:.2f} MB/s before, {size / new:.2f} MB/s after, x {old / new:.2f}")


if __name__ == "__main__":
    main()
