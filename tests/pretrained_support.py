"""A tiny pretrained model for tests: a byte-level tokenizer with chat markers, and a Llama of two layers."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = ["The oak table is 24 inches wide and costs 599.", "user assistant system: what comes next?\n"] * 3


def bpe(special: list[str] = SPECIAL) -> Tokenizer:
    """A byte-level tokenizer as SmolLM's: every digit by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def llama(vocabulary: int) -> LlamaForCausalLM:
    """A model whose weights are bfloat16 numbers, so that nothing is lost in that type."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, rope_parameters=rope, rms_norm_eps=1e-6, **shape, **heads)
    )
    return model.to(torch.bfloat16).float().eval()


def write_base(folder: Path, tokenizer: Tokenizer | None = None, **special: str) -> Path:
    """A folder as transformers saves one, with a tokenizer that is right by default."""
    tokenizer = tokenizer or bpe()
    llama(tokenizer.get_vocab_size()).save_pretrained(folder)
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"} | special
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    return folder
