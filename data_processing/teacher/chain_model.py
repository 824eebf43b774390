"""Stage ``chains``: chains of reasoning by a language model, through an OpenAI-compatible endpoint."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gream.files import write_json, write_jsonl
from gream.stage import Summary

from ..config import RlConfig, SftConfig, TeacherConfig
from ..tables import Item
from .chain_prompts import ask_chain, chain_reader
from .chains import TEMPLATE, Chain, Place, places
from .client import Endpoint
from .denoise import Denoiser
from .enrich import Material, read_material
from .enrich_model import settle
from .filters import Titles
from .labels import labelled
from .questions import Question
from .template import argue, usual_successors


def write_chains(
    config: TeacherConfig,
    endpoint: Endpoint,
    sft: SftConfig,
    rl: RlConfig,
    seed: int,
    *,
    interactions: Path,
    items: Path,
    folder: Path,
    out: Path,
) -> Summary:
    """Write ``chains.jsonl``: user, position, stages, and the numbers of the items that its history keeps.

    Args:
        config: See `TeacherConfig`.
        endpoint: Where to ask.
        sft: Says which targets want a chain, and how long it may be.
        rl: Says which training items are reserved.
        seed: Draws the targets, where not all are asked for, and the template teacher's words.
        interactions: ``interactions.parquet``.
        items: ``items.parquet``.
        folder: Keeps journals and statistics between starts; see `settle`.
        out: Folder of the output.

    Raises:
        GreamError: See `settle`.
    """
    material = read_material(rl, seed, interactions, items)
    known = labelled(material.catalogue)
    titles = Titles(known)
    asked = places(material.sequences, sft.reasoning_min_history)
    if sft.chain_targets and sft.chain_targets < len(asked):
        asked = sorted(random.Random(f"{seed} chains").sample(asked, sft.chain_targets))
    questions = {
        place: Question(
            {"kind": "chain", **place._asdict()},
            ask_chain(*_around(material, material.catalogue, place, sft.history)),
            chain_reader(*_around(material, known, place, sft.history), titles, sft.longest_chain),
        )
        for place in asked
    }
    settled = settle("chains", config, endpoint, questions, folder)

    chains: dict[Place, Chain] = {}
    denoiser = Denoiser(known)
    unmarked = 0
    for place, answer in settled.answers.items():
        history, _ = _around(material, known, place, sft.history)
        kept = tuple(map(int, answer["kept"].split()))
        if len(kept) == len(history):
            unmarked += 1
            kept = denoiser.supported(history, f"{answer['evidence']} {answer['preference']}")
        chains[place] = Chain(
            answer["evidence"],
            answer["preference"],
            answer["intent"],
            answer["recommendation"],
            kept,
            _window(material, place, sft.history),
            endpoint.model,
        )
    chains |= _by_template(material, known, settled.rejected, sft.history, seed)
    rows = [{**place._asdict(), **asdict(chains[place])} for place in asked if place in chains]
    write_jsonl(out / "chains.jsonl", rows)
    write_json(
        folder / "denoised.json",
        {"chains": len(rows), "by_its_marks": len(settled.answers) - unmarked, "by_similarity": unmarked},
    )
    return Summary(
        f"{len(rows):,} chains for {settled.count:,} targets, "
        f"{len(rows) - len(settled.answers):,} of them by the template teacher"
    )


def _window(material: Material, place: Place, longest: int) -> tuple[int, ...]:
    """Numbers of the history's items and of the target."""
    return tuple(material.sequences[place.user][max(0, place.position - longest) : place.position + 1])


def _around(material: Material, catalogue: Sequence[Item], place: Place, longest: int) -> tuple[list[Item], Item]:
    """History and target of a place."""
    *history, target = (catalogue[item] for item in _window(material, place, longest))
    return history, target


def _by_template(
    material: Material, known: Sequence[Item], rejected: Sequence[Place], longest: int, seed: int
) -> dict[Place, Chain]:
    """What the template teacher argues in place of the language model, where the history supports the target."""
    successors = usual_successors([[known[item] for item in sequence] for sequence in material.sequences.values()])
    random_ = random.Random(f"{seed} rejected chains")
    chains = {}
    for place in rejected:
        history, target = _around(material, known, place, longest)
        names = [f"[{number}]" for number in range(1, len(history) + 1)]
        answer = argue(history, target, names, "[next]", successors, random_)
        if answer is not None:
            kept = tuple(names.index(name) + 1 for name in answer.history)
            chains[place] = Chain(
                answer.evidence,
                answer.preference,
                answer.intent,
                answer.recommendation,
                kept,
                _window(material, place, longest),
                TEMPLATE,
            )
    return chains
