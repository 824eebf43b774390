"""Stage ``embed``: one vector per item, of its text and, if wanted, of what it is bought with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gream.errors import GreamError
from gream.files import write_atomically
from gream.hashing import sha256_of
from gream.stage import Summary

from .config import EmbedConfig, RlConfig
from .encoders import note_model, read_note
from .encoders.collaborative import CollaborativeEncoder, fuse, positive_information
from .encoders.lsa import LsaEncoder
from .encoders.parts import Job, join_parts, read_catalogue
from .encoders.ranks import encode_in_ranks
from .rows.reserve import without_reserved
from .tables import read_item_ids, read_training_sequences

# More items than this share whose vectors coincide are worth a warning.
LARGEST_SHARE_ALIKE = 0.05
ENCODER, COLLABORATIVE = "encoder.safetensors", "collaborative.safetensors"


def encoder_files(config: EmbedConfig) -> list[str]:
    """What the stage writes to encode later items with, and reads in a later run's ``--previous``."""
    return [*([ENCODER] if config.reads_texts else []), *([COLLABORATIVE] if config.collaborative else [])]


def model_folder(config: EmbedConfig) -> Path | None:
    """Folder of the pretrained model, where the encoder is one.

    Raises:
        GreamError: There is no such folder, or it holds no model.
    """
    if config.model is not None and not any(
        (config.model / name).is_file() for name in ("config.json", "modules.json")
    ):
        raise GreamError(
            f"{config.model}: no model folder (it has no config.json); download one and name it: embed.model"
        )
    return config.model


def embed(
    config: EmbedConfig,
    rl: RlConfig,
    seed: int,
    *,
    items: Path,
    enriched: Path,
    interactions: Path,
    previous: Path | None,
    ray: str | None,
    out: Path,
) -> Summary:
    """Write ``embeddings.safetensors``, float32 ``[n, d]`` under "embeddings", and the encoders.

    What a killed process left in ``out`` is gone on with.

    Args:
        config: Settings.
        rl: Says which training interactions are reserved, and so unknown here.
        seed: Of the randomised SVD, and of the reserved interactions.
        items: ``items.parquet``.
        enriched: ``enriched.jsonl``, the teacher's descriptions.
        interactions: ``interactions.parquet``; read for a collaborative part only.
        previous: Run folder whose encoders encode, in place of fitting some.
        ray: Address of a Ray cluster that encodes; see `encoders.cluster`.
        out: Folder written to.

    Raises:
        GreamError: The texts share no word, the model cannot be loaded, or ``previous`` does not fit the settings.
    """
    from safetensors.numpy import save_file

    parts = []
    if config.reads_texts:
        parts.append(_of_texts(config, seed, items, enriched, previous, ray, out))
    if config.collaborative:
        sequences = without_reserved(rl, seed, read_training_sequences(interactions))
        parts.append(_collaborative(config, seed, list(sequences.values()), read_item_ids(items), previous, out))
    vectors = parts[0] if len(parts) == 1 else fuse(parts[0], parts[1], config.collaborative)
    with write_atomically(out / "embeddings.safetensors") as temporary:
        save_file({"embeddings": vectors}, str(temporary))
    return _summary(vectors)


def _summary(vectors: npt.NDArray[np.float32]) -> Summary:
    """How many items there are, and how many of them nothing tells from another."""
    # A projection tells rows apart as well as all their numbers do, but for chance, in a hundredth of the memory.
    keys = np.round(vectors @ np.random.default_rng(0).normal(size=vectors.shape[1]), 9)
    _, counts = np.unique(keys, return_counts=True)
    alike, silent = int(counts[counts > 1].sum()), int((~vectors.any(axis=1)).sum())
    made = f"{len(vectors):,} items, {alike:,} of them with the vector of another, {silent:,} of which nothing is known"
    if max(alike, silent) <= LARGEST_SHARE_ALIKE * len(vectors):
        return Summary(made)
    return Summary(
        made,
        (
            f"{max(alike, silent):,} of {len(vectors):,} items cannot be told from another, and their semantic ids say "
            "little; give items texts of their own, or take embed.collaborative or a pretrained encoder",
        ),
    )


def _of_texts(
    config: EmbedConfig, seed: int, items: Path, enriched: Path, previous: Path | None, ray: str | None, out: Path
) -> npt.NDArray[np.float32]:
    catalogue = read_catalogue(items, enriched)
    encoder = out / ENCODER
    if not encoder.exists():
        if previous is not None:
            _check_previous(config, previous / ENCODER)
            with write_atomically(encoder) as temporary:
                shutil.copyfile(previous / ENCODER, temporary)
        elif config.encoder == "lsa":
            lsa = LsaEncoder.fit(catalogue, config.dimensions, seed, source=str(items))
            lsa.save(encoder)
        elif config.model is not None:
            digest = sha256_of(config.model)
            note_model(encoder, config.encoder, digest)
    parts = out / "parts"
    parts.mkdir(exist_ok=True)
    job = Job(items, enriched, encoder, config.model, config.batch_tokens, parts, len(catalogue))
    if ray is None:
        encode_in_ranks(job)
    else:
        from .encoders.cluster import encode_on_cluster

        encode_on_cluster(job, ray)
    return join_parts(job, catalogue)


def _collaborative(
    config: EmbedConfig, seed: int, sequences: list[list[int]], item_ids: list[str], previous: Path | None, out: Path
) -> npt.NDArray[np.float32]:
    information = positive_information(sequences, len(item_ids))
    if previous is None:
        encoder = CollaborativeEncoder.fit(information, item_ids, config.dimensions, config.collaborative, seed)
    else:
        encoder = CollaborativeEncoder.load(previous / COLLABORATIVE)
        if encoder.share != config.collaborative:
            raise GreamError(f"{previous / COLLABORATIVE}: of another share; set embed.collaborative={encoder.share}")
    encoder.save(out / COLLABORATIVE)
    return encoder.encode(information, item_ids)


def _check_previous(config: EmbedConfig, encoder: Path) -> None:
    kind, digest = read_note(encoder)
    if kind != config.encoder:
        raise GreamError(f"{encoder}: encodes with '{kind}'; set embed.encoder={kind}")
    if config.model is not None and digest != sha256_of(config.model):
        raise GreamError(f"{encoder}: made with another model than {config.model}; name that one: embed.model=FOLDER")
