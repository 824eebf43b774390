"""Run folders for tests: the data stages through their command line, in fresh processes, as a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import polars as pl
from gream.hashing import sha256_of

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "tests" / "recipe.yaml"
STAGES = ("enrich", "embed", "semantic-ids", "sft", "rl", "model")
# A small catalogue and a small model: the stages are the same, only shorter.
SMALL = ("synthesize.users=150", "synthesize.items=100", "semantic_ids.codebook_size=6", "model.hidden_size=32")


def command(stage: str, run: Path, *more: str) -> list[str]:
    """The command line of a data stage."""
    return [sys.executable, "-m", "data_processing", stage, "--config", str(RECIPE), "--run", str(run), *more]


def call(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command from the repository root and capture what it says."""
    own = {**os.environ, **environment}
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=600, env=own)


def stage(name: str, run: Path, *more: str) -> None:
    """Run a data stage and insist that it succeeds."""
    done = call(command(name, run, *more))
    assert done.returncode == 0, done.stderr


def synthetic_run(run: Path, stages: tuple[str, ...] = STAGES, *, more: tuple[str, ...] = ()) -> Path:
    """A small synthetic run, up to the given stages, with ``more`` overrides."""
    for name in ("synthesize", "interactions", *stages):
        stage(name, run, *SMALL, *more)
    return run


def gift_cards_run(run: Path, real_data: Path, stages: tuple[str, ...] = STAGES) -> Path:
    """The same on the real Gift Cards dump."""
    dump = real_data / "raw_amazon2018"
    reviews, metadata = dump / "Gift_Cards_5.json.gz", dump / "meta_Gift_Cards.json.gz"
    stage("interactions", run, "--reviews", str(reviews), "--metadata", str(metadata), *SMALL)
    for name in stages:
        stage(name, run, *SMALL)
    return run


def hashes(run: Path) -> dict[str, str]:
    """SHA-256 of every output in a run folder; records and logs, which hold times, are left out."""
    files = (path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file())
    kept = [path for path in files if path.parts[0] not in (".stages", ".partial", "logs")]
    return {path.as_posix(): sha256_of(run / path) for path in kept}


def insist_on_full_lists(run: Path, names: Iterable[str]) -> None:
    """In each evaluation of a run every user has ten items, none twice, and all of them exist."""
    items = set(pl.read_parquet(run / "items.parquet")["item"])
    users = pl.read_parquet(run / "users.parquet")["user"].to_list()
    for name in names:
        predictions = pl.read_parquet(run / "eval" / name / "predictions.parquet")
        assert sorted(predictions["user"]) == users
        for row in predictions["items"].to_list():
            assert len(row) == len(set(row)) == 10
            assert set(row) <= items


# Run by every Python process that `kill_when` starts: the first to touch a file once the path exists kills them all.
_KILLER = """
import os, signal, sys
os.environ.setdefault("GREAM_KILL_GROUP", str(os.getpgrp()))
def watch(event, arguments):
    if event in ("open", "os.mkdir", "os.rename", "os.remove") and os.path.exists(os.environ["GREAM_KILL_WHEN"]):
        os.killpg(int(os.environ["GREAM_KILL_GROUP"]), signal.SIGKILL)
sys.addaudithook(watch)
"""


def kill_when(arguments: list[str], there: Path) -> bool:
    """Start a command that kills itself and all its children with SIGKILL as soon as ``there`` exists.

    From within, as a process beside it may be too late on a busy machine: before it touches another file.

    Returns:
        Whether that came to pass, so that the kill fell into the middle of its work.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(_KILLER)
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            arguments,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            timeout=600,
            env={**os.environ, "PYTHONPATH": path, "GREAM_KILL_WHEN": str(there)},
        )
    return done.returncode == -signal.SIGKILL
