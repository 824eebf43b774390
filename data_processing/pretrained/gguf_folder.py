"""A .gguf file as a transformers folder: Llama architecture, byte-level BPE tokenizer of SmolLM, nothing else.

transformers reads such files too, but spoils this tokenizer: both ends of a text become ``<|im_start|>`` and a newline
token 0. Quantized weights are written as bfloat16, which is what they are finer than.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gream.errors import GreamError

if TYPE_CHECKING:
    import torch

# Names of llama.cpp and of transformers, of a layer's parts and of the rest.
_PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_CONTROL = 3  # token type of control tokens

# The value of a key of the file.
Field = Callable[[str], Any]


def convert(gguf: Path, folder: Path) -> None:
    """Write ``folder``: configuration, weights in bfloat16, tokenizer and chat template.

    Args:
        gguf: The file.
        folder: Written to; made where it is not there.

    Raises:
        GreamError: The file cannot be read, or is of another architecture or tokenizer.
    """
    import torch
    from gguf import GGUFReader
    from transformers import LlamaConfig, LlamaForCausalLM

    try:
        reader = GGUFReader(gguf)
    except (OSError, ValueError, LookupError) as error:  # of a file that ends too soon, an index out of bounds
        raise GreamError(f"{gguf}: cannot be read as GGUF ({error}); fetch it again") from None

    def field(key: str) -> Any:
        if key not in reader.fields:
            raise GreamError(f"{gguf}: has no '{key}'; fetch it again")
        return reader.fields[key].contents()

    kind = field("general.architecture"), field("tokenizer.ggml.pre")
    if kind != ("llama", "smollm"):
        raise GreamError(f"{gguf}: architecture '{kind[0]}', tokenizer '{kind[1]}'; only 'llama' with 'smollm' is read")
    heads, key_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    state = _weights(gguf, reader.tensors, heads, key_heads)
    config = LlamaConfig(
        vocab_size=len(field("tokenizer.ggml.tokens")),
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=field("llama.context_length"),
        rms_norm_eps=float(field("llama.attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": float(field("llama.rope.freq_base"))},
        tie_word_embeddings="lm_head.weight" not in state,
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"),
        pad_token_id=field("tokenizer.ggml.padding_token_id"),
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    try:
        missing, _ = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise GreamError(f"{gguf}: weights do not fit its own configuration ({error}); fetch it again") from None
    if lacking := sorted(set(missing) - {"lm_head.weight"}):
        raise GreamError(f"{gguf}: lacks {len(lacking)} tensors, {lacking[0]} first; fetch it again")
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    _tokenizer(field).save_pretrained(folder)


def _weights(gguf: Path, tensors: Any, heads: int, key_heads: int) -> dict[str, torch.Tensor]:
    import torch
    from gguf.quants import dequantize

    state = {}
    for tensor in tensors:
        try:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        except NotImplementedError:
            raise GreamError(f"{gguf}: {tensor.name} is in a form that gguf cannot read") from None
        stem = tensor.name.removesuffix(".weight")
        if stem.startswith("blk."):
            _, layer, part = stem.split(".", 2)
            groups = {"attn_q": heads, "attn_k": key_heads}.get(part)
            if groups:  # llama.cpp rotates neighbouring dimensions together, transformers those of the two halves
                values = values.reshape(groups, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
            name = f"model.layers.{layer}.{_PARTS[part]}" if part in _PARTS else None
        else:
            name = _WHOLE.get(stem)
        if name is None:
            raise GreamError(f"{gguf}: no place for its tensor {tensor.name}; it is no plain Llama")
        state[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(values))
    return state


def _tokenizer(field: Field) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    bpe = Tokenizer(models.BPE({token: row for row, token in enumerate(tokens)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    named = {
        f"{name}_token": tokens[field(f"tokenizer.ggml.{key}_token_id")]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        model_max_length=field("llama.context_length"),
        chat_template=field("tokenizer.chat_template"),
        **named,
    )
