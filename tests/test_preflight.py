"""What a reproduction costs, against sums done by hand, and what its checks say of folders that will not do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gream.config import load_config
from gream.recipes import find_recipe
from safetensors.numpy import save_file

from data_processing.config import DataRecipe
from data_processing.preflight import checks, cost
from data_processing.preflight.cost import GB, PAPER, Counts, Rows

BEAUTY = Counts(users=22_363, items=12_101, interactions=198_502, targets=71_486)


def test_memory_is_the_larger_of_zero2_and_fsdp2_beside_the_engine() -> None:
    # Eight GPUs, 4 billion parameters: 8 + 7 + 10 GB of SFT, 8 + 20 of the update, 8 / (0.95 - 0.6) beside the engine.
    assert cost.gpu_bytes(8, 4 * GB, 0.6) == pytest.approx(28 * GB)
    # One GPU holds everything: 8 + 56 + 10, 64 + 20, and 64 GB in 35 % of the memory.
    assert cost.gpu_bytes(1, 4 * GB, 0.6) == pytest.approx(64 / 0.35 * GB)
    assert cost.gpu_bytes(1, 4 * GB, 0.0) == pytest.approx(84 * GB)


def test_disk_holds_the_checkpoints_kept_and_one_being_written() -> None:
    assert cost.disk_bytes(4 * GB, 6, pretrained=True) == 4 * GB * (16 * 7 + 6) + 4 * GB
    assert cost.disk_bytes(1e6, 2, pretrained=False) == 1e6 * (16 * 3 + 6) + GB


def test_rows_are_those_of_the_recipe() -> None:
    """The figures of Beauty with the paper's recipe: 1.38 rows per target, 4 per item, 2 per user."""
    rows = cost.expected_rows(load_config(DataRecipe, find_recipe("data", "paper")).sft, BEAUTY)
    targets = 198_502 - 3 * 22_363
    assert rows == Rows(round(1.38 * targets + 4 * 12_101 + 2 * 22_363), round(0.52 * 71_486), targets)


def test_time_is_operations_over_the_rate_and_tokens_over_the_engines() -> None:
    rows = Rows(alignment=1_000_000, chains=100_000, direct=200_000)
    data, alignment, reasoning, srpo, evaluation = cost.estimate(8, 4 * GB, 3, BEAUTY, rows, PAPER)
    rate = 8 * 312e12 * 0.25
    assert data.seconds == pytest.approx(300 + 0.002 * 198_502)
    assert alignment.seconds == pytest.approx(1.5 * 3e6 * 86 * 8 * 4e9 / rate)
    assert alignment.what == "3,000,000 rows of 86 tokens"
    assert reasoning.seconds == pytest.approx(1.5 * (1e5 * 196 + 2e5 * 78) * 8 * 4e9 / rate)
    step = 2 * 2560 * 92 / (5000 * 8) + 2560 * 196 * 12 * 4e9 / rate + 30
    assert srpo.seconds == pytest.approx(150 * step)
    assert srpo.what == "150 steps of 256 prompts x 10 responses of 92 tokens"
    assert evaluation.seconds == pytest.approx(2 * 22_363 / 32 / 8 * 0.04 * 194 + 441)
    # Without what verl says of its recipe there is no line for it; four GPUs take twice as long to train.
    four = cost.estimate(4, 4 * GB, 3, BEAUTY, rows, None)
    assert [work.stage for work in four] == ["data", "sft-alignment", "sft-reasoning", "evaluation"]
    assert four[1].seconds == pytest.approx(2 * alignment.seconds)


@pytest.mark.parametrize(("seconds", "said"), [(1, "1 min"), (3540, "59 min"), (3600, "1.0 h"), (27_000, "7.5 h")])
def test_durations(seconds: float, said: str) -> None:
    assert cost.hours(seconds) == said


def test_a_base_model_is_counted_and_a_torn_one_is_named(tmp_path: Path) -> None:
    assert "no config.json and *.safetensors" in checks.check_base(tmp_path).said
    (tmp_path / "config.json").write_text("{}")
    for name, rows in (("a", 1000), ("b", 500)):
        save_file({"weight": np.zeros((rows, 2000), dtype=np.float16)}, tmp_path / f"{name}.safetensors")
    assert "tokenizer.json: cannot be read" in checks.check_base(tmp_path).said
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "no ChatML markers" in checks.check_base(tmp_path).said
    (tmp_path / "tokenizer.json").write_text("<|im_start|>")
    good = checks.check_base(tmp_path)
    assert good.good and good.said.endswith("3.0 million parameters")
    whole = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole[:-1])
    torn = checks.check_base(tmp_path)
    assert not torn.good and "b.safetensors: cannot be read as safetensors" in torn.said


def test_disk_counts_what_is_there_already(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("save_total_limit: 2\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "held").write_bytes(bytes(1000))
    enough = checks.check_disk(tmp_path / "run", [recipe], 0, None, pretrained=False)
    assert enough.good and enough.said.endswith(" 1 GB needed")
    never = checks.check_disk(tmp_path / "run", [recipe], 1e18, None, pretrained=False)
    assert not never.good and "make room" in never.said


def test_counts_are_the_runs_own_once_it_has_counted(tmp_path: Path) -> None:
    assert (checks.counted(tmp_path), checks.counted_rows(tmp_path)) == (None, None)
    own = {"users": 5, "items": 4, "interactions": 30, "training_targets": {"at_position_4_or_later": 3}}
    (tmp_path / "statistics.json").write_text(json.dumps(own))
    (tmp_path / "sft").mkdir()
    rows = {"alignment": {"next_item": 7, "search": 2}, "reasoning": 3, "alignment_rows_mixed_in": 6}
    (tmp_path / "sft" / "statistics.json").write_text(json.dumps(rows))
    assert checks.counted(tmp_path) == Counts(5, 4, 30, 3)
    assert checks.counted_rows(tmp_path) == Rows(9, 3, 6)
