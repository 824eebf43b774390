"""A tiny model with rows to train on, and LLaMA-Factory with the plugin in a process of its own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from gream.dialogue import ReasonedAnswer, reasoning_prompt
from srpo_support import THOUGHT, tiny_catalog, tiny_model, tiny_tokenizer


def write_sft_task(folder: Path, *, rows: int, tied: bool = True) -> tuple[Any, Any]:
    """Write ``model`` and ``sft``, whose data set ``reasoning`` asks for an item after two; model and tokenizer."""
    tokenizer, catalog, draw = tiny_tokenizer(), tiny_catalog(), random.Random(0)
    model = tiny_model(tokenizer, tied=tied)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "sft").mkdir()
    with (folder / "sft" / "reasoning.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(rows):
            *shown, target = (catalog.text(draw.randrange(len(catalog))) for _ in range(3))
            answer = ReasonedAnswer(*THOUGHT, history=(), answer=target).render()
            messages = [*reasoning_prompt(shown), {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    described = {
        "file_name": "reasoning.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {**tags, "system_tag": "system"},
    }
    (folder / "sft" / "dataset_info.json").write_text(json.dumps({"reasoning": described}))
    return model, tokenizer


def llamafactory(*arguments: str, **environment: str) -> str:
    """What ``llamafactory-gream ARGUMENTS`` printed, where no GPU is to be seen; the test fails where it fails."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "llamafactory-gream"), *arguments],
        capture_output=True,
        text=True,
        timeout=1500,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr
