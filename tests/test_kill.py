"""The short form of scripts/kill_test.py: a few kills of the first stages."""

from __future__ import annotations

import sys
from pathlib import Path

from data_support import ROOT, call


def test_stages_killed_at_random_make_the_artefacts_of_an_undisturbed_run(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "kill_test.py"), f"--folder={tmp_path}"]
    done = call([*script, "--kills=4", "--per-stage=2", "--stages=synthesize,interactions,enrich"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kills so far, all " in done.stdout
