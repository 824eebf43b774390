"""Small models, tokenizers and run folders for the tests of decoding, evaluation and report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gream.dialogue import CHAT_TEMPLATE, direct_prompt, reasoning_prompt, render_prompt
from gream.semantic_ids.catalog import Catalog
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM


def make_model(vocabulary: int, *, seed: int = 0, tied: bool = True, spread: float = 0.3) -> Qwen3ForCausalLM:
    """A random Qwen3 of two layers; ``spread`` is its weights' deviation: scores lie far apart."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=spread,
        # What must not leak into decoding.
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config).eval()


def make_tokenizer(catalog: Catalog) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose semantic ids are normal added tokens, not special ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [render_prompt(direct_prompt([""])), render_prompt(reasoning_prompt([""]))] * 3
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=330,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        chat_template=CHAT_TEMPLATE,
    )
    fast.add_tokens(catalog.tokens)
    return fast


def exact_scores(
    model: Any, prompt: Sequence[int], ids: Sequence[Sequence[int]], *, legal: bool = False
) -> list[float]:
    """Log-probability of every id after ``prompt``: one plain forward pass per id, without cache or padding.

    Args:
        model: A causal language model.
        prompt: Token ids.
        ids: Token ids of every item.
        legal: Renormalise over the tokens that some id has after the same prefix.
    """
    scores = []
    for tokens in ids:
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *tokens]])).logits[0].double()
        total = 0.0
        for level, token in enumerate(tokens):
            step = logits[len(prompt) + level - 1]
            if legal:
                followers = {
                    other[level] for other in ids if len(other) > level and other[:level] == tokens[:level]
                }
                step = torch.full_like(step, -torch.inf).index_copy(
                    0, torch.tensor(sorted(followers)), step[sorted(followers)]
                )
            total += float(step.log_softmax(0)[token])
        scores.append(total)
    return scores
