"""Run a framework's own command as a stage: logged whole, shown as a step count, resumable, recorded.

The command writes below ``{out}``, which stands for the stage's partial folder. A killed run leaves that folder, and
the command finds there what it saved, so that the framework's own resume goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gream.config import read_yaml
from gream.errors import GreamError
from gream.stage import StageResult, run_stage

# How both frameworks count: a tqdm bar, "Training Progress:   4%|4   | 12/300 [00:05<01:20"; training itself may have
# no name before its bar.
_STEP = re.compile(r"(?:([A-Za-z][\w ]*): +)?\d+%\|[^|]*\| (\d+)/(\d+) \[\d+(?::\d+)+<")
_TAIL_LINES = 15
_LINE_SECONDS = 5.0  # between two step counts where the terminal cannot rewrite a line


def run_command_stage(
    run: Path,
    name: str,
    command: Sequence[str],
    *,
    inputs: Sequence[Path],
    outputs: Sequence[str],
    recipe: Path | None = None,
    overwrite: bool = False,
) -> StageResult:
    """Run ``command`` as stage ``name``; see `gream.stage.run_stage`.

    Args:
        run: Run folder.
        name: Stage name; the log is ``RUN/logs/NAME.log``.
        command: Program and arguments; ``{out}`` is replaced by the folder to write in.
        inputs: Files or folders read.
        outputs: Files or folders made, relative to ``{out}`` and, in the end, to ``run``.
        recipe: A YAML file that belongs to the configuration: a change of it is a change of configuration.
        overwrite: Rebuild although the configuration differs from the recorded one.

    Raises:
        GreamError: The command fails; the message names the log. Or the recipe cannot be read.
    """
    config: dict[str, object] = {"command": [argument.replace(str(run), "RUN") for argument in command]}
    if recipe is not None:
        config["recipe"] = read_yaml(recipe)

    def build(out: Path) -> None:
        print(f"$ {shlex.join(argument.replace('{out}', str(run)) for argument in command)}", flush=True)
        _drop_half_checkpoints(out)
        log = run / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        _run_logged([argument.replace("{out}", str(out)) for argument in command], name, log)

    return run_stage(
        run,
        name,
        config=config,
        inputs=inputs,
        outputs=outputs,
        build=build,
        overwrite=overwrite,
        keep_partial=True,
    )


def _drop_half_checkpoints(out: Path) -> None:
    """Remove transformers checkpoints that a kill left half written: their state file, written last, is not whole."""
    for checkpoint in out.rglob("checkpoint-*"):
        if not checkpoint.is_dir():
            continue
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            print(f"removed half-written {checkpoint.name}", flush=True)
            shutil.rmtree(checkpoint)


def _run_logged(command: list[str], name: str, log: Path) -> None:
    tty = sys.stderr.isatty()
    shown = 0.0
    text = ""
    with log.open("ab") as stream:
        stream.write(f"\n$ {' '.join(command)}\n".encode())
        stream.flush()
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except OSError as error:
            raise GreamError(
                f"stage '{name}': cannot start {command[0]} ({error.strerror}); run scripts/install.sh"
            ) from None
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        start = time.monotonic()
        step = "starting"
        os.set_blocking(process.stdout.fileno(), False)
        while True:
            chunk = process.stdout.read()
            if chunk:
                stream.write(chunk)
                stream.flush()
                text = (text + chunk.decode("utf-8", errors="replace"))[-4000:]
                # A bar of one step, as for a file being written, is not what is waited for.
                matches = [match for match in _STEP.findall(text) if match[2] != "1"]
                if matches:
                    what, done, total = matches[-1]
                    step = f"{what.lower() or 'step'} {done}/{total}"
            elif process.poll() is not None:
                break
            else:
                time.sleep(0.1)
            now = time.monotonic()
            if now - shown >= (0.5 if tty else _LINE_SECONDS):
                shown = now
                line = f"  {name}: {step}, {now - start:.0f} s"
                print(f"\r\x1b[2K{line}" if tty else line, end="" if tty else "\n", file=sys.stderr, flush=True)
        if tty:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
    if process.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        print("\n".join(f"  | {line[:200]}" for line in tail), file=sys.stderr)
        raise GreamError(
            f"stage '{name}': the command ended with status {process.returncode}; its whole output is in {log}"
        )
