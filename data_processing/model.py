"""Stage ``model``: a language model that knows the catalogue's semantic ids as tokens.

Either a pretrained model is extended, or a tiny Qwen3 is made from nothing: its byte-level BPE vocabulary is trained on
the catalogue's texts and the training rows, so that it needs neither a download nor a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gream.dialogue import CHAT_TEMPLATE, Form
from gream.engine import contract
from gream.errors import GreamError
from gream.files import iterate_jsonl, read_jsonl
from gream.hashing import Hashes
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.extension import FAST_ROWS, add_id_tokens, centroid_rows, fill_up, semantic_rows, write_rows
from gream.semantic_ids.vocabulary import TOKEN_PATTERN
from gream.stage import Summary
from gream.tasks import ITEM_TEXTS, USER_TEXTS

from .config import ModelConfig, SftConfig
from .pretrained.base import Base, load_weights
from .tables import read_items

START_OF_ROWS = {
    "gaussian": "at random, like the old ones",
    "semantic": "as the words of their items",
    "centroid": "as the residual centroids of their items' words",
}


def form_of(rows: SftConfig) -> Form:
    """The form of the direct prompt that such rows teach."""
    return Form.sequence if rows.sequence and not rows.next_item else Form.question


def build_model(
    config: ModelConfig,
    rows: SftConfig,
    seed: int,
    *,
    base: Base | None,
    index: Path,
    items: Path,
    enriched: Path,
    sft: Path,
    out: Path,
) -> Summary:
    """Write ``model/``: weights, tokenizer and chat template, semantic ids added as normal tokens, and unused ones.

    Args:
        config: Shape of the tiny model, and how new tokens' rows start.
        rows: What it will be trained on, for its contract (`gream.engine.contract`).
        seed: Of its weights, and of the new tokens' rows.
        base: A pretrained causal language model to extend instead.
        index: ``index.json``.
        items: ``items.parquet``.
        enriched: ``enriched.jsonl``.
        sft: The ``sft`` folder.
        out: Folder written to.

    Returns:
        Parameters and new tokens, how these start, and what was set right in ``base``.

    Raises:
        GreamError: ``base`` cannot be loaded, or a text of an item or a user holds one of its tokens.
    """
    import transformers

    catalog = Catalog.load(index)
    if base is None:
        tokenizer, model = _tiny(config, seed, _texts(items, enriched, sft))
        old_size = len(tokenizer)
    else:
        tokenizer, model, old_size = base.tokenizer, load_weights(base), base.tokens
    _refuse_added_tokens(tokenizer, sft)
    add_id_tokens(tokenizer, catalog.tokens)
    used = len(tokenizer)
    unused = fill_up(tokenizer, model.get_input_embeddings().weight.shape[0])
    # A base that was extended before has learned the tokens it knows.
    new = {tokenizer.convert_ids_to_tokens(row): row for row in range(old_size, len(tokenizer))}
    start = config.start(pretrained=base is not None)
    if new:
        rows_of = None
        if start != "gaussian":
            texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in _item_texts(items, enriched)]
            make = semantic_rows if start == "semantic" else centroid_rows
            rows_of = partial(make, list(new), catalog.ids, texts)
        write_rows(model, list(new.values()), old_size, seed=seed, rows_of=rows_of)
    # Sampling defaults of the base would otherwise travel along and leak into beam search.
    model.generation_config = type(model.generation_config)(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    form = form_of(rows)
    agreed = contract.Contract(
        ids=contract.ids_digest(catalog.ids),
        form=form,
        history=rows.history,
        prompts=contract.prompt_version(form),
        rows=Hashes(sft.parent).of(sft),
        fitted="train+valid" if rows.refit else "train",
    )
    setattr(model.config, contract.KEY, agreed.model_dump(mode="json"))
    folder = out / "model"
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made = f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens"
    new_ones = f"{used - old_size:,} of them new, which start {START_OF_ROWS[start]}"
    filling = f"{unused} unused, for a multiple of {FAST_ROWS}"
    return Summary("; ".join((f"{made}, {new_ones}, {filling}", *(base.notes if base else ()))))


def _refuse_added_tokens(tokenizer: Any, sft: Path) -> None:
    """Hold up texts that this tokenizer reads as more than text; those of other vocabularies are gone already."""
    token = re.compile("|".join(map(re.escape, tokenizer.get_added_vocab())) or r"(?!)")
    for name, fields in (("items.jsonl", ITEM_TEXTS), ("users.jsonl", USER_TEXTS)):
        for number, row in iterate_jsonl(sft / name, fields=dict.fromkeys(fields, str)):
            if found := next(filter(None, (token.search(row[field]) for field in fields)), None):
                raise GreamError(
                    f"{sft / name}:{number}: holds {found[0]!r}, a token of its own in the model's vocabulary; take it "
                    "out of the data, or take another base model"
                )


def _item_texts(items: Path, enriched: Path) -> Iterator[str]:
    for item, row in zip(read_items(items), read_jsonl(enriched), strict=True):
        yield f"{item.title}\n{item.brand}\n{' '.join(item.categories)}\n{row['description']}"


def _texts(items: Path, enriched: Path, sft: Path) -> Iterator[str]:
    yield from _item_texts(items, enriched)
    # There is no data set of chains where no history gave reason to one.
    for path in filter(Path.exists, (sft / "alignment.jsonl", sft / "reasoning.jsonl")):
        for row in read_jsonl(path):
            for message in row["messages"]:
                yield f"{message['role']}\n{TOKEN_PATTERN.sub('', message['content'])}"


def _tiny(config: ModelConfig, seed: int, texts: Iterator[str]) -> tuple[Any, Any]:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=config.vocabulary,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=config.context,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.add_tokens(["<think>", "</think>"])  # normal tokens, as in Qwen3's own vocabulary
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=3 * config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=max(1, config.heads // 2),
            head_dim=config.hidden_size // config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return tokenizer, model
