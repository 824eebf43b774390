"""Validation reward before and after SRPO, paired by prompt, from the dumps that verl writes.

verl writes ``STEP.jsonl`` per validation, one row per sampled response. Step 0 is the SFT model. Responses to
one prompt are averaged, and the difference between two steps is taken prompt by prompt, so that easy and hard
prompts do not blur it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gream.config import Config
from gream.errors import GreamError
from gream.files import iterate_jsonl, read_json, write_json
from gream.provenance import code_of
from gream.stage import StageResult, run_stage
from pydantic import ValidationError

from .metrics import mean_with_interval
from .results import Interval

_DUMPS = Path("checkpoints", "srpo", "validation")
REWARDS = "eval/rewards.json"


class RewardComparison(Config):
    """``eval/rewards.json``.

    Attributes:
        prompts: Prompts compared.
        before_step: Step of the first dump.
        after_step: Step of the last dump.
        before: Mean reward per prompt at the first step.
        after: Mean reward per prompt at the last step.
        difference: Mean of after - before over prompts; intervals are 95 % bootstrap over prompts.
    """

    prompts: int
    before_step: int
    after_step: int
    before: Interval
    after: Interval
    difference: Interval


def compare_rewards(run: Path, *, seed: int, overwrite: bool, keep: bool = False) -> StageResult:
    """Make ``eval/rewards.json`` from the first and the last validation dump of a run.

    Raises:
        GreamError: There are fewer than two dumps, one is broken, or they asked different prompts.
    """
    dumps = _dumps(run / _DUMPS)
    first, last = min(dumps), max(dumps)

    def build(out: Path) -> None:
        before, after = _reward_by_prompt(dumps[first]), _reward_by_prompt(dumps[last])
        if before.keys() != after.keys():
            raise GreamError(
                f"{dumps[last]}: {len(after.keys() - before.keys())} of its {len(after)} prompts are not among the "
                f"{len(before)} of {dumps[first].name}; compare dumps of one training"
            )
        # In an order of their own: responses come as they are finished, and the bootstrap draws by position.
        prompts = sorted(before)
        old = np.array([before[prompt] for prompt in prompts])
        new = np.array([after[prompt] for prompt in prompts])
        comparison = RewardComparison(
            prompts=len(before),
            before_step=first,
            after_step=last,
            before=mean_with_interval(old, seed),
            after=mean_with_interval(new, seed),
            difference=mean_with_interval(new - old, seed),
        )
        (out / REWARDS).parent.mkdir()
        write_json(out / REWARDS, comparison.model_dump(mode="json"))

    return run_stage(
        run,
        "eval-rewards",
        config={"seed": seed},
        inputs={dumps[step].name: dumps[step] for step in (first, last)},
        outputs=[REWARDS],
        code=code_of(compare_rewards),
        build=build,
        overwrite=overwrite,
        keep=keep,
    )


def read_rewards(run: Path) -> RewardComparison | None:
    """The comparison of a run; None where none was made.

    Raises:
        GreamError: The file does not follow its schema.
    """
    path = run / REWARDS
    if not path.exists():
        return None
    try:
        return RewardComparison.model_validate(read_json(path, remedy="remove it"))
    except ValidationError as error:
        raise GreamError(f"{path}: {error.errors()[0]['msg']}; remove it and run 'python -m eval rewards'") from None


def _dumps(folder: Path) -> dict[int, Path]:
    found = {int(path.stem): path for path in folder.glob("*.jsonl") if path.stem.isdigit()}
    if len(found) < 2:
        raise GreamError(
            f"{folder}: {len(found)} validation dumps found, 2 needed; train SRPO with validation before training "
            "(trainer.val_before_train) and after it"
        )
    return found


def _reward_by_prompt(path: Path) -> dict[str, float]:
    """Mean score of the responses to each prompt."""
    scores: dict[str, list[float]] = {}
    for _, row in iterate_jsonl(path, fields={"input": str, "score": int | float}, remedy="run the validation again"):
        scores.setdefault(row["input"], []).append(float(row["score"]))
    if not scores:
        raise GreamError(f"{path}: holds no response")
    return {prompt: sum(values) / len(values) for prompt, values in scores.items()}
