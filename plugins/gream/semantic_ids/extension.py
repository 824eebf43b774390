"""Teach a tokenizer and a model the tokens of a catalog: normal added tokens, rows written by token id, one rule.

Normal and not special tokens: special ones vanish when text is decoded and some frameworks stop at them. Rows are
addressed by token id and never by "the last n rows", because embedding matrices are padded (Qwen3: 151,936 rows for
151,669 tokens) and new tokens then fall on padding rows that already exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gream.errors import GreamError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = npt.NDArray[np.floating[Any]]

# Rows of a matrix that a GPU multiplies fastest: whole lines of 128 bytes in bf16 (NVIDIA, Matrix Multiplication
# Background User's Guide, table 1).
FAST_ROWS = 64


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


def fill_up(tokenizer: Any, rows: int) -> int:
    """Add unused tokens until there are as many as rows, and of these a multiple of `FAST_ROWS`.

    Rows without a token are padding, which engines treat unlike: verl's vLLM never samples one, its actor and
    transformers give it a share of every softmax. With a token of its own a row is one of many for all of them, and
    nothing is left to resize. The tokens are spelt like control tokens, which no text in a prompt has (`gream.texts`);
    no item has one, so that no trie leads to one. They are normal tokens: one that is sampled shows in the text.

    Args:
        tokenizer: Of transformers, which every other new token has been added to.
        rows: That the model's embedding has, padding among them.

    Returns:
        How many were added.
    """
    tokens = len(tokenizer)
    wanted = -(-max(tokens, rows) // FAST_ROWS) * FAST_ROWS
    unused = [f"<|unused_{token}|>" for token in range(tokens, wanted)]
    return int(tokenizer.add_tokens(unused, special_tokens=False)) if unused else 0


def semantic_rows(
    tokens: Sequence[str], ids: Sequence[Sequence[str]], texts: Sequence[Sequence[int]], old: Floats
) -> Floats:
    """For each of ``tokens`` the mean row of the words of all items that have it, for `write_rows`.

    Args:
        tokens: New tokens.
        ids: Tokens of each item.
        texts: Old tokens of each item's text.
        old: Rows of the old tokens, ``[old, d]``.

    Returns:
        ``[len(tokens), d]``; NaN for a token of no item, or of items without words.
    """
    has = _membership(tokens, ids)
    return _ratio(has @ (_words(texts, len(old)) @ old), has @ np.array([len(text) for text in texts]))


def centroid_rows(
    tokens: Sequence[str], ids: Sequence[Sequence[str]], texts: Sequence[Sequence[int]], old: Floats
) -> Floats:
    """Residual centroids in the space of words: the codebook that residual k-means has there for the ids that exist.

    An item is the mean of its words' rows, and every item counts once. A token of the first level is the mean of the
    items that have it. One of a later level is the mean of all items, plus the mean of what the levels before leave of
    its own items. (By `semantic_rows` tokens of a later level are nearly alike, as items of every kind are under each.)

    Args:
        tokens: New tokens.
        ids: Tokens of each item, first level first.
        texts: Old tokens of each item's text.
        old: Rows of the old tokens, ``[old, d]``.

    Returns:
        ``[len(tokens), d]``; NaN for a token of no item, or of items without words.
    """
    items = _ratio(_words(texts, len(old)) @ old, np.array([len(text) for text in texts]))
    worded = np.array([bool(text) for text in texts])
    mean = items[worded].sum(axis=0) / max(worded.sum(), 1)
    left = np.where(worded[:, None], items - mean, 0)
    rows = np.full((len(tokens), old.shape[1]), np.nan)
    for level in range(max(map(len, ids), default=0)):
        has = _membership(tokens, [item[level : level + 1] if worded[at] else [] for at, item in enumerate(ids)])
        size = has @ np.ones(len(ids))
        centroids = has @ left / np.maximum(size, 1)[:, None]
        left = left - has.T @ centroids
        rows[size > 0] = mean + centroids[size > 0]
    return rows


def _words(texts: Sequence[Sequence[int]], old: int) -> csr_matrix:
    """How often each text has each old token, ``[len(texts), old]``."""
    from scipy.sparse import csr_matrix

    rows = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    columns = np.array([token for text in texts for token in text], dtype=np.int64)
    if columns.size and columns.max() >= old:
        raise GreamError(f"a text holds token {columns.max()}, and {old} are old; new rows are made of old ones")
    return csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(texts), old))


def _membership(tokens: Sequence[str], ids: Sequence[Sequence[str]]) -> csr_matrix:
    """1 where an item has a token, ``[len(tokens), len(ids)]``."""
    from scipy.sparse import csr_matrix

    place = {token: row for row, token in enumerate(tokens)}
    pairs = [(place[token], item) for item, own in enumerate(ids) for token in own if token in place]
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return csr_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(tokens), len(ids)))


def _ratio(sums: Floats, counts: npt.NDArray[Any]) -> Floats:
    """Sums over counts, NaN where nothing was counted."""
    with np.errstate(invalid="ignore"):
        return sums / counts[:, None]


def write_rows(
    model: Any,
    token_ids: Sequence[int],
    old_size: int,
    *,
    seed: int,
    rows_of: Callable[[Floats], Floats] | None = None,
) -> None:
    """Give new tokens their rows, in the input embedding and, where it is not tied to it, in the LM head alike.

    Args:
        model: A transformers causal language model; its embedding is enlarged where it has too few rows.
        token_ids: Rows to write.
        old_size: Number of tokens before the extension; rows from here on are padding or new and are not read.
        seed: Fixes the draws.
        rows_of: Makes the rows of ``token_ids`` of the old ones: `semantic_rows` or `centroid_rows` of texts. Without
            it, and where it gives NaN, a row is drawn from a Gaussian fitted, per dimension, to the old rows.

    Raises:
        GreamError: A row to write is below ``old_size``, or a text holds a token that is not.
    """
    import torch

    if min(token_ids) < old_size:
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
        if rows_of is not None:
            made = torch.from_numpy(rows_of(old.numpy()))
            rows = torch.where(made.isnan(), rows, made.float())
        with torch.no_grad():
            weight[torch.tensor(list(token_ids), device=weight.device)] = rows.to(weight)
