"""The paper's attention and fused kernels through verl's own engine: packed rows score as rows alone do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_support import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "kernels", "answers"),
    [
        ("paper", "fused", "free"),
        ("one_gpu", "fused", "free"),
        ("paper", "fused", "confined"),
        ("paper", "plain", "confined"),
    ],
)
def test_packed_rows_score_as_rows_alone_do(tmp_path: Path, recipe: str, kernels: str, answers: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "srpo_packed.py"), str(tmp_path), recipe, kernels, answers],
        env={**os.environ, "VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "verl_srpo.plugin"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["attention"] == "sdpa"
    assert found["log_probabilities"] < 1e-5
    assert found["entropies"] < 1e-5
    assert found["gradients"] < 1e-5
