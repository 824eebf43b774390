"""Checks of files, models, recipes and disk before a reproduction; each says what is there or what to do.

LLaMA-Factory and verl judge their recipes themselves, in processes of their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from gream.config import read_yaml
from gream.errors import GreamError
from gream.files import read_json
from gream.footprint import GB, Shape

from ..pretrained.base import open_base
from ..readers.formats import Format, check_format
from .cost import PAPER, SHAPE, Counts, Rows, disk_bytes
from .jobs import Job, read_job


@dataclass(frozen=True)
class Check:
    """One line of the result.

    Attributes:
        part: What was looked at.
        said: What is there, or what is wrong and what to do.
        good: Whether it will do.
    """

    part: str
    said: str
    good: bool = True


def check_data(
    reviews: Path, metadata: Path, name: Format, layouts: Sequence[str], source: str, base: Path | None
) -> Check:
    """The two files of the data set, and whether they hold what their format says.

    Args:
        reviews: First file.
        metadata: Second file.
        name: Of the format.
        layouts: Pairs of files that would do, in words.
        source: Who publishes them.
        base: Pretrained model, if any: it is taught what items are by their texts.
    """
    if not (reviews.is_file() and metadata.is_file()):
        wanted = f"holds neither {', nor '.join(layouts)}, plain, .gz or .zst" if layouts else "lacks the two files"
        said = "; ".join(
            part for part in (f"{reviews.parent}: {wanted}", source, "name their folder with --raw") if part
        )
        return Check("data", said, good=False)
    try:
        for path in (reviews, metadata):
            check_format(path, name)
    except GreamError as error:
        return Check("data", str(error), good=False)
    if base and ".item2id" in metadata.name:
        return Check("data", f"{metadata}: holds no texts to make semantic ids of; take the raw dump", good=False)
    return Check("data", f"{name}: {reviews}, {metadata}")


def check_base(base: Path) -> tuple[Check, Shape, float]:
    """The language model's folder, its shape and parameters, or those of the paper's where it will not do."""
    try:
        opened, shape = open_base(base), shape_of(base)
    except GreamError as error:
        said = f"{error} (the paper's is Qwen3-4B-Instruct-2507)"
        return Check("base model", said, good=False), SHAPE, SHAPE.parameters
    said = "; ".join((f"{base}: {opened.parameters / 1e6:,.1f} million parameters", *opened.notes))
    return Check("base model", said), shape, opened.parameters


def shape_of(base: Path) -> Shape:
    """The shape of a model folder.

    Raises:
        GreamError: Its config.json cannot be read, or is of no decoder of this kind.
    """
    path = base / "config.json"
    config = read_json(path, remedy="fetch it again")
    if not isinstance(config, dict):
        raise GreamError(f"{path}: no JSON object; fetch it again")
    try:
        return Shape.of(config)
    except KeyError as error:
        raise GreamError(f"{path}: names no {error.args[0]}; take a decoder such as Qwen3") from None


def check_recipes(
    sft: Sequence[Path], sft_settings: Sequence[str], rl: Path, rl_settings: Sequence[str]
) -> tuple[list[Check], Job | None]:
    """What both frameworks say of their recipes, and verl's configuration where it has one."""
    parse = [sys.executable, "-m", "gream", "check", *map(str, sft), *sft_settings]
    compose = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-dir", str(rl.parent), "--config-name", rl.stem]
    with ThreadPoolExecutor() as pool:
        parsed, composed = pool.map(_run, (parse, [*compose, "--cfg", "job", "--resolve", *rl_settings]))
    if parsed.returncode == 0:
        checks = [Check("SFT recipes", f"{', '.join(map(str, sft))}: LLaMA-Factory's parser accepts them")]
    else:
        said = parsed.stderr.strip().splitlines() or ["gream check failed"]
        checks = [Check("SFT recipes", said[-1].removeprefix("error: "), good=False)]
    if composed.returncode == 0:
        return [*checks, Check("RL recipe", f"{rl}: verl composes it")], read_job(yaml.safe_load(composed.stdout))
    # Behind the warnings of imports, Hydra says what is wrong first and how to see more last.
    said = [line for line in composed.stderr.splitlines() if line.strip() and "warn" not in line.lower()]
    return [*checks, Check("RL recipe", f"{rl}: {said[0] if said else 'verl refuses it'}", good=False)], None


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # Where it runs does not matter, so that no GPU is touched.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def check_disk(run: Path, sft: Sequence[Path], parameters: float, job: Job | None, *, pretrained: bool) -> Check:
    """Room where the run folder is, for what it does not hold yet."""
    held = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) if run.exists() else 0
    checkpoints = sum(read_yaml(recipe).get("save_total_limit", 1) for recipe in sft)
    checkpoints += (job.srpo if job else PAPER).checkpoints
    needed = max(0, disk_bytes(parameters, checkpoints, pretrained=pretrained) - held)
    where = next(folder for folder in (run, *run.resolve().parents) if folder.exists())
    free = shutil.disk_usage(where).free
    said = f"{free / GB:,.0f} GB free at {where}, {needed / GB:,.0f} GB needed"
    good = free >= needed
    return Check("disk", said if good else f"{said}; make room, or make {run} a link to another disk", good=good)


def counted(run: Path) -> Counts | None:
    """Size of the data set, where the stage 'interactions' has counted it."""
    statistics = _statistics(run / "statistics.json")
    if statistics is None:
        return None
    targets = statistics["training_targets"]["at_position_4_or_later"]
    return Counts(statistics["users"], statistics["items"], statistics["interactions"], targets)


def counted_rows(run: Path) -> Rows | None:
    """Rows of SFT, where the stage 'sft' has written them."""
    statistics = _statistics(run / "sft" / "statistics.json")
    if statistics is None:
        return None
    alignment = sum(statistics["alignment"].values())
    return Rows(alignment, statistics["reasoning"], statistics["alignment_rows_mixed_in"])


def _statistics(path: Path) -> dict[str, Any] | None:
    return read_json(path, remedy="remove it, and run the stage that makes it again") if path.exists() else None
