"""What a model was made to be asked with, written beside it: ids, form and wording of the prompt, the history's window.

It is the key ``gream`` of the model's ``config.json``. Transformers keeps it when it loads and saves a model, so that
LLaMA-Factory and verl carry it along by themselves (tests train with both). Whoever loads a model obeys it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from gream.config import Config, parse_config
from gream.dialogue import Form, direct_text, reasoning_prompt, render_prompt
from gream.engine.settings import Mode, Settings
from gream.errors import GreamError
from gream.files import read_json

KEY = "gream"


class Contract(Config):
    """See the module.

    Attributes:
        ids: Digest of the items' ids, see `ids_digest`.
        form: Of the direct prompt.
        history: Most recent items in a prompt.
        prompts: Version of the prompts' wording, see `prompt_version`.
        rows: Digest of the training rows; None where they are not known.
        fitted: Interactions whose items are among them: those of the training part, or all but the test items.
    """

    ids: str
    form: Form
    history: PositiveInt
    prompts: str
    rows: str | None = None
    fitted: Literal["train", "train+valid"] = "train"

    def check_ids(self, ids: Sequence[Sequence[str]], model: Path, source: Path) -> None:
        """Refuse items that are not those of the model.

        Args:
            ids: Tokens of each item.
            model: The model's folder, for the error line.
            source: Where the ids are from, likewise.

        Raises:
            GreamError: The ids differ.
        """
        if self.ids != ids_digest(ids):
            raise GreamError(
                f"{model}: was trained on other semantic ids than those of {source}; "
                "name the index.json and the model of one run"
            )


def ids_digest(ids: Sequence[Sequence[str]]) -> str:
    """Digest of the tokens of each item, in the order of the items; how their file is written does not matter."""
    return _digest(json.dumps([list(tokens) for tokens in ids], ensure_ascii=False))


def prompt_version(form: Form) -> str:
    """Digest of the prompts as they are rendered: another wording is another version."""
    history = ["<first>", "<last>"]
    return _digest(f"{direct_text(history, form)}\0{render_prompt(reasoning_prompt(history))}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_contract(model: Path) -> Contract | None:
    """The contract of a model; None where it has none, as one that was trained elsewhere.

    Args:
        model: Folder in Hugging Face format.

    Raises:
        GreamError: ``config.json`` cannot be read, or the contract in it is broken.
    """
    path = model / "config.json"
    config = read_json(path, remedy="name the folder of a whole model")
    raw = config.get(KEY) if isinstance(config, dict) else None
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise GreamError(f"{path}: key '{KEY}' is no object; make the model again")
    return parse_config(Contract, raw, source=f"{path}, {KEY}")


def settle(settings: Settings, model: Path, *, own_prompt: bool = True) -> Settings:
    """``settings`` with the form and the window that the model was trained on.

    Args:
        settings: As asked for; what is left open comes from the contract.
        model: Folder of the model.
        own_prompt: Whether it is asked with this project's prompts, and not with a text file.

    Raises:
        GreamError: The contract says otherwise, or there is none and something is left open.
    """
    contract = read_contract(model)
    if contract is None:
        if settings.history is None:
            raise GreamError(f"{model}: does not say how many items its prompts showed in training; name --history")
        if settings.form is None and settings.mode is Mode.direct and own_prompt:
            forms = ", ".join(Form)
            raise GreamError(f"{model}: does not say which prompt it was trained on; name --form ({forms}) or --prompt")
        return settings
    if not own_prompt:
        raise GreamError(f"{model}: was trained on this project's prompts; leave --prompt out")
    for name in ("history", "form"):
        asked, trained = getattr(settings, name), getattr(contract, name)
        if asked is not None and asked != trained:
            raise GreamError(f"{model}: was trained with --{name} {trained}, not {asked}; leave --{name} out")
    if contract.prompts != (current := prompt_version(contract.form)):
        raise GreamError(
            f"{model}: was trained on prompts of version {contract.prompts}, and this code asks with {current}; "
            "train it again, or ask with the code that made it"
        )
    return replace(settings, history=contract.history, form=contract.form)
