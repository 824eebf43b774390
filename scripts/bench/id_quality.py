"""Quality of our semantic ids beside that of published ones, on published data.

    python scripts/bench/id_quality.py --data FOLDER

FOLDER holds NAME/NAME.index.json.gz and the item and interaction files beside it. Ours are made with as many levels of
256 codes as the published ids have: of the items' text (LSA), of the co-purchases in training (positive pointwise
mutual information, truncated SVD), or of both side by side. Reconstruction errors of both are of the same embeddings,
the text where there is one, with centroids refitted to each side's codes.
"""

from __future__ import annotations

import argparse
import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gream.semantic_ids.collisions import collision_groups, resolve_collisions
from gream.semantic_ids.kmeans import fit_residual_kmeans
from gream.semantic_ids.published import index_codes, read_index
from gream.semantic_ids.quality import id_quality
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import normalize

from data_processing.embed import LsaEncoder

NAMES = ("Beauty", "Instruments", "Industrial_and_Scientific")
SIZE = 256


def read(path: Path) -> Any:
    """The JSON value of a gzip'd file, or None where there is no such file."""
    return json.loads(gzip.decompress(path.read_bytes())) if path.exists() else None


def sequences_of(folder: Path, name: str) -> list[list[int]]:
    """Training part of each user's sequence: without the last two items."""
    interactions = read(folder / f"{name}.inter.json.gz")
    if interactions is None:
        lines = gzip.decompress((folder / f"{name}.sequences.jsonl.gz").read_bytes()).decode().splitlines()
        interactions = {str(number): json.loads(line)["items"] for number, line in enumerate(lines)}
    return [items[:-2] for items in interactions.values()]


def item_texts(folder: Path, name: str, n: int) -> tuple[list[str], list[str]]:
    """Text, and category or, without categories, brand of each item; empty lists where there is no text."""
    items = read(folder / f"{name}.item.json.gz")
    if items is None:
        return [], [""] * n
    texts, groups = [], []
    for number in range(n):
        item = items[str(number)]
        categories = [part for path in item["categories"] or [] for part in path]
        texts.append(f"{item['title']} {item.get('brand', '')} {' '.join(categories)} {item.get('description', '')}")
        groups.append(categories[-1] if categories else item.get("brand", ""))
    return texts, groups


def collaborative(sequences: list[list[int]], n: int, dimensions: int) -> Any:
    """Unit vectors ``[n, dimensions]`` of items that the same users bought in training; zeros for items none bought."""
    users = [user for user, items in enumerate(sequences) for _ in items]
    items = [item for items in sequences for item in items]
    bought = csr_matrix((np.ones(len(items)), (users, items)), shape=(len(sequences), n))
    together = (bought.T @ bought).tocoo()
    off = together.row != together.col
    row, column, count = together.row[off], together.col[off], together.data[off]
    popularity = np.bincount(row, weights=count, minlength=n)
    information = np.log(count * count.sum() / (popularity[row] * popularity[column]))
    keep = information > 0
    matrix = csr_matrix((information[keep], (row[keep], column[keep])), shape=(n, n))
    return normalize(TruncatedSVD(dimensions, random_state=0).fit_transform(matrix)).astype(np.float32)


def figures(report: dict[str, Any]) -> dict[str, str]:
    """The rows of the table, as text."""

    def each(rows: list[dict[str, Any]], key: str, form: str) -> str:
        return " ".join(format(row[key], form) if row.get(key) is not None else "-" for row in rows) or "-"

    levels = report["per_level"]
    return {
        "items sharing an id": str(report["collisions"]["items_sharing"]),
        "unique rate": f"{report['unique_rate']:.4f}",
        "dead codes": each(levels, "dead", "d"),
        "perplexity": each(levels, "perplexity", ".0f"),
        "Gini": each(levels, "gini", ".2f"),
        "reconstruction error": each(levels, "refit_error", ".3f"),
        "purity by prefix": each(report["purity"], "category_purity", ".3f"),
        "consecutive items sharing a prefix, %": each(
            [{"p": 100 * row["consecutive_share_prefix"]} for row in report["cooccurrence"]], "p", ".2f"
        ),
        "lift of that over chance": each(report["cooccurrence"], "lift", ".0f"),
    }


def main() -> None:
    """Print one table per data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--names", nargs="+", default=NAMES)
    arguments = parser.parse_args()
    for name in arguments.names:
        folder = arguments.data / name
        published = index_codes(read_index(folder / f"{name}.index.json.gz"))
        n, levels = published.shape
        sequences = sequences_of(folder, name)
        pairs = [pair for items in sequences for pair in pairwise(items)]
        texts, groups = item_texts(folder, name, n)
        spaces = {}
        if texts:
            spaces["text"] = LsaEncoder.fit(texts, 128, 42, source=name).encode(texts)
        spaces["co-purchases"] = collaborative(sequences, n, 128)
        if texts:
            spaces["both"] = np.concatenate([spaces["text"], spaces["co-purchases"]], axis=1)
        target = next(iter(spaces.values()))
        common = {"embeddings": target, "categories": groups, "pairs": pairs}
        table = {
            "published": {
                "sharing before resolution": "-",
                **figures(id_quality(published, (SIZE,) * levels, **common)),
            }
        }
        for space, vectors in spaces.items():
            codebook, raw = fit_residual_kmeans(vectors, (SIZE,) * levels, seed=42, restarts=2)
            codes = resolve_collisions(raw, vectors, codebook, "reassign")
            sharing = sum(map(len, collision_groups(raw).values()))
            quality = figures(id_quality(codes, (SIZE,) * levels, **common))
            table[f"ours, {space}"] = {"sharing before resolution": str(sharing), **quality}
        print(f"\n{name}, {n} items, {levels} levels\n")
        print(f"| | {' | '.join(table)} |\n|---|{'---|' * len(table)}")
        for figure in table["published"]:
            print(f"| {figure} | {' | '.join(column[figure] for column in table.values())} |", flush=True)


if __name__ == "__main__":
    main()
