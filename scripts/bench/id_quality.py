"""Quality of our semantic ids beside that of published ones, on published data.

    PYTHONPATH=. python scripts/bench/id_quality.py --data FOLDER [--model MODEL]

FOLDER holds NAME/NAME.index.json.gz and the item and interaction files beside it. Ours are made with as many levels of
256 codes as the published ids have: of the items' text (LSA), of the co-purchases in training (positive pointwise
mutual information, truncated SVD), or of both side by side; and the same with a sentence-transformers model in place
of LSA, if one is named. Reconstruction errors of all are of the same embeddings, the LSA vectors where there is text,
with centroids refitted to each side's codes.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from gream.files import read_json
from gream.semantic_ids.collisions import collision_groups, resolve_collisions
from gream.semantic_ids.kmeans import fit_residual_kmeans
from gream.semantic_ids.published import index_codes, read_index
from gream.semantic_ids.quality import id_quality

from data_processing.encoders.collaborative import CollaborativeEncoder, fuse, positive_information
from data_processing.encoders.lsa import LsaEncoder
from data_processing.encoders.sentence import SentenceEncoder
from data_processing.readers.published import read_published_sequences
from data_processing.tables import Item

NAMES = ("Beauty", "Instruments", "Industrial_and_Scientific")
SIZE = 256


def read(path: Path) -> Any:
    """The JSON value of a gzip'd file, or None where there is no such file."""
    return read_json(path, remedy="download it again") if path.exists() else None


def sequences_of(folder: Path, name: str) -> list[list[int]]:
    """Each user's sequence; the last two items are held out."""
    path = folder / f"{name}.inter.json.gz"
    sequences = read_published_sequences(path if path.exists() else folder / f"{name}.sequences.jsonl.gz")
    return list(sequences.values())


def catalogue_of(folder: Path, name: str, n: int) -> list[Item]:
    """All items, item 0 first; an empty list where there is no text. The group is the brand without categories."""
    items = read(folder / f"{name}.item.json.gz")
    catalogue = []
    for number in range(n if items else 0):
        item = items[str(number)]
        categories = tuple(part for path in item["categories"] or [] for part in path)
        brand = item.get("brand", "")
        group = categories[-1] if categories else brand
        catalogue.append(Item(item["title"], item.get("description", ""), brand, group, categories))
    return catalogue


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
    parser.add_argument("--model", type=Path, help="Folder of a sentence-transformers model.")
    parser.add_argument(
        "--held-out", action="store_true", help="Count the last two steps of each user, not those in training."
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        folder = arguments.data / name
        published = index_codes(read_index(folder / f"{name}.index.json.gz"))
        n, levels = published.shape
        whole = sequences_of(folder, name)
        sequences = [items[:-2] for items in whole]
        counted = [items[-3:] for items in whole] if arguments.held_out else sequences
        pairs = [pair for items in counted for pair in pairwise(items)]
        catalogue = catalogue_of(folder, name, n)
        numbers = [str(number) for number in range(n)]
        information = positive_information(sequences, n)
        known = CollaborativeEncoder.fit(information, numbers, 128, 0.5, 0).encode(information, numbers)
        texts = {}
        if catalogue:
            texts["text"] = LsaEncoder.fit(catalogue, 128, 42, source=name).encode(catalogue)
        if catalogue and arguments.model:
            start = time.perf_counter()
            texts["model"] = SentenceEncoder(arguments.model).encode(catalogue)
            print(f"{name}: {arguments.model.name} took {time.perf_counter() - start:.0f} s", flush=True)
        spaces = {**texts, "co-purchases": known}
        for text, vectors in texts.items():
            spaces[f"{text} and co-purchases"] = fuse(vectors, known, 0.5)
        target = next(iter(spaces.values()))
        common = {"embeddings": target, "categories": [item.category for item in catalogue], "pairs": pairs}
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
