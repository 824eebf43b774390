"""Rewards before and after SRPO, paired by prompt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gream.errors import GreamError

from eval.rewards import compare_rewards, read_rewards


def dump(run: Path, step: int, scores: dict[str, list[float]]) -> Path:
    path = run / "checkpoints" / "srpo" / "validation" / f"{step}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"input": prompt, "output": "<answer>", "gts": "<|a_1|>", "score": score, "step": step}
        for prompt, values in scores.items()
        for score in values
    ]
    # verl writes text as it is: a line separator inside a prompt is no end of a line.
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_responses_are_averaged_per_prompt_and_prompts_are_paired(tmp_path: Path) -> None:
    dump(tmp_path, 0, {"one\u2028line": [0.0, 1.0], "two": [0.25]})
    dump(tmp_path, 20, {"two": [9.0], "one\u2028line": [9.0]})
    dump(tmp_path, 100, {"two": [0.75, 0.25], "one\u2028line": [1.0, 1.0]})
    compare_rewards(tmp_path, seed=0, overwrite=False)
    comparison = read_rewards(tmp_path)
    assert comparison is not None
    assert (comparison.prompts, comparison.before_step, comparison.after_step) == (2, 0, 100)
    assert comparison.before.value == pytest.approx(0.375)
    assert comparison.after.value == pytest.approx(0.75)
    assert comparison.difference.value == pytest.approx(0.375)


def test_pairing_makes_the_interval_as_narrow_as_the_differences(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    before = {f"prompt {number}": float(random.random()) for number in range(300)}
    dump(tmp_path, 0, {prompt: [score] for prompt, score in before.items()})
    dump(tmp_path, 5, {prompt: [score + 0.05 + random.normal(0, 0.01)] for prompt, score in before.items()})
    compare_rewards(tmp_path, seed=0, overwrite=False)
    comparison = read_rewards(tmp_path)
    assert comparison is not None
    assert 0.04 < comparison.difference.low < comparison.difference.high < 0.06
    assert comparison.before.high - comparison.before.low > 0.05


def test_the_order_of_the_responses_does_not_matter(tmp_path: Path) -> None:
    scores = {f"prompt {number}": [float(number % 7)] for number in range(40)}
    for name, before in (("forwards", scores), ("backwards", dict(reversed(scores.items())))):
        dump(tmp_path / name, 0, before)
        dump(tmp_path / name, 5, {prompt: [values[0] ** 2] for prompt, values in before.items()})
        compare_rewards(tmp_path / name, seed=0, overwrite=False)
    assert read_rewards(tmp_path / "forwards") == read_rewards(tmp_path / "backwards")


def test_unchanged_dumps_are_not_compared_again_and_a_new_one_is(tmp_path: Path) -> None:
    dump(tmp_path, 0, {"one": [0.1]})
    dump(tmp_path, 5, {"one": [0.2]})
    assert compare_rewards(tmp_path, seed=0, overwrite=False).ran
    assert not compare_rewards(tmp_path, seed=0, overwrite=False).ran
    dump(tmp_path, 10, {"one": [0.4]})
    assert compare_rewards(tmp_path, seed=0, overwrite=False).ran
    comparison = read_rewards(tmp_path)
    assert comparison is not None and comparison.after.value == pytest.approx(0.4)


def test_unusable_dumps_are_named(tmp_path: Path) -> None:
    assert read_rewards(tmp_path) is None
    dump(tmp_path, 0, {"one": [0.1]})
    with pytest.raises(GreamError, match="1 validation dumps found, 2 needed"):
        compare_rewards(tmp_path, seed=0, overwrite=False)
    last = dump(tmp_path, 5, {"two": [0.1]})
    with pytest.raises(GreamError, match=r"5\.jsonl: 1 of its 1 prompts are not among the 1 of 0\.jsonl"):
        compare_rewards(tmp_path, seed=0, overwrite=False)
    for broken in ("{", '{"input": "one"}', '{"input": "one", "score": null}', "[]"):
        last.write_text('{"input": "one", "score": 1}\n' + broken + "\n")
        with pytest.raises(GreamError, match=r"5\.jsonl:2: (not valid JSON|a JSON object with input, score)"):
            compare_rewards(tmp_path, seed=0, overwrite=False)
