"""What a reproduction costs, against sums done by hand, and what its checks say of folders that will not do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gream.config import load_config
from gream.footprint import GB, QWEN3
from gream.recipes import find_recipe
from pretrained_support import write_base

from data_processing.config import DataRecipe
from data_processing.preflight import checks, cost, machine
from data_processing.preflight.cost import PAPER, Counts, Rows
from data_processing.preflight.jobs import Job, Tuning, read_tuning

BEAUTY = Counts(users=22_363, items=12_101, interactions=198_502, targets=71_486)


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


def test_a_base_model_is_counted_and_one_that_will_not_do_is_named(tmp_path: Path) -> None:
    refused, shape, parameters = checks.check_base(tmp_path)
    assert not refused.good and "no config.json and *.safetensors" in refused.said
    assert (shape, parameters) == (cost.SHAPE, cost.SHAPE.parameters)
    good, shape, parameters = checks.check_base(write_base(tmp_path / "base", eos_token="<|endoftext|>"))
    assert good.good and f"{parameters / 1e6:.1f} million parameters; end of an answer is <|im_end|>" in good.said
    assert shape.layers == 2


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


TUNING = Tuning(rows=8, cutoff=2560, liger=True, deepspeed=True, offload=False, lora=False)
JOB = Job(
    PAPER, rollout="vllm", attention="sdpa", fused=True, offload=False, offload_between=False, tokens=8192,
    engine_share=0.6, tensor_parallel=1, length=2328, storage_units=8, cpus=None,
)  # fmt: skip


def problems(card: int, gpus: int, model: str, job: Job = JOB, tuning: Tuning = TUNING) -> list[str]:
    return machine.memory_problems(card * GB, gpus, QWEN3[model], [tuning], job)


def test_eight_cards_of_48_gb_hold_the_paper() -> None:
    assert problems(48, 8, "4B") == []
    assert problems(80, 8, "4B", replace(JOB, tokens=24_576)) == []


@pytest.mark.parametrize(
    ("card", "gpus", "model", "job", "tuning", "mended_by"),
    [
        # Each is fitting once what it names is done, and says how much of what.
        (24, 1, "1.7B", JOB, TUNING, "deepspeed.zero_optimization.offload_optimizer.device=cpu"),
        (16, 1, "4B", JOB, TUNING, "finetuning_type=lora lora_target=all"),
        (48, 1, "1.7B", JOB, replace(TUNING, rows=256), "lower per_device_train_batch_size"),
        (80, 1, "4B", replace(JOB, tokens=16_384), TUNING, "tokens_per_gpu.sdpa="),
        (
            48,
            8,
            "4B",
            replace(JOB, tokens=24_576, fused=False),
            TUNING,
            "actor_rollout_ref.model.use_fused_kernels=true",
        ),
        (48, 1, "4B", JOB, TUNING, "actor_rollout_ref.actor.fsdp_config.offload_policy=true"),
        (48, 1, "1.7B", JOB, TUNING, "actor_rollout_ref.rollout.gpu_memory_utilization=0."),
        (48, 8, "4B", replace(JOB, engine_share=0.2), TUNING, "actor_rollout_ref.rollout.gpu_memory_utilization=0."),
        (16, 1, "4B", JOB, TUNING, "a smaller base model"),
    ],
)
def test_what_does_not_fit_names_what_mends_it(
    card: int, gpus: int, model: str, job: Job, tuning: Tuning, mended_by: str
) -> None:
    assert any(mended_by in problem for problem in problems(card, gpus, model, job, tuning)), problems(
        card, gpus, model, job, tuning
    )


def test_the_numbers_that_refusals_name_fit() -> None:
    [update] = [said for said in problems(80, 1, "4B", replace(JOB, tokens=16_384)) if "an update" in said]
    tokens = int(update.rpartition("=")[2])
    lowered = problems(80, 1, "4B", replace(JOB, tokens=tokens))
    assert not any("an update" in said for said in lowered)
    assert any("an update" in said for said in problems(80, 1, "4B", replace(JOB, tokens=tokens + 1024)))
    [engine] = problems(48, 1, "1.7B")
    share = float(engine.rpartition("=")[2])
    assert problems(48, 1, "1.7B", replace(JOB, engine_share=share)) == []


def test_packages_are_asked_for_by_what_the_recipes_use(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"vllm", "deepspeed", "liger_kernel"}
    monkeypatch.setattr(machine, "find_spec", lambda name: name if name in there else None)
    assert machine.check_packages([TUNING], JOB).good
    flash = machine.check_packages([TUNING], replace(JOB, attention="flash_attention_2"))
    assert not flash.good and flash.said.endswith("attention=sdpa")
    there.clear()
    said = machine.check_packages([replace(TUNING, deepspeed=False)], JOB).said
    assert "vllm" in said and "liger_kernel" in said and "deepspeed" not in said
    assert "bash scripts/install.sh --gpu" in said


def test_the_papers_sft_is_read() -> None:
    for name in ("paper_alignment", "paper_reasoning"):
        assert read_tuning(find_recipe("sft", Path(name))) == TUNING
    assert read_tuning(find_recipe("sft", Path("quickstart_alignment"))) == Tuning(128, 512, False, False, False, False)


def test_a_machine_with_few_slots_or_little_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 200 * GB // 4096, "SC_PAGE_SIZE": 4096}[name])
    few = machine.check_machine(8, QWEN3["4B"], JOB)
    assert not few.good and few.said.endswith("161 needed; 12 slots of Ray, 34 needed: ray_kwargs.ray_init.num_cpus=34")
    assert machine.check_machine(8, QWEN3["4B"], replace(JOB, cpus=34)).good
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 80 * GB // 4096, "SC_PAGE_SIZE": 4096}[name])
    offloading = replace(JOB, storage_units=1, offload=True)
    little = machine.check_machine(1, QWEN3["4B"], offloading)
    assert not little.good and "84 needed" in little.said and "offload_policy=false" in little.said
    assert machine.check_machine(1, QWEN3["1.7B"], offloading).good
