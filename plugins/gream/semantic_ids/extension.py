"""Teach a tokenizer and a model the tokens of a catalog: normal added tokens, rows written by token id, one rule.

Normal and not special tokens: special ones vanish when text is decoded and some frameworks stop at them. Rows are
addressed by token id and never by "the last n rows", because embedding matrices are padded (Qwen3: 151,936 rows for
151,669 tokens) and new tokens then fall on padding rows that already exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gream.errors import GreamError


def add_id_tokens(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Add semantic-id tokens to a transformers tokenizer.

    Returns:
        The token id of each, in the order given.

    Raises:
        GreamError: A token is not encoded as itself afterwards.
    """
    tokenizer.add_tokens(list(tokens), special_tokens=False)
    ids: list[int] = tokenizer.convert_tokens_to_ids(list(tokens))
    encoded = tokenizer("".join(tokens), add_special_tokens=False)["input_ids"]
    if encoded != ids:
        raise GreamError("the tokenizer does not encode semantic-id tokens as single tokens; use a fast tokenizer")
    return ids


def id_token_ids(tokenizer: Any, ids: Sequence[Sequence[str]]) -> list[list[int]]:
    """Token ids of each semantic id.

    Args:
        tokenizer: A tokenizer that knows the tokens.
        ids: Tokens of each item (`Catalog.ids`).

    Raises:
        GreamError: The tokenizer lacks a token: it belongs to another catalog.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    try:
        return [[vocabulary[token] for token in tokens] for tokens in ids]
    except KeyError as error:
        raise GreamError(
            f"the tokenizer does not know {error}; use the model that was extended with this catalog's index.json"
        ) from None


def write_rows(model: Any, token_ids: Sequence[int], old_size: int, *, seed: int) -> None:
    """Give new tokens their rows: draws from a Gaussian fitted, per dimension, to the rows of the old tokens.

    The input embedding and, where it is not tied to it, the LM head are each written by the same rule.

    Args:
        model: A transformers causal language model; its embedding is enlarged where it has too few rows.
        token_ids: Rows to write.
        old_size: Number of tokens before the extension; rows from here on are padding or new and are not fitted to.
        seed: Fixes the draws.
    """
    import torch

    needed = max(token_ids) + 1
    if model.get_input_embeddings().weight.shape[0] < needed:
        model.resize_token_embeddings(needed, mean_resizing=False)
    head = model.get_output_embeddings().weight
    embedding = model.get_input_embeddings().weight
    rows = torch.tensor(list(token_ids))
    for weight in [embedding] if head is embedding else [embedding, head]:
        generator = torch.Generator().manual_seed(seed)
        old = weight.detach()[:old_size].float().cpu()
        draws = torch.randn(len(rows), old.shape[1], generator=generator) * old.std(dim=0) + old.mean(dim=0)
        with torch.no_grad():
            weight[rows.to(weight.device)] = draws.to(weight)
