"""``scripts/bench/gpu.sh``: a step that fails is reported, the others go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from data_support import ROOT

# In place of a GPU machine's Python: what each benchmark does is told by its file.
PYTHON = f"""#!/bin/sh
case "$1 $2" in
    *encoder.py*) [ "$3" = 4B ] && kill -9 $$; echo '{{"items_per_second": 7}}' ;;
    *gpu_kmeans.py*) echo "CUDA out of memory"; exit 3 ;;
    *gpu_update.py*) echo '{{"plain_gb": 9}}' ;;
    *gpu_decoding.py*) echo "128 users"; echo "no result" ;;
    *torch*) echo '{{"gpu": "none"}}' ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


def gpu(out: Path, *steps: str) -> subprocess.CompletedProcess[str]:
    python = out / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    command = ["bash", str(ROOT / "scripts" / "bench" / "gpu.sh"), *steps]
    own = {**os.environ, "PYTHON": str(python), "OUT": str(out)}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=own)


def test_a_failing_step_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    done = gpu(tmp_path)
    assert done.returncode == 5, done.stdout + done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["machine"] == {"gpu": "none"}
    assert results["encode-0.6B"] == {"items_per_second": 7}
    assert results["update-0.6B"] == results["update-4B"] == {"plain_gb": 9}
    failures = {name: result["failed"] for name, result in results.items() if "failed" in result}
    # Killed, out of memory, and an exit status of 0 without a result in the last line.
    decoding = dict.fromkeys(("decoding-10", "decoding-20", "decoding-50"), "no-json")
    assert failures == {"encode-4B": "137", "kmeans": "3", **decoding}
    assert "FAILED (3; " in done.stdout
    assert "   | CUDA out of memory" in done.stdout
    assert done.stdout.endswith(f"{tmp_path}/gpu.json: 9 steps, 5 failed\n")


def test_steps_by_name(tmp_path: Path) -> None:
    done = gpu(tmp_path, "machine", "encode-0.6B")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(json.loads((tmp_path / "gpu.json").read_text())) == ["machine", "encode-0.6B"]
