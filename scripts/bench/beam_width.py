"""How close narrow beams come to ranking the whole catalogue, on a run's model, users and ids.

    PYTHONPATH=. python scripts/bench/beam_width.py --run RUN --checkpoint RUN/checkpoints/reasoning

A beam as wide as the catalogue is exact: it scores every item.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np

from eval.external import ItemIds
from eval.generative import Decoding, Recommender
from eval.metrics import ranks_of, values_by_rank
from eval.protocol import held_out, read_interactions

WIDTHS = (10, 20, 50)
# Branches of all users of a batch that are read at once.
BRANCHES = 4096


def main() -> None:
    """Print a line per width."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--users", type=int, default=500)
    arguments = parser.parse_args()

    ids = ItemIds.load(arguments.run / "index.json")
    cases = held_out(read_interactions(arguments.run / "interactions.parquet"), "test").sample(arguments.users, seed=0)
    decoding = Decoding(
        beams=len(ids), batch_size=1, score="vocabulary", history=20, device="cpu", chain_tokens=None,
        temperature=0.0, seed=0,
    )  # fmt: skip
    print(f"{arguments.users} users, {len(ids):,} items, ids of {len(ids.ids[0])} tokens, lists of 10")
    exact: np.ndarray | None = None
    for beams in (len(ids), *WIDTHS):
        size = max(1, min(32, BRANCHES // beams))
        recommender = Recommender(
            arguments.checkpoint, ids, dataclasses.replace(decoding, beams=beams, batch_size=size)
        )
        prompts = recommender.prompts(cases.histories)
        began = time.perf_counter()
        table = recommender.predict(prompts, cases)
        seconds = (time.perf_counter() - began) / arguments.users
        items = np.array(table["items"].to_list())
        exact = items if exact is None else exact
        found = np.mean([len(set(one) & set(other)) / len(one) for one, other in zip(exact, items, strict=True)])
        gain = values_by_rank(items.shape[1])[ranks_of(items, cases.targets)].mean(axis=0)
        print(
            f"{beams:5} beams: {found:7.2%} of the exact lists' items, {(items == exact).all(axis=1).mean():7.2%} of "
            f"the lists equal, first item equal {(items[:, 0] == exact[:, 0]).mean():7.2%}, Recall@10 {gain[2]:.4f}, "
            f"NDCG@10 {gain[4]:.4f}, {1e3 * seconds:.1f} ms per user"
        )


if __name__ == "__main__":
    main()
