"""Seconds and peak memory of every data stage, from a generated dump to SRPO's prompts, at growing numbers of users.

    PYTHONPATH=. python scripts/bench/scale.py --users 10000 100000 1000000 [--folder runs/scale]

Ten reviews per user, an item for every five users, thirty items of a kind, so that sequences are as long at any size;
titles of words that some items share; Amazon 2018 format, gzip'd.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl

_CHUNK = 500_000
_STAGES = ("interactions", "enrich", "embed", "semantic-ids", "sft", "rl")
_REVIEW = (
    '{{"overall": 5.0, "reviewerID": "A{}", "asin": "B{}", "reviewText": "It works well, bought again.", '
    '"unixReviewTime": {}}}'
)
_ITEM = (
    '{{"asin": "B{}", "title": "{} {} {} {}", "description": ["A {} {} for every day."], "brand": "{}", '
    '"category": ["Things", "{}", "{}"]}}'
)


def generate(users: int, folder: Path) -> tuple[Path, Path]:
    """Write reviews and metadata of ``users`` users."""
    random = np.random.default_rng(42)
    items = max(users // 5, 300)
    count = items // 30
    words = np.array([f"{first}{last}" for first in "bcdfglmnprst" for last in ("ara", "elo", "ino", "ost", "um")])
    paths = folder / "reviews.json.gz", folder / "meta.json.gz"
    # An item's kind decides its words, and a user keeps to few kinds, so that there is something to argue from.
    kinds = random.integers(0, count, items)
    by_kind = np.argsort(kinds, kind="stable")
    ends = np.searchsorted(kinds[by_kind], np.arange(count + 1))
    with gzip.open(paths[0], "wb", 1) as stream:
        for start in range(0, users, _CHUNK // 10):
            own = np.repeat(np.arange(start, min(users, start + _CHUNK // 10)), 10)
            kind = (own * 7 + random.integers(0, 4, len(own))) % count
            place = (random.random(len(own)) ** 1.3 * (ends[kind + 1] - ends[kind])).astype(np.int64)
            frame = pl.DataFrame(
                {
                    "user": own,
                    "item": by_kind[np.minimum(ends[kind] + place, items - 1)],
                    "time": random.integers(15_000, 17_700, len(own)) * 86_400,
                }
            )
            line = pl.format(_REVIEW, _padded("user"), _padded("item"), "time")
            stream.write(frame.select(line).to_series().str.join("\n").item().encode() + b"\n")
    parts = [words[(kinds * step + random.integers(0, 5, items)) % len(words)] for step in (1, 3, 7, 11, 13, 17)]
    table = pl.DataFrame({"item": np.arange(items), **{f"w{at}": part for at, part in enumerate(parts)}}).with_columns(
        brand=pl.Series(words[kinds % 40]), family=pl.Series(words[kinds % 9]), kind=pl.Series(kinds).cast(pl.String)
    )
    line = pl.format(_ITEM, _padded("item"), *(f"w{at}" for at in range(6)), "brand", "family", "kind")
    with gzip.open(paths[1], "wb", 1) as stream:
        stream.write(table.select(line).to_series().str.join("\n").item().encode() + b"\n")
    return paths


def _padded(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).str.zfill(9)


def main() -> None:
    """Generate, run every stage, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000])
    parser.add_argument("--folder", type=Path, default=Path("runs/scale"))
    options = parser.parse_args()
    for users in options.users:
        folder = options.folder / str(users)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # Elsewhere: a process starts with the peak memory of the one that it is forked from.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            reviews, metadata = pool.submit(generate, users, folder).result()
        print(f"{users:,} users, load {os.getloadavg()[0]:.1f}, polars {pl.__version__}", flush=True)
        for stage in _STAGES:
            more = ["--reviews", str(reviews), "--metadata", str(metadata)] if stage == "interactions" else []
            command = [sys.executable, "-m", "data_processing", stage, "--config", "recipes/data/paper.yaml"]
            start = time.monotonic()
            with (folder / f"{stage}.log").open("w") as log:
                process = subprocess.Popen([*command, "--run", str(folder), *more], stdout=log, stderr=log)
                _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - start
            if status:
                raise SystemExit(f"error: {stage} failed; see {folder / f'{stage}.log'}")
            cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9
            per_user = f"{1e3 * cpu / users:.2f} ms of CPU per user"
            print(f"  {stage}: {seconds:.0f} s, {cpu:.0f} s of CPU, {per_user}, peak {peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
