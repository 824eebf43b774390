"""A model folder in Hugging Face format: what is in it, and how it is loaded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gream.engine.settings import Device
from gream.errors import GreamError
from gream.files import read_json

_AGAIN = "make or fetch the model again"


def resolve_device(device: Device) -> str:
    """What ``device`` stands for on this machine: "cuda" or "cpu".

    Raises:
        GreamError: "cuda" is asked for and absent.
    """
    import torch

    if device == Device.cuda and not torch.cuda.is_available():
        raise GreamError("--device cuda: torch finds no CUDA device; use --device cpu or auto")
    if device == Device.auto:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(device)


def checkpoint_files(checkpoint: Path) -> list[Path]:
    """Weights, configuration and tokenizer of a checkpoint folder, without logs and optimizer states.

    Raises:
        GreamError: The folder is no Hugging Face checkpoint, or one of its files is torn.
    """
    remedy = "name a folder in Hugging Face format (a verl checkpoint is turned into one by verl.model_merger)"
    count_parameters(checkpoint, remedy)
    if not (checkpoint / "tokenizer.json").is_file():
        raise GreamError(f"{checkpoint}: no tokenizer.json; {remedy}")
    kinds = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab.json", "merges.txt")
    return sorted({path for kind in kinds for path in checkpoint.glob(kind)})


def count_parameters(folder: Path, remedy: str) -> int:
    """Parameters of a folder's model, from the headers of its weights, which say how long the files have to be.

    Args:
        folder: As transformers saves it; its configuration and weights are examined, and not loaded.
        remedy: What to do where a file is missing.

    Raises:
        GreamError: The configuration or a file of weights is missing or torn.
    """
    config, weights = folder / "config.json", _weights(folder)
    for path in (config, weights):
        if not path.is_file():
            raise GreamError(f"{folder}: no {path.name}; {remedy}")
    if not isinstance(read_json(config, remedy=_AGAIN), dict):
        raise GreamError(f"{config}: holds no JSON object; {_AGAIN}")
    total, parts = 0, [weights]
    if weights.suffix == ".json":
        try:
            parts = sorted({folder / part for part in read_json(weights, remedy=_AGAIN)["weight_map"].values()})
        except (KeyError, TypeError, AttributeError):
            raise GreamError(f"{weights}: does not say which file holds which weight; {_AGAIN}") from None
        if lacking := [part.name for part in parts if not part.is_file()]:
            raise GreamError(
                f"{folder}: {len(lacking)} of {len(parts)} files of weights are missing, {lacking[0]} first; {_AGAIN}"
            )
    for path in parts:
        try:
            with safe_open(path, framework="np") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise GreamError(f"{path}: cut short, or no safetensors file ({error}); {_AGAIN}") from None
    return total


def load_model(folder: Path, **options: Any) -> Any:
    """The causal language model of a folder, with every weight from its files.

    Args:
        folder: As transformers saves it.
        options: More of ``from_pretrained``.

    Raises:
        GreamError: transformers does not know it as such a model, or weights and configuration are not of one model.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bar over weights would stand where the one over users begins
    logging.set_verbosity_error()  # its table of what does not fit is the one line below
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report then
            **options,
        )
    # A configuration can be wrong in ways that end anywhere in transformers.
    except Exception as error:
        raise GreamError(
            f"{folder}: cannot be loaded as a causal language model ({error}); {_AGAIN}, or take another"
        ) from error
    # transformers would start what is missing at random, and leave out what it has no place for.
    wrong = dict.fromkeys(report["missing_keys"], "is missing")
    wrong |= dict.fromkeys(report["unexpected_keys"], "has no place in it")
    wrong |= {name: f"is {list(has)}, not {list(wanted)}" for name, has, wanted in report["mismatched_keys"]}
    if wrong:
        first = next((name for name in model.state_dict() if name in wrong), min(wrong))
        raise GreamError(
            f"{_weights(folder)}: these are not the weights of the model in config.json: {first} {wrong[first]}, the "
            f"first of {len(wrong)} that do not fit; {_AGAIN}, weights and config.json together"
        )
    return model


def _weights(folder: Path) -> Path:
    """The file that transformers finds weights by: it takes a single one before an index of several."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    return index if index.is_file() and not single.is_file() else single


def load_weights(checkpoint: Path, device: str) -> Any:
    """The model of a folder, in evaluation mode on "cpu" or "cuda".

    Raises:
        GreamError: See `load_model`.
    """
    import torch

    model = load_model(
        checkpoint,
        # Explicit: float32 where the processor has nothing faster, and the usual training type on a GPU.
        dtype=torch.float32 if device == "cpu" else torch.bfloat16,
        attn_implementation="sdpa",
    )
    return model.to(device).eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder.

    Raises:
        GreamError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # A file that does not parse is an Exception of the tokenizers library and nothing more exact.
    except Exception as error:
        raise GreamError(
            f"{folder}: its tokenizer cannot be loaded ({error}); make or fetch tokenizer.json and "
            "tokenizer_config.json again"
        ) from error


def positions(checkpoint: Path) -> int:
    """Tokens that the model of a folder can hold."""
    from transformers import AutoConfig

    limit: int = AutoConfig.from_pretrained(checkpoint, local_files_only=True).max_position_embeddings
    return limit


def catalogue_token_ids(ids: Sequence[Sequence[str]], tokenizer: Any) -> list[list[int]]:
    """Token ids of each of ``ids``.

    Raises:
        GreamError: The tokenizer lacks a token.
    """
    known = tokenizer.get_vocab()
    lacking = [token for token in dict.fromkeys(itertools.chain.from_iterable(ids)) if token not in known]
    if lacking:
        raise GreamError(
            f"{tokenizer.name_or_path}: the tokenizer lacks {lacking[0]} and {len(lacking) - 1} other semantic-id "
            "tokens; train a model that was extended with this run's index.json, or name the model's own file with "
            "--index"
        )
    return [[known[token] for token in tokens] for tokens in ids]
