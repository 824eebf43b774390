"""SRPO through the real ``verl.trainer.main_ppo`` with the real vLLM on a CPU (docs/srpo-cpu.md).

PYTHON_WITH_VLLM -m pytest -m slow tests/test_srpo_vllm.py        (some minutes)
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from srpo_support import VALIDATION_RESPONSES, Run, make_task, with_fewer_items

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (see docs/srpo-cpu.md)"),
]

STEPS = 4


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_task`; vLLM's attention on a CPU takes heads of 32 and more."""
    return make_task(tmp_path_factory.mktemp("task"), head_dim=32)


def start(run: Run, *overrides: str) -> int | None:
    return run.wait(
        run.start(
            "actor_rollout_ref.rollout.max_model_len=144",
            # A rate at which so small a model keeps its format, whatever the rollouts, which do not repeat.
            "actor_rollout_ref.actor.optim.lr=2e-4",
            f"trainer.total_training_steps={STEPS}",
            "trainer.test_freq=-1",
            "trainer.save_freq=-1",
            *overrides,
        )
    )


@pytest.mark.parametrize("confined", [False, True], ids=["free", "confined"])
def test_rollouts_are_of_the_policy_after_every_update(task: Path, tmp_path: Path, confined: bool) -> None:
    fewer = with_fewer_items(task, tmp_path / "task")
    run = Run(fewer, tmp_path / "run", recipe="quickstart_vllm")
    option = f"+actor_rollout_ref.model.override_config.answer_catalog={fewer}/index.json"
    assert start(run, *([option] if confined else [])) == 0, run.log[-4000:]
    records = run.records
    for step in range(1, STEPS + 1):
        gap, invalid = records[step]["training/rollout_probs_diff_max"], records[step]["srpo/invalid_id"]
        print(
            f"step {step}: probabilities differ by {gap:.1e}, no item {invalid:.2f}, {records[step]['srpo/reward']:.2f}"
        )
        assert gap < (1e-5 if confined else 1e-4), f"step {step}"
        # The model was taught three times as many items as there are.
        assert invalid == 0 if confined else invalid > 0.3
        assert records[step]["srpo/format_ok"] > 0.5
        assert records[step]["actor/grad_norm"] > 0
        # One update per batch: the policy is still the one that sampled.
        assert records[step]["actor/ppo_kl"] == pytest.approx(0, abs=1e-6)
    # The policy has moved, so that old weights would be seen.
    assert records[STEPS]["actor/kl_loss"] > 1e-4
    assert records[1]["actor/kl_loss"] == pytest.approx(0, abs=1e-6)
    assert records[0][f"val-aux/gream/format_ok/mean@{VALIDATION_RESPONSES}"] > 0.5


def test_weights_that_vllm_does_not_take_end_the_run(task: Path, tmp_path: Path) -> None:
    run = Run(task, tmp_path / "run", "srpo_misnamed", recipe="quickstart_vllm")
    assert start(run) not in (0, None)
    assert "layers.77" in run.log
    assert not run.has_metrics
