"""LoRA through LLaMA-Factory: rows of added tokens are trained, saved and merged; ``-m slow``, two minutes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from data_support import ROOT
from sft_support import llamafactory, write_sft_task
from srpo_support import tiny_catalog

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_added_tokens_are_trained_saved_and_merged(tmp_path: Path, tied: bool) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, tokenizer = write_sft_task(tmp_path, rows=48, tied=tied)
    llamafactory(
        *("train", str(ROOT / "recipes" / "sft" / "quickstart_reasoning.yaml"), "max_steps=3", "plot_loss=false"),
        *(f"model_name_or_path={tmp_path}/model", f"dataset_dir={tmp_path}/sft", f"output_dir={tmp_path}/lora"),
        *("finetuning_type=lora", "lora_target=all", "lora_rank=4", "learning_rate=1e-2"),
    )
    llamafactory(
        *("export", "--model_name_or_path", f"{tmp_path}/model", "--adapter_name_or_path", f"{tmp_path}/lora"),
        *("--export_dir", f"{tmp_path}/merged", "--template", "qwen3_nothink", "--infer_dtype", "float32"),
    )
    added = sorted(tokenizer.get_added_vocab().values())
    saved = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert saved["trainable_token_indices"] == dict.fromkeys(["embed_tokens", *["lm_head"] * (not tied)], added)
    # Nothing whole: the rows of added tokens and small matrices.
    assert (tmp_path / "lora" / "adapter_model.safetensors").stat().st_size < base.model.embed_tokens.weight.nbytes

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").get_vocab() == tokenizer.get_vocab()
    assert merged.config.tie_word_embeddings == tied == (merged.lm_head.weight is merged.model.embed_tokens.weight)
    old = torch.ones(len(tokenizer), dtype=torch.bool)
    old[added] = False
    used = tokenizer.convert_tokens_to_ids(tiny_catalog().tokens)
    for trained, before in (
        (merged.model.embed_tokens.weight, base.model.embed_tokens.weight),
        (merged.lm_head.weight, base.lm_head.weight),
    ):
        assert torch.equal(trained[old], before[old])
        assert ((trained - before)[used].abs().max(dim=1).values > 1e-3).all()
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32), str(tmp_path / "lora")
    ).eval()
    tokens = torch.randint(len(tokenizer), (4, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(merged(tokens).logits, adapted(tokens).logits, atol=1e-4, rtol=1e-4)
