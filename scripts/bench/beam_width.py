"""How close narrow beams come to ranking the whole catalogue, on a run's model, users and ids.

    PYTHONPATH=. python scripts/bench/beam_width.py --run RUN --checkpoint RUN/checkpoints/reasoning

A beam as wide as the catalogue is exact: it scores every item.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from gream.engine.checkpoint import load_weights
from gream.engine.engine import Engine
from gream.engine.local import LocalModel
from gream.engine.settings import Settings
from gream.protocol import held_out, read_interactions
from gream.semantic_ids.item_ids import ItemIds

from eval.metrics import ranks_of, values_by_rank

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

    index = arguments.run / "index.json"
    ids = ItemIds.load(index)
    cases = held_out(read_interactions(arguments.run / "interactions.parquet"), "test").sample(arguments.users, seed=0)
    weights = load_weights(arguments.checkpoint, "cpu")
    print(f"{arguments.users} users, {len(ids):,} items, ids of {len(ids.ids[0])} tokens, lists of 10")
    exact: np.ndarray | None = None
    for beams in (len(ids), *WIDTHS):
        model = LocalModel(weights, max(1, min(32, BRANCHES // beams)))
        engine = Engine.open(model, arguments.checkpoint, index, Settings(beams=beams))
        queries = engine.queries(cases.histories)
        began = time.perf_counter()
        items = np.array([answer.items for answer in engine.answer(queries)])
        seconds = (time.perf_counter() - began) / arguments.users
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
