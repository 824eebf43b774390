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


def texts_under(tokens: Sequence[str], ids: Sequence[Sequence[str]], texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each of ``tokens`` what the texts of the items under it consist of, item after item, for `write_rows`.

    Args:
        tokens: Semantic-id tokens.
        ids: Tokens of each item.
        texts: Old tokens of each item's text.
    """
    under: dict[str, list[int]] = {token: [] for token in tokens}
    for item, text in zip(ids, texts, strict=True):
        for token in item:
            if token in under:
                under[token] += text
    return list(under.values())


def write_rows(
    model: Any,
    token_ids: Sequence[int],
    old_size: int,
    *,
    seed: int,
    texts: Sequence[Sequence[int]] | None = None,
) -> None:
    """Give new tokens their rows, in the input embedding and, where it is not tied to it, in the LM head alike.

    Args:
        model: A transformers causal language model; its embedding is enlarged where it has too few rows.
        token_ids: Rows to write.
        old_size: Number of tokens before the extension; rows from here on are padding or new and are not read.
        seed: Fixes the draws.
        texts: For each of ``token_ids`` the old tokens of the text it stands for: its row becomes the mean of theirs.
            Without texts, and for an empty one, a row is drawn from a Gaussian fitted, per dimension, to the old rows.

    Raises:
        GreamError: ``texts`` and ``token_ids`` differ in number, or a row to write, or a text's token, is on the wrong
            side of ``old_size``.
    """
    import torch

    if texts is not None and len(texts) != len(token_ids):
        raise GreamError(f"{len(texts)} texts for {len(token_ids)} new tokens; one each is needed")
    if min(token_ids) < old_size or max((max(text, default=0) for text in texts or ()), default=0) >= old_size:
        raise GreamError(f"rows below {old_size} are old and are read, rows from there on are new and are written")
    needed = max(token_ids) + 1
    if model.get_input_embeddings().weight.shape[0] < needed:
        model.resize_token_embeddings(needed, mean_resizing=False)
    head = model.get_output_embeddings().weight
    embedding = model.get_input_embeddings().weight
    for weight in [embedding] if head is embedding else [embedding, head]:
        generator = torch.Generator().manual_seed(seed)
        old = weight.detach()[:old_size].float().cpu()
        rows = torch.randn(len(token_ids), old.shape[1], generator=generator) * old.std(dim=0) + old.mean(dim=0)
        for row, text in enumerate(texts or ()):
            if text:
                tokens, counts = torch.unique(torch.tensor(list(text)), return_counts=True)
                rows[row] = counts.float() @ old[tokens] / len(text)
        with torch.no_grad():
            weight[torch.tensor(list(token_ids), device=weight.device)] = rows.to(weight)
