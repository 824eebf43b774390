"""A catalogue encoded part by part: what is on disk is never encoded again, and who encodes a part does not matter.

Parts are cut from the catalogue in the order of its texts' lengths, so that models pad little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gream.errors import GreamError
from gream.files import read_jsonl, write_atomically
from gream.progress import progress_bar
from tqdm import tqdm

from ..tables import Item, read_items
from . import open_encoder

# A killed process loses so many items' work at most. Parts are batched each for itself, so that a part has the same
# bytes whatever was encoded before it.
PART_ITEMS = 512


@dataclass(frozen=True)
class Job:
    """All that a process needs to encode parts of a catalogue; the paths are the same on every machine.

    Attributes:
        items: ``items.parquet``.
        enriched: ``enriched.jsonl``.
        encoder: Encoder file.
        model: Folder of the pretrained model, where the encoder is one.
        batch_tokens: See `open_encoder`.
        folder: Where parts are written.
        count: Items in the catalogue.
    """

    items: Path
    enriched: Path
    encoder: Path
    model: Path | None
    batch_tokens: int
    folder: Path
    count: int

    def part(self, number: int) -> Path:
        """File of a part."""
        return self.folder / f"{number:06d}.safetensors"

    def missing(self) -> list[int]:
        """Parts that are not on disk."""
        return [number for number in range(-(-self.count // PART_ITEMS)) if not self.part(number).exists()]


class PartEncoder:
    """Encodes parts of a job, with the encoder loaded once."""

    def __init__(self, job: Job) -> None:
        """Load encoder and catalogue.

        Raises:
            GreamError: See `open_encoder`.
        """
        self._job = job
        self._encoder = open_encoder(job.encoder, job.model, job.batch_tokens)
        self._catalogue = read_catalogue(job.items, job.enriched)
        self._items = items_of_parts(self._catalogue)

    def __call__(self, number: int) -> int:
        """Write a part and return how many items it has."""
        from safetensors.numpy import save_file

        rows = self._encoder.encode([self._catalogue[item] for item in self._items[number]])
        with write_atomically(self._job.part(number)) as temporary:
            save_file({"embeddings": rows}, str(temporary))
        return len(rows)


def read_catalogue(items: Path, enriched: Path) -> list[Item]:
    """All items, item 0 first, with the teacher's descriptions in place of their own.

    Raises:
        GreamError: An item has no title, or the two files are not of one catalogue.
    """
    catalogue, rows = read_items(items), read_jsonl(enriched, fields={"description": str})
    if len(rows) != len(catalogue):
        raise GreamError(f"{enriched}: {len(rows)} texts for {len(catalogue)} items; run the stage 'enrich' again")
    for number, item in enumerate(catalogue):
        if not item.title:
            raise GreamError(f"{items}: item {number} has no title; run the stage 'interactions' again")
    return [replace(item, description=row["description"]) for item, row in zip(catalogue, rows, strict=True)]


def items_of_parts(catalogue: Sequence[Item]) -> list[list[int]]:
    """Numbers of the items of each part, those with the shortest texts first."""
    order = sorted(range(len(catalogue)), key=lambda item: len(catalogue[item].title + catalogue[item].description))
    return [order[start : start + PART_ITEMS] for start in range(0, len(order), PART_ITEMS)]


def encode_parts(job: Job, parts: Sequence[int], *, show: bool = True) -> None:
    """Encode ``parts`` one after the other, with a progress bar where ``show``."""
    if not parts:
        return
    encode = PartEncoder(job)
    with progress(job, len(parts), show=show) as bar:
        for number in parts:
            bar.update(encode(number))


def progress(job: Job, parts: int, *, show: bool = True) -> tqdm:
    """A bar that counts the items of ``parts`` parts."""
    return progress_bar(min(job.count, parts * PART_ITEMS), "items", label="embed", show=show)


def join_parts(job: Job, catalogue: Sequence[Item]) -> npt.NDArray[np.float32]:
    """All parts, in the order of the catalogue, ``[count, d]``.

    Raises:
        GreamError: A part is missing, cannot be read, or has another number of items than it should.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    vectors: npt.NDArray[np.float32] | None = None
    for number, items in enumerate(items_of_parts(catalogue)):
        path = job.part(number)
        try:
            rows = load_file(str(path))["embeddings"]
        except (OSError, SafetensorError, KeyError) as error:
            raise GreamError(f"{path}: cannot be read ({error}); remove it and start again") from None
        if vectors is None:
            vectors = np.empty((len(catalogue), rows.shape[1]), dtype=np.float32)
        if rows.shape != (len(items), vectors.shape[1]):
            raise GreamError(f"{path}: {rows.shape[0]} items, {len(items)} expected; remove it and start again")
        vectors[items] = rows
    if vectors is None:
        raise GreamError(f"{job.items}: no items to embed")
    return vectors
