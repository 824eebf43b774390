"""A stage of a run: skipped when nothing changed, atomic when it runs, recorded when it is done.

A run folder holds every output of every stage. Beside them, ``.stages/NAME.json`` records the configuration, the
SHA-256 of each input and each output. A stage builds its outputs in ``.partial/NAME`` and moves them into place
only when all are complete, so a killed stage leaves no half file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gream.errors import GreamError
from gream.files import read_json, write_json


@dataclass(frozen=True)
class Summary:
    """What a build made, for the stage's line and its record.

    Attributes:
        made: Figures in a few words, such as "630 rows, 120 chains".
        warnings: What in them will disappoint later, each in one line with its remedy.
    """

    made: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageResult:
    """What happened to a stage.

    Attributes:
        name: The stage.
        ran: False where every output was already there and up to date.
        seconds: Wall time of the run that made the outputs.
        outputs: Paths relative to the run folder.
        summary: Of the run that made the outputs, if it gave one.
    """

    name: str
    ran: bool
    seconds: float
    outputs: tuple[str, ...]
    summary: Summary | None = None

    def __str__(self) -> str:
        took = f"{self.seconds:.1f} s" if self.ran else "up to date"
        made, warnings = ("", ()) if self.summary is None else (f", {self.summary.made}", self.summary.warnings)
        lines = [f"warning: {self.name}: {warning}" for warning in warnings]
        return "\n".join([*lines, f"{self.name}: {took}{made} -> {', '.join(self.outputs)}"])


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's relative file names and contents in sorted order.

    Raises:
        GreamError: ``path`` does not exist.
    """
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\0".encode())
        return digest.hexdigest()
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise GreamError(f"{path}: cannot be read ({error.strerror})") from None


def run_stage(
    run: Path,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Sequence[Path],
    outputs: Sequence[str],
    build: Callable[[Path], Summary | None],
    overwrite: bool = False,
    keep_partial: bool = False,
) -> StageResult:
    """Make ``outputs`` of stage ``name`` in the run folder, or do nothing where they are up to date.

    Args:
        run: Run folder; created if missing.
        name: Stage name, unique in the run.
        config: What determines the outputs besides the inputs; must survive JSON.
        inputs: Files or folders read.
        outputs: Files or folders made, relative to ``run``.
        build: Writes every output under the folder it is given; may return what it made.
        overwrite: Rebuild although the configuration differs from the recorded one.
        keep_partial: Hand ``build`` what a killed run left in the partial folder, for work that resumes. What was
            left by another configuration or other inputs is always removed.

    Raises:
        GreamError: An input is missing, or the run folder was made with another configuration.
    """
    for path in inputs:
        if not path.exists():
            raise GreamError(f"{path}: missing input of stage '{name}'; run the stage that makes it first")
    # Through JSON and back, so that tuples and lists compare equal to what was recorded.
    wanted_config = json.loads(json.dumps(dict(config)))
    wanted_inputs = {_label(run, path): sha256_of(path) for path in inputs}
    record_path = run / ".stages" / f"{name}.json"
    record = _read_record(record_path)
    if record is not None:
        changed = _changes(record["config"], wanted_config)
        if changed and not overwrite:
            raise GreamError(
                f"{run}: stage '{name}' was made with another configuration ({'; '.join(changed)}); "
                "choose another run folder, or pass --overwrite to replace what depends on it"
            )
        stale = [f"input {key} changed" for key in _changed_keys(record["inputs"], wanted_inputs)]
        stale += [f"output {key} is missing or differs" for key in _damaged_outputs(run, record["outputs"], outputs)]
        if not changed and not stale:
            summary = record.get("summary")
            return StageResult(
                name,
                False,
                float(record["seconds"]),
                tuple(outputs),
                Summary(summary["made"], tuple(summary["warnings"])) if summary else None,
            )
        print(f"[{name}] again: {'; '.join(changed + stale)}", flush=True)

    partial = run / ".partial" / name
    token = json.dumps([wanted_config, wanted_inputs], sort_keys=True)
    token_path = run / ".partial" / f"{name}.token"
    if partial.exists() and not (
        keep_partial and token_path.exists() and token_path.read_text(encoding="utf-8") == token
    ):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    token_path.write_text(token, encoding="utf-8")

    start = time.monotonic()
    summary = build(partial)
    missing = [output for output in outputs if not (partial / output).exists()]
    if missing:
        raise GreamError(f"stage '{name}' ended without writing {', '.join(missing)}")
    seconds = time.monotonic() - start
    # The record goes first: a kill between two moves below must not leave an old record beside new files.
    record_path.unlink(missing_ok=True)
    for output in outputs:
        _move(partial / output, run / output)
    shutil.rmtree(partial)
    token_path.unlink()
    record_path.parent.mkdir(exist_ok=True)
    write_json(
        record_path,
        {
            "stage": name,
            "config": wanted_config,
            "inputs": wanted_inputs,
            "outputs": {output: sha256_of(run / output) for output in outputs},
            "seconds": round(seconds, 3),
            **({"summary": asdict(summary)} if summary else {}),
        },
    )
    return StageResult(name, True, seconds, tuple(outputs), summary)


def _label(run: Path, path: Path) -> str:
    # A raw dump lies outside the run folder; its name and its content identify it wherever it was downloaded to.
    try:
        return path.resolve().relative_to(run.resolve()).as_posix()
    except ValueError:
        return path.name


def _read_record(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path, remedy="remove it")
    return record


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    changes: list[str] = []
    for key in _changed_keys(old, new):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += _changes(before, after, f"{prefix}{key}.")
        else:
            changes.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return changes


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))


def _damaged_outputs(run: Path, recorded: Mapping[str, str], outputs: Sequence[str]) -> list[str]:
    return [
        output for output in outputs if not (run / output).exists() or recorded.get(output) != sha256_of(run / output)
    ]


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        # A folder cannot be replaced in one step: the old one steps aside first.
        aside = target.with_name(target.name + ".old")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(target, aside)
        os.replace(source, target)
        shutil.rmtree(aside)
    else:
        os.replace(source, target)
