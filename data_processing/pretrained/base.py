"""A pretrained model's folder, examined before anything is made of it: what would train wrongly is refused.

Rendering must come back from tokens as it was, chat markers must be one token each, and weights must be whole. What can
be set right (the end of a turn as the end of an answer, chat markers that a base model lacks) is, and is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gream.dialogue import CHAT_TEMPLATE, render_prompt
from gream.engine.checkpoint import count_parameters, load_model, load_tokenizer
from gream.errors import GreamError, shown

START, END = "<|im_start|>", "<|im_end|>"
GET = "'gream model get smollm2' fetches a small one"
# Something of what texts hold: digits, marks, blank lines, several spaces, other scripts, a sign of four bytes.
_SAMPLE = render_prompt(
    [
        {"role": "system", "content": "You recommend items."},
        {
            "role": "user",
            "content": "Caf\u00e9 table, 24\u00d736 in.  (oak)\n\nIt's 5/5 \u2013 \u6728\u88fd \U0001f600\tok",
        },
    ]
)


@dataclass(frozen=True)
class Base:
    """A pretrained model that can be extended.

    Attributes:
        folder: Where it lies.
        parameters: Their number.
        tokenizer: Of transformers, with both chat markers, `CHAT_TEMPLATE`, and ``<|im_end|>`` as the end.
        tokens: Tokens that it came with; rows from there on are padding or new.
        notes: What was set right, each in a few words.
    """

    folder: Path
    parameters: int
    tokenizer: Any
    tokens: int
    notes: tuple[str, ...]


def open_base(folder: Path) -> Base:
    """Examine a model's folder; its weights are looked at and not loaded.

    Args:
        folder: As transformers saves it.

    Raises:
        GreamError: It is not there, is incomplete, or its tokenizer would train wrongly.
    """
    if not folder.is_dir():
        raise GreamError(f"{folder}: no such folder; --base takes a folder, and nothing is downloaded: {GET}")
    remedy = f"name a model's transformers folder: {GET}"
    if not any(folder.glob("*.safetensors*")):
        if any(folder.glob("*.gguf")):
            raise GreamError(f"{folder}: holds a .gguf alone; take the model's transformers folder: {GET}")
        if not (folder / "config.json").is_file():
            raise GreamError(f"{folder}: no config.json and *.safetensors there; {remedy}")
    parameters = count_parameters(folder, remedy)
    tokenizer = load_tokenizer(folder)
    tokens, known, notes = len(tokenizer), tokenizer.get_vocab(), []
    for marker in (START, END):
        if marker in known and (cut := tokenizer.tokenize(marker, add_special_tokens=False)) != [marker]:
            raise GreamError(
                f"{folder}: its tokenizer knows {marker} and yet cuts it into {len(cut)} tokens; mend "
                "tokenizer.json, or take a model with ChatML markers, such as Qwen3"
            )
    if lacking := [marker for marker in (START, END) if marker not in known]:
        tokenizer.add_tokens(lacking, special_tokens=True)
        notes.append(f"{' and '.join(lacking)} added as new tokens, for it has none")
    if tokenizer.eos_token != END:
        notes.append(f"end of an answer is {END} in place of {tokenizer.eos_token}")
        tokenizer.eos_token = END
    tokenizer.chat_template = CHAT_TEMPLATE
    _insist_on_what_comes_back(folder, tokenizer)
    return Base(folder, parameters, tokenizer, tokens, tuple(notes))


def load_weights(base: Base) -> Any:
    """The model of transformers, in the type that its weights have.

    Raises:
        GreamError: See `load_model`.
    """
    return load_model(base.folder, dtype="auto")


def _insist_on_what_comes_back(folder: Path, tokenizer: Any) -> None:
    ids = tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"]
    if (usual := tokenizer(_SAMPLE)["input_ids"]) != ids:
        added = next(own for own, token in zip(usual, [*ids, None], strict=False) if own != token)
        raise GreamError(
            f"{folder}: its tokenizer adds {shown(tokenizer.convert_ids_to_tokens(added))} to every text, as no prompt "
            "here does; take a model with ChatML markers, such as Qwen3"
        )
    back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back != _SAMPLE:
        place = next((at for at, pair in enumerate(zip(back, _SAMPLE, strict=False)) if pair[0] != pair[1]), 0)
        said, came = (shown(text[place : place + 20]) for text in (_SAMPLE, back))
        raise GreamError(
            f"{folder}: its tokenizer does not give texts back as they were ({said} comes back as {came}); take one "
            "with a byte-level vocabulary, such as Qwen3"
        )
