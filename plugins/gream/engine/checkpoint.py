"""A model folder in Hugging Face format: what is in it, and how it is loaded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gream.engine.settings import Device
from gream.errors import GreamError


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
        GreamError: The folder is no Hugging Face checkpoint.
    """
    for wanted in ("config.json", "*.safetensors", "tokenizer.json"):
        if not any(checkpoint.glob(wanted)):
            raise GreamError(
                f"{checkpoint}: no {wanted}; name a folder in Hugging Face format "
                "(a verl checkpoint is turned into one by verl.model_merger)"
            )
    kinds = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab.json", "merges.txt")
    return sorted({path for kind in kinds for path in checkpoint.glob(kind)})


def load_weights(checkpoint: Path, device: str) -> Any:
    """The model of a folder, in evaluation mode on "cpu" or "cuda"."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bar over weights would stand where the one over users begins
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint,
        # Explicit: float32 where the processor has nothing faster, and the usual training type on a GPU.
        dtype=torch.float32 if device == "cpu" else torch.bfloat16,
        attn_implementation="sdpa",
        local_files_only=True,
    )
    return model.to(device).eval()


def load_tokenizer(checkpoint: Path) -> Any:
    """The tokenizer of a folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)


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
