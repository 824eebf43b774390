"""SRPO through the real ``verl.trainer.main_ppo``, where that takes longer than every change of the code can wait for.

python -m pytest -m slow tests/test_srpo_slow.py        (some twelve minutes on two cores)
"""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from srpo_support import STEPS, VALIDATION_RESPONSES, Run, kill, make_task, with_fewer_items

# e2e as well, so that -m "not e2e" leaves them out too.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

REWARD = f"val-core/gream/reward/mean@{VALIDATION_RESPONSES}"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_task`."""
    return make_task(tmp_path_factory.mktemp("task"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_learns_whatever_the_seed(task: Path, tmp_path: Path, seed: int) -> None:
    run = Run(task, tmp_path / "run")
    status = run.wait(run.start(f"data.seed={seed}", f"actor_rollout_ref.rollout.seed={seed}", "trainer.save_freq=-1"))
    assert status == 0, run.log[-4000:]
    before, after = run.records[0][REWARD], run.records[STEPS][REWARD]
    print(f"seed {seed}: validation reward {before:.3f} -> {after:.3f}")
    assert after > before + 0.1


def test_with_the_sign_of_the_advantage_flipped_it_unlearns(task: Path, tmp_path: Path) -> None:
    run = Run(task, tmp_path / "run", "srpo_flipped")
    status = run.wait(run.start("algorithm.adv_estimator=srpo_flipped", "trainer.save_freq=-1"))
    assert status == 0, run.log[-4000:]
    before, after = run.records[0][REWARD], run.records[STEPS][REWARD]
    print(f"flipped: validation reward {before:.3f} -> {after:.3f}")
    assert after < before - 0.1


def test_weight_updates_that_do_not_arrive_are_seen(task: Path, tmp_path: Path) -> None:
    run = Run(task, tmp_path / "run", "srpo_stale")
    status = run.wait(run.start("trainer.total_training_steps=3", "trainer.save_freq=-1", "trainer.test_freq=-1"))
    assert status == 0, run.log[-4000:]
    gaps = [run.records[step]["training/rollout_probs_diff_max"] for step in (1, 2, 3)]
    print(f"weights that do not arrive: largest difference of probabilities {gaps}")
    assert gaps[0] < 1e-5
    assert gaps[1] > 1e-3 and gaps[2] > 1e-3


def test_two_ranks_sample_and_train_as_one_does(task: Path, tmp_path: Path) -> None:
    records = []
    for ranks in (1, 2):
        run = Run(task, tmp_path / f"ranks{ranks}")
        status = run.wait(
            run.start(
                f"trainer.n_gpus_per_node={ranks}",
                f"ray_kwargs.ray_init.num_gpus={ranks}",
                "trainer.total_training_steps=3",
                "trainer.save_freq=-1",
                "trainer.test_freq=-1",
            )
        )
        assert status == 0, run.log[-4000:]
        records.append(run.records)
    for step in (1, 2, 3):
        one, two = records[0][step], records[1][step]
        for metric in ("srpo/reward", "srpo/advantage_std", "actor/grad_norm", "actor/entropy"):
            # Two ranks add up in another order; by the third step that may tip a draw.
            assert two[metric] == pytest.approx(one[metric], rel=1e-4 if step == 1 else 0.2), f"step {step}: {metric}"
        assert two["training/rollout_probs_diff_max"] < 1e-5


def test_constrained_answers_are_items_and_the_ratio_begins_at_one(task: Path, tmp_path: Path) -> None:
    fewer = with_fewer_items(task, tmp_path / "task")
    run = Run(fewer, tmp_path / "run")
    status = run.wait(
        run.start(
            f"+actor_rollout_ref.model.override_config.answer_catalog={fewer}/index.json",
            "trainer.total_training_steps=3",
            "trainer.test_freq=3",
        )
    )
    assert status == 0, run.log[-4000:]
    for step in (1, 2, 3):
        metrics = run.records[step]
        gap = metrics["training/rollout_probs_diff_max"]
        print(f"constrained, step {step}: largest difference of probabilities {gap:.1e}")
        assert gap < 1e-5
        assert metrics["srpo/invalid_id"] == 0
        # One update per batch: the policy is still the one that sampled.
        assert metrics["actor/ppo_kl"] == pytest.approx(0, abs=1e-6)
    assert run.records[1]["actor/kl_loss"] == pytest.approx(0, abs=1e-6)
    saved = next(run.folder.glob("global_step_3/actor/huggingface/config.json"))
    assert "answer_catalog" not in saved.read_text(encoding="utf-8")


def process_of(training: psutil.Popen, actor: str) -> psutil.Process:
    """The process in which an actor of this class lives."""
    return next(member for member in training.children(recursive=True) if f"ray::{actor}" in " ".join(member.cmdline()))


@pytest.mark.parametrize(
    ("actor", "number", "message"),
    [
        ("SamplingServer", signal.SIGKILL, "failed for|a rollout server has died"),
        # Ray tells of the death itself where prompts are just being sent.
        ("AgentLoopWorkerTQ", signal.SIGKILL, "an agent loop worker has died|class_name: AgentLoopWorkerTQ"),
        ("SamplingServer", signal.SIGSTOP, "no rollout has come for 20 s"),
        ("TransferQueueController", signal.SIGKILL, "TransferQueue's controller has died"),
        ("SimpleStorageUnit", signal.SIGTERM, "a storage unit of TransferQueue has died"),
    ],
)
def test_a_process_that_dies_or_hangs_ends_the_run_within_a_minute(
    task: Path, tmp_path: Path, actor: str, number: signal.Signals, message: str
) -> None:
    run = Run(task, tmp_path / "run")
    process = run.start("trainer.total_training_steps=50", "algorithm.srpo.rollout_timeout=20")
    assert run.wait(process, lambda: 2 in run.records if run.has_metrics else False) is None, run.log[-4000:]
    process_of(process, actor).send_signal(number)
    began = time.monotonic()
    try:
        status = process.wait(timeout=60)
    except psutil.TimeoutExpired:
        kill(process)
        pytest.fail(f"the run goes on a minute after {actor} got {number.name}:\n{run.log[-4000:]}")
    print(f"{actor}, {number.name}: the run ended after {time.monotonic() - began:.0f} s")
    assert status != 0
    assert re.search(message, run.log), run.log[-4000:]
