"""``llamafactory-gream inspect``: rows of a recipe as the model sees them.

LLaMA-Factory itself loads, renders, tokenizes and cuts the rows; nothing here knows a template.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from gream.assembly import IGNORE
from gream.config import read_yaml
from gream.errors import GreamError
from gream.files import read_json
from rich.console import Console
from rich.text import Text

from llamafactory_gream.registration import register

# LLaMA-Factory's own.
_CUTOFF = 2048
_PROMPT, _ANSWER = "dim", "bold green"


def inspect(recipe: Path, overrides: Sequence[str], first: int, count: int, console: Console) -> None:
    """Print rows ``first`` to ``first + count - 1`` of a recipe's training data, tokens coloured by loss mask.

    Args:
        recipe: YAML file of LLaMA-Factory.
        overrides: ``key=value`` strings that win over it.
        first: From 0, in the order of the files.
        count: Rows to print.
        console: Where to print.

    Raises:
        GreamError: The recipe cannot be read, LLaMA-Factory refuses it, or there is no such row.
    """
    warn_of_cuts(recipe, overrides)
    tokenizer, rows = _load(recipe, overrides, first + count)
    if first >= len(rows):
        raise GreamError(f"{recipe}: row {first} does not exist; there are {len(rows)}, counted from 0")
    for number in range(first, min(first + count, len(rows))):
        row = rows[number]
        trained = sum(label != IGNORE for label in row["labels"])
        console.rule(f"row {number}: {len(row['input_ids'])} tokens, loss on {trained}", align="left")
        console.print(coloured(tokenizer, row["input_ids"], row["labels"]), soft_wrap=True)


def coloured(tokenizer: Any, tokens: Sequence[int], labels: Sequence[int]) -> Text:
    """The text of a row: bold green where there is loss, dim elsewhere; ids and chat markers readable."""
    text = Text()
    pairs = zip(tokens, (label != IGNORE for label in labels), strict=True)
    for trained, run in groupby(pairs, key=lambda pair: pair[1]):
        text.append(tokenizer.decode([token for token, _ in run]), style=_ANSWER if trained else _PROMPT)
    return text


def check(recipe: Path, overrides: Sequence[str]) -> None:
    """Have LLaMA-Factory's own parser read a recipe; no data, model or GPU is needed.

    Args:
        recipe: YAML file of LLaMA-Factory.
        overrides: ``key=value`` strings that win over it.

    Raises:
        GreamError: The recipe, or the DeepSpeed file it names, cannot be read, or LLaMA-Factory refuses it.
    """
    warn_of_cuts(recipe, overrides)
    settings = _settings(recipe, overrides)
    if isinstance(deepspeed := settings.get("deepspeed"), str):
        read_yaml(Path(deepspeed))  # JSON is YAML
    _parsed(recipe, settings)


def warn_of_cuts(recipe: Path, overrides: Sequence[str]) -> None:
    """Say on standard error where rows may be longer than what LLaMA-Factory keeps of them, answers not excepted."""
    settings = _settings(recipe, overrides)
    statistics = Path(settings.get("dataset_dir", "data")) / "statistics.json"
    if settings.get("tokenized_path") or not statistics.exists():
        return
    longest = read_json(statistics, remedy="run the stage 'sft' again").get("longest_row", 0)
    if (cutoff := settings.get("cutoff_len", _CUTOFF)) < longest:
        print(
            f"warning: {recipe}: cutoff_len {cutoff}, but the rows in {statistics.parent} were made for {longest} "
            "tokens: longer ones lose their question or their answer; raise cutoff_len, or make them again with "
            f"sft.longest_row={cutoff}",
            file=sys.stderr,
            flush=True,
        )


def _settings(recipe: Path, overrides: Sequence[str]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return {**read_yaml(recipe), **OmegaConf.to_container(OmegaConf.from_cli(list(overrides)))}


def _parsed(recipe: Path, settings: dict[str, Any]) -> tuple[Any, ...]:
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")
    register()
    from llamafactory.hparams import get_train_args

    # What concerns the machine and not the recipe, so that one for GPUs can be read on any.
    settings = {**settings, "use_cpu": True, "bf16": False, "report_to": "none"}
    for name in ("deepspeed", "enable_liger_kernel"):
        settings.pop(name, None)
    try:
        return get_train_args(settings)
    except (ValueError, TypeError, AssertionError, ImportError, OSError) as error:
        raise GreamError(f"{recipe}: LLaMA-Factory refuses it ({str(error).splitlines()[0]})") from None


def _load(recipe: Path, overrides: Sequence[str], needed: int) -> tuple[Any, Any]:
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")
    import datasets
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.model import load_tokenizer

    datasets.disable_progress_bars()
    settings = {**_settings(recipe, overrides), "max_samples": needed}
    # It prints an example of its own.
    with contextlib.redirect_stdout(io.StringIO()):
        model, data, training, _, _ = _parsed(recipe, settings)
        try:
            parts = load_tokenizer(model)
            template = get_template_and_fix_tokenizer(parts["tokenizer"], data)
            dataset = get_dataset(template, model, data, training, stage="sft", **parts)
        except (ValueError, OSError) as error:
            raise GreamError(f"{recipe}: LLaMA-Factory cannot load it ({str(error).splitlines()[0]})") from None
    return parts["tokenizer"], dataset["train_dataset"]
