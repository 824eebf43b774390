"""Raw reviews to 5-core sequences: seconds against plain Python on the same file, or peak memory of the whole stage.

    PYTHONPATH=. python scripts/bench/interactions.py                                  # 500,000 reviews, the ratio
    PYTHONPATH=. python scripts/bench/interactions.py --reviews 10000000 --memory      # peak memory of the stage

The input is generated in a temporary folder: Amazon 2018 format, popular and rare items, times by the day. For the
second it is gzip'd, as dumps are published; a plain file is mapped, so its pages would be counted as memory too.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_processing.readers.amazon import AMAZON
from data_processing.sequences import make_sequences

Row = tuple[int, int, int, int, str]  # user, item, seconds, position, split

_CHUNK = 500_000
_CORE = 5
_WORDS = ("the", "a", "great", "gift", "works", "well", "quality", "price", "bought", "really", "love", "it", "and")
_REVIEW = (
    '{{"overall": 5.0, "verified": true, "reviewTime": "06 17, 2018", "reviewerID": "A{}", "asin": "B{}", '
    '"reviewerName": "Amazon Customer", "reviewText": "{}", "summary": "Five Stars", "unixReviewTime": {}}}'
)
_STAGE = (
    "import sys; from pathlib import Path;"
    "from data_processing.interactions import InteractionsConfig, build_interactions as build;"
    "build(InteractionsConfig(), *map(Path, sys.argv[1:]));"
    # Of this process image alone; getrusage would count the process it was started from.
    "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
)


def generate(reviews: int, folder: Path, *, zipped: bool) -> tuple[Path, Path]:
    """Write a dump of so many reviews, a tenth as many users and a twentieth as many items; some pairs repeat."""
    random = np.random.default_rng(42)
    users, items = reviews // 10, reviews // 20
    texts = pl.Series([" ".join(random.choice(_WORDS, size)) for size in random.integers(3, 100, 5000)])
    paths = folder / f"reviews.json{'.gz' * zipped}", folder / "meta.json"
    with paths[0].open("wb") as stream:
        for start in range(0, reviews, _CHUNK):
            size = min(_CHUNK, reviews - start)
            # Squares of uniform numbers: a few users and items are met often, most seldom.
            frame = pl.DataFrame(
                {
                    "user": (random.random(size) ** 1.5 * users).astype(np.int64),
                    "item": (random.random(size) ** 2 * items).astype(np.int64),
                    "time": random.integers(1_300_000_000 // 86400, 1_530_000_000 // 86400, size) * 86400,
                    "text": texts.gather(random.integers(0, len(texts), size)),
                }
            )
            line = pl.format(
                _REVIEW,
                pl.col("user").cast(pl.String).str.zfill(13),
                pl.col("item").cast(pl.String).str.zfill(9),
                "text",
                "time",
            )
            content: bytes = frame.select(line).to_series().str.join("\n").item().encode() + b"\n"
            stream.write(gzip.compress(content, 1) if zipped else content)
    with paths[1].open("w", encoding="utf-8") as stream:
        for item in range(items):
            about = {"title": f"Thing {item}", "description": ["A thing."], "brand": "Moss", "category": ["Things"]}
            stream.write(json.dumps({"asin": f"B{item:09}", **about}) + "\n")
    return paths


def polars_sequences(path: Path, described: pl.Series) -> pl.DataFrame:
    """The code of the stage, up to the finished sequences; every item is described."""
    return make_sequences(AMAZON["amazon-2018"].read_reviews(path), described, _CORE).frame


def python_sequences(path: Path) -> list[Row]:
    """The same rules with the json module, dictionaries and loops, each pass over the data written for speed."""
    by_user = defaultdict(list)
    with path.open("rb") as stream:
        for line, text in enumerate(stream):
            row = json.loads(text)
            by_user[row["reviewerID"]].append((row["unixReviewTime"], line, row["asin"]))
    sequences = {}
    for user, reviews in by_user.items():
        reviews.sort()
        first: dict[str, int] = {}
        for seconds, _, item in reviews:
            first.setdefault(item, seconds)
        sequences[user] = list(first.items())
    while True:
        counts = Counter(item for own in sequences.values() for item, _ in own)
        left = {}
        for user, own in sequences.items():
            kept = [pair for pair in own if counts[pair[0]] >= _CORE]
            if len(kept) >= _CORE:
                left[user] = kept
        if sum(map(len, left.values())) == sum(map(len, sequences.values())):
            break
        sequences = left
    items = {
        item: number for number, item in enumerate(sorted({item for own in sequences.values() for item, _ in own}))
    }
    rows = []
    for number, user in enumerate(sorted(sequences)):
        own = sequences[user]
        for position, (item, seconds) in enumerate(own):
            split = "test" if position == len(own) - 1 else "valid" if position == len(own) - 2 else "train"
            rows.append((number, items[item], seconds, position, split))
    return rows


def fastest(work: Callable[[], Any], seconds: float) -> tuple[float, Any]:
    """Seconds of the fastest run, and its result; as many runs as begin within ``seconds``."""
    best, result, began = float("inf"), None, time.perf_counter()
    while time.perf_counter() - began < seconds:
        result = None  # or freeing it would count as a part of the next run
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=500_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="time for the runs of either side")
    parser.add_argument("--memory", action="store_true", help="peak memory of the whole stage, and no reference")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reviews, metadata = generate(options.reviews, Path(folder), zipped=options.memory)
        size = reviews.stat().st_size / 1e9
        print(f"{options.reviews:,} reviews, {size:.2f} GB; polars {pl.__version__}, {pl.thread_pool_size()} threads")
        out = Path(folder) / "out"
        out.mkdir()
        start = time.perf_counter()
        command = [sys.executable, "-c", _STAGE, str(reviews), str(metadata), str(out)]
        stage = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        peak = int(stage.stdout) * 1024 / 1e9
        print(f"the whole stage, texts and tables included: {seconds:.1f} s, peak memory {peak:.2f} GB")
        if options.memory:
            return
        described = AMAZON["amazon-2018"].read_metadata(metadata)["item_id"]
        ours, frame = fastest(lambda: polars_sequences(reviews, described), options.seconds)
        theirs, rows = fastest(lambda: python_sequences(reviews), options.seconds)
        if frame.select("user", "item", "timestamp", "position", "split").rows() != rows:
            raise SystemExit("error: the two do not agree")
        print(f"reviews to sequences, fastest run: {ours:.2f} s; plain Python {theirs:.2f} s; same rows")
        print(f"ratio: {theirs / ours:.1f}")


if __name__ == "__main__":
    main()
