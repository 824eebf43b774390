"""LoRA trains the rows of added tokens as well, in the embedding and in the head alike.

LLaMA-Factory leaves them as they are, or trains embedding and head whole and apart (``additional_target``), of which a
model with tied embeddings keeps one. PEFT's ``trainable_token_indices`` are the right means, and LLaMA-Factory has no
setting for them. They stand in ``adapter_config.json``, by which the plain LLaMA-Factory resumes and merges an adapter.
"""

from __future__ import annotations

from functools import partial
from typing import Any


def train_added_rows() -> None:
    """Have LLaMA-Factory's LoRA train the rows of added tokens, unless it is told to train whole matrices."""
    from llamafactory.model import adapter
    from transformers import AutoTokenizer

    setup, make = adapter._setup_lora_tuning, adapter.LoraConfig

    def with_rows(config: Any, model: Any, model_args: Any, finetuning_args: Any, *rest: Any) -> Any:
        if finetuning_args.additional_target is None and not model_args.resize_vocab:
            rows = sorted(AutoTokenizer.from_pretrained(model_args.model_name_or_path).get_added_vocab().values())
            matrices = {model.get_input_embeddings(), model.get_output_embeddings()}
            if config.tie_word_embeddings:
                # PEFT has the head follow.
                matrices = {model.get_input_embeddings()}
            names = [name.rpartition(".")[2] for name, part in model.named_modules() if part in matrices]
            adapter.LoraConfig = partial(make, trainable_token_indices=dict.fromkeys(names, rows))
        return setup(config, model, model_args, finetuning_args, *rest)

    adapter._setup_lora_tuning = with_rows
