"""A stage of a run: skipped when nothing changed, atomic when it runs, recorded when it is done.

A run folder holds every output of every stage. Beside them, ``.stages/NAME.json`` records what each was made of: the
configuration, the content of each input by its role, and the code (`gream.record`). A stage builds its outputs in
``.partial/NAME`` and moves them into place only when all are complete, so a killed stage leaves no half file; while it
works, nobody replaces what it reads, or reads what it replaces (`gream.lock`).
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gream.errors import GreamError, file_system_errors
from gream.hashing import Hashes, stamps
from gream.lock import claim
from gream.record import Identity, Made, Record, plain

# What stages keep in a run folder beside their outputs.
_OWN = {".stages", ".partial", "logs"}


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
        return "\n".join([f"{self.name}: {took}{made} -> {', '.join(self.outputs)}", *lines])


def run_stage(
    run: Path,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    outputs: Sequence[str],
    code: Mapping[str, str],
    build: Callable[[Path], Summary | None],
    overwrite: bool = False,
    keep: bool = False,
    keep_partial: bool = False,
) -> StageResult:
    """Make ``outputs`` of stage ``name`` in the run folder, or do nothing where they are up to date.

    Args:
        run: Run folder; created if missing.
        name: Stage name, unique in the run.
        config: What determines the outputs besides the inputs; must survive JSON.
        inputs: Files or folders read, by the role that each plays.
        outputs: Files or folders made, relative to ``run``.
        code: What the outputs are made by, see `gream.provenance.code_of`.
        build: Writes every output under the folder it is given; may return what it made.
        overwrite: Rebuild although configuration or code differ from the recorded ones.
        keep: Accept outputs, and unfinished work, that other code made.
        keep_partial: Hand ``build`` what a killed run left in the partial folder, for work that resumes. What was
            left by another configuration or other inputs is always removed.

    Raises:
        GreamError: An input is missing, the run folder was made with another configuration or by other code, another
            process works on what the stage reads or writes, or the file system refuses something.
    """
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise GreamError(f"stage '{name}': a name has up to 100 letters, digits, '.', '_' and '-'")
    _insist_on_outputs(name, outputs)
    with file_system_errors(f"stage '{name}' of {run}"):
        for path in inputs.values():
            if not path.exists():
                made = path.resolve().is_relative_to(run.resolve())
                remedy = "run the stage that makes it first" if made else "there is no such file; see its path"
                raise GreamError(f"{path}: missing input of stage '{name}'; {remedy}")
        with claim(run, name, reads=list(inputs.values()), writes=[run / output for output in outputs]):
            hashes = Hashes(run)
            wanted = Identity(
                config=plain(config),
                inputs={role: hashes.of(path) for role, path in inputs.items()},
                code=dict(code),
            )
            hashes.save()  # for builds that say what they read
            stage = _Stage(run, name, tuple(outputs), wanted, hashes, overwrite=overwrite, keep=keep)
            result = stage.up_to_date()
            if result is None:
                result = stage.make(inputs, build, keep_partial=keep_partial)
            hashes.save()
            return result


def _insist_on_outputs(name: str, outputs: Sequence[str]) -> None:
    """Refuse outputs that would take the place of something else."""
    places = [Path(output) for output in outputs]
    for output, place in zip(outputs, places, strict=True):
        parts = place.parts
        if place.is_absolute() or not parts or ".." in parts or parts[0] in _OWN:
            raise GreamError(
                f"stage '{name}': output '{output}' is no place of its own in the run folder; name one relative to it, "
                f"and none of {', '.join(sorted(_OWN))}"
            )
        if sum(place == other or other in place.parents for other in places) > 1:
            raise GreamError(f"stage '{name}': output '{output}' is named twice, or lies in another; name it once")


@dataclass(frozen=True)
class _Stage:
    """A stage that is locked, and what is to be made of what."""

    run: Path
    name: str
    outputs: tuple[str, ...]
    wanted: Identity
    hashes: Hashes
    overwrite: bool
    keep: bool

    def up_to_date(self) -> StageResult | None:
        """What is recorded, where that still holds; None where the outputs are to be made."""
        path = self.run / ".stages" / f"{self.name}.json"
        try:
            record = Record.read(path)
        except GreamError:
            if not self.overwrite:
                raise
            return None
        if record is None:
            return None
        config = record.changed_config(self.wanted)
        if config and not self.overwrite:
            raise GreamError(
                f"{self.run}: stage '{self.name}' was made with another configuration ({'; '.join(config)}); "
                "choose another run folder, or pass --overwrite to replace what depends on it"
            )
        stale = [f"input {role} changed" for role in record.changed_inputs(self.wanted)]
        stale += [f"output {output} is missing or differs" for output in self._damaged(record)]
        code = record.changed_code(self.wanted)
        if not config and not stale:
            self._insist_on_code(code, "was made")
            if code and self.keep:
                update = {"code": self.wanted.code, "kept": (*record.kept, Made.now(record.code))}
                record.model_copy(update=update).write(path)
                print(f"[{self.name}] kept, though made by other code: {', '.join(code)}", flush=True)
            if not code or self.keep:
                summary = Summary(**record.summary) if record.summary else None
                return StageResult(self.name, False, record.seconds, self.outputs, summary)
        print(f"[{self.name}] again: {'; '.join(config + stale + [f'code of {name} changed' for name in code])}")
        return None

    def make(
        self, inputs: Mapping[str, Path], build: Callable[[Path], Summary | None], *, keep_partial: bool
    ) -> StageResult:
        """Build, move into place, record."""
        partial, token = self.run / ".partial" / self.name, self.run / ".partial" / f"{self.name}.json"
        replaced = self.run / ".partial" / f"{self.name}.replaced"
        if replaced.exists():
            shutil.rmtree(replaced)
        if partial.exists() and not (keep_partial and self._goes_on(token)):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        self.wanted.write(token)
        read = {role: stamps(path) for role, path in inputs.items()}

        start = time.monotonic()
        summary = build(partial)
        seconds = time.monotonic() - start
        missing = [
            output for output in self.outputs if not ((partial / output).is_file() or (partial / output).is_dir())
        ]
        if missing:
            raise GreamError(f"stage '{self.name}' ended without writing {', '.join(missing)}")
        if changed := [role for role, path in inputs.items() if stamps(path) != read[role]]:
            shutil.rmtree(partial)
            raise GreamError(f"stage '{self.name}': input {', '.join(changed)} changed while it was read; start again")
        record_path = self.run / ".stages" / f"{self.name}.json"
        # The record goes first: a kill between two moves below must not leave an old record beside new files.
        record_path.unlink(missing_ok=True)
        replaced.mkdir()
        mode = token.stat().st_mode & 0o666
        for number, output in enumerate(self.outputs):
            _follow_umask(partial / output, mode)
            _move(partial / output, self.run / output, replaced / str(number))
        shutil.rmtree(partial)
        shutil.rmtree(replaced)
        token.unlink()
        Record(
            **self.wanted.model_dump(),
            stage=self.name,
            outputs={output: self.hashes.of(self.run / output) for output in self.outputs},
            seconds=round(seconds, 3),
            summary=asdict(summary) if summary else None,
            made=Made.now(),
        ).write(record_path)
        return StageResult(self.name, True, seconds, self.outputs, summary)

    def _goes_on(self, token: Path) -> bool:
        """Whether what a killed run left is of the same work."""
        try:
            left = Identity.read(token)
        except GreamError:
            return False
        if left is None or left.changed_inputs(self.wanted) or left.changed_config(self.wanted):
            return False
        changed = left.changed_code(self.wanted)
        self._insist_on_code(changed, "was left unfinished")
        return not changed or self.keep

    def _insist_on_code(self, changed: Sequence[str], how: str) -> None:
        if changed and not self.overwrite and not self.keep:
            raise GreamError(
                f"{self.run}: stage '{self.name}' {how} by other code ({', '.join(changed)}): run again with "
                "--overwrite, or --keep to accept"
            )

    def _damaged(self, record: Record) -> list[str]:
        return [
            output
            for output in self.outputs
            if not (self.run / output).exists() or record.outputs.get(output) != self.hashes.of(self.run / output)
        ]


def _follow_umask(path: Path, mode: int) -> None:
    """Let others read what safetensors writes for its owner alone, as they may read everything else.

    Args:
        path: File or folder.
        mode: Of a file that the umask made.
    """
    for file in path.rglob("*.safetensors") if path.is_dir() else [path]:
        if file.suffix == ".safetensors" and not file.is_symlink():
            file.chmod(mode)


def _move(source: Path, target: Path, aside: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and (target.is_dir() or source.is_dir()):
        # A folder cannot be replaced in one step: the old one steps aside first.
        os.replace(target, aside)
    os.replace(source, target)
