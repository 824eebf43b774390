"""What can be proven of the packages for GPUs on a machine without one: ``bash scripts/gpu_proofs.sh``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from data_support import ROOT
from safetensors.torch import load_file
from sft_support import llamafactory, write_sft_task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        find_spec("vllm") is None or find_spec("deepspeed") is None,
        reason="run by the Python of scripts/install.sh --gpu",
    ),
]


def test_every_sft_recipe_is_accepted_by_llamafactorys_parser() -> None:
    recipes = sorted((ROOT / "recipes" / "sft").glob("*.yaml"))
    said = llamafactory("check", *map(str, recipes))
    assert said.count("LLaMA-Factory accepts it") == len(recipes)


CUDA_ERROR_NO_DEVICE = 100


def stand_in_for_the_driver(folder: Path) -> Path:
    """A libcuda.so.1 with every call of it that vLLM's libraries are linked with; each says that there is no GPU."""
    libraries = Path(str(find_spec("vllm").origin)).parent.glob("*.so")
    linked = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", *map(str, libraries)], capture_output=True, text=True, check=True
    )
    calls = sorted(set(re.findall(r" U (cu[A-Z]\w+)", linked.stdout)))
    source = "".join(f"int {call}(void) {{ return {CUDA_ERROR_NO_DEVICE}; }}\n" for call in calls)
    library = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / "libcuda.so.1")]
    subprocess.run(library, input=source, text=True, check=True)
    return folder


def test_verls_launch_code_makes_an_engine_of_the_recipes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "vllm_engine.py"), str(tmp_path), "paper", "one_gpu"],
        capture_output=True,
        text=True,
        timeout=1200,
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(stand_in_for_the_driver(tmp_path)),
            "VLLM_NO_USAGE_STATS": "1",
            "VERL_USE_EXTERNAL_MODULES": "verl_srpo.plugin",
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    made = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"recipe"')]
    print(*map(json.dumps, made), sep="\n")
    assert [engine["recipe"] for engine in made] == ["paper", "one_gpu"]
    for engine, memory in zip(made, (0.6, 0.5), strict=True):
        expected = {
            "architecture": "Qwen3ForCausalLM",
            "length": 2328,
            "dtype": "torch.bfloat16",
            "seed": 42,
            "sleep": True,
            "memory": memory,
            "tensor_parallel": 1,
        }
        assert engine.items() >= expected.items()


def test_zero2_on_two_ranks_steps_as_one_rank_without_it(tmp_path: Path) -> None:
    """The paper's recipe, two steps of eight rows; ``resize_vocab`` finds a row for every token."""
    model, tokenizer = write_sft_task(tmp_path, rows=16)
    recipe = str(ROOT / "recipes" / "sft" / "paper_reasoning.yaml")
    weights, losses = {}, {}
    for name, rows, own in (("plain", 8, ["deepspeed=null"]), ("zero2", 4, [])):
        out = tmp_path / name
        ranks = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"} if name == "zero2" else {}
        llamafactory(
            *("train", recipe, f"model_name_or_path={tmp_path}/model", f"dataset_dir={tmp_path}/sft"),
            *(f"output_dir={out}", "max_steps=2", f"per_device_train_batch_size={rows}", "logging_steps=1"),
            *("gradient_accumulation_steps=1", "use_cpu=true", "bf16=false", "enable_liger_kernel=false"),
            *("preprocessing_num_workers=1", "dataloader_num_workers=0", "plot_loss=false", "learning_rate=1e-3"),
            *("warmup_ratio=0", "resize_vocab=true", *own),
            **ranks,
            DS_ACCELERATOR="cpu",
        )
        weights[name] = load_file(out / "model.safetensors")
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        losses[name] = [step["loss"] for step in history if "loss" in step]
    assert len(losses["plain"]) == 2 and losses["zero2"] == pytest.approx(losses["plain"], abs=1e-5)
    before = model.state_dict()
    embedding = "model.embed_tokens.weight"
    assert weights["zero2"][embedding].shape == before[embedding].shape and len(tokenizer) == len(before[embedding])
    apart = 0.0
    for name, plain in weights["plain"].items():
        assert (plain - before[name]).abs().max() > 1e-3, name
        apart = max(apart, float((weights["zero2"][name] - plain).abs().max()))
    print({**losses, "weights_apart": apart})
    assert apart < 1e-6
