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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from gream.config import read_yaml
from gream.errors import GreamError
from gream.lock import held_locks
from gream.provenance import code_of, plugin, versions
from gream.stage import StageResult, run_stage
from gream.supervise import adopt_orphans, children, kill_descendants, supervised

# How both frameworks count: a tqdm bar, "Training Progress:   4%|4   | 12/300 [00:05<01:20"; training itself may have
# no name before its bar. All parts are of bounded length: a line may have megabytes.
_STEP = re.compile(r"(?:([A-Za-z][\w ]{0,40}): +)?\d{1,3}%\|[^|]{0,200}\| (\d{1,12})/(\d{1,12}) \[\d+(?::\d+)+<")
_TAIL_LINES = 15
_LINE_SECONDS = 5.0  # between two step counts where the terminal cannot rewrite a line


def run_command_stage(
    run: Path,
    name: str,
    command: Sequence[str],
    *,
    inputs: Mapping[str, Path],
    outputs: Sequence[str],
    recipe: Path | None = None,
    overwrite: bool = False,
    keep: bool = False,
) -> StageResult:
    """Run ``command`` as stage ``name``; see `gream.stage.run_stage`.

    Args:
        run: Run folder.
        name: Stage name; the log is ``RUN/logs/NAME.log``.
        command: Program and arguments; ``{out}`` is replaced by the folder to write in.
        inputs: Files or folders read, by role.
        outputs: Files or folders made, relative to ``{out}`` and, in the end, to ``run``.
        recipe: A YAML file that belongs to the configuration: a change of it is a change of configuration.
        overwrite: Rebuild although configuration or code differ from the recorded ones.
        keep: Accept what other code made.

    Raises:
        GreamError: The command fails; the message names the log. Or the recipe cannot be read.
    """
    if any(sign in str(run) for sign in "*?["):
        raise GreamError(f"{run}: frameworks read '*', '?' and '[' in a path as a pattern; choose another run folder")
    config: dict[str, object] = {"command": [argument.replace(str(run), "RUN") for argument in command]}
    if recipe is not None:
        config["recipe"] = read_yaml(recipe)

    def build(out: Path) -> None:
        print(f"$ {shlex.join(argument.replace('{out}', str(run)) for argument in command)}", flush=True)
        _drop_half_checkpoints(out)
        log = run / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [argument.replace("{out}", str(out)) for argument in command]
        if _training_is_over(out):
            # LLaMA-Factory would take one step more; the plugin's launcher saves alone.
            arguments = [_gream_launcher(argument) for argument in arguments]
            print("training is over: only the saving is left", flush=True)
        _run_logged(arguments, name, log)

    return run_stage(
        run,
        name,
        config=config,
        inputs=inputs,
        outputs=outputs,
        code=_code(command),
        build=build,
        overwrite=overwrite,
        keep=keep,
        keep_partial=True,
    )


def named_inputs(run: Path, inputs: Sequence[str]) -> dict[str, Path]:
    """Inputs by role, from ``ROLE=PATH`` or from paths alone, whose role is their place in the run folder.

    Raises:
        GreamError: Two have the same role.
    """
    named: dict[str, Path] = {}
    for text in inputs:
        role, sign, path = text.partition("=")
        if not sign or Path(text).exists() or not re.fullmatch(r"[A-Za-z][\w-]*", role):
            place = Path(text).resolve()
            role = str(place.relative_to(run.resolve())) if place.is_relative_to(run.resolve()) else place.name
            path = text
        if role in named:
            raise GreamError(f"--input {text}: {named[role]} has the role '{role}' already; write --input ROLE={path}")
        named[role] = Path(path)
    return named


def _code(command: Sequence[str]) -> dict[str, str]:
    """Frameworks that take part in ``command``, and the code of the plugin that they load."""
    programs = {Path(argument).name for argument in command}
    code: dict[str, str] = {}
    if "llamafactory-gream" in programs:
        code |= code_of(plugin("llamafactory_gream", "worker"))
    if programs & {"llamafactory-cli", "llamafactory-gream"}:
        code |= versions("llamafactory", "transformers", "torch")
    if any(program.startswith("verl.") for program in programs):
        code |= code_of(plugin("verl_srpo", "plugin")) | versions("verl", "transformers", "torch", "ray")
    return code


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


def _training_is_over(out: Path) -> bool:
    """Whether the last transformers checkpoint below ``out`` is that of the last step."""
    states = [json.loads(path.read_text(encoding="utf-8")) for path in out.rglob("checkpoint-*/trainer_state.json")]
    return any(state["global_step"] >= state["max_steps"] > 0 for state in states)


def _gream_launcher(argument: str) -> str:
    path = Path(argument)
    return str(path.with_name("llamafactory-gream")) if path.name == "llamafactory-cli" else argument


def _run_logged(command: list[str], name: str, log: Path) -> None:
    with log.open("ab") as stream:
        stream.write(f"\n$ {' '.join(command)}\n".encode())
        stream.flush()
        # The supervisor holds the stage's lock too, until the last process of the command is gone; where it is killed
        # itself, what it watched over comes to this process.
        adopt_orphans()
        others = children()
        process = subprocess.Popen(
            supervised(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=held_locks()
        )
        try:
            _show_steps(process, name, stream)
        finally:
            process.terminate()
            process.wait()
            kill_descendants(spare=others)
    if process.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        print("\n".join(f"  | {line[:200]}" for line in tail), file=sys.stderr)
        raise GreamError(
            f"stage '{name}': the command ended with status {process.returncode}; its whole output is in {log}"
        )


def _show_steps(process: subprocess.Popen[bytes], name: str, log: BinaryIO) -> None:
    """Copy what a command says to its log until it ends, and show how far it is."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    tty = sys.stderr.isatty()
    start = time.monotonic()
    shown, text, step = 0.0, "", "starting"
    os.set_blocking(process.stdout.fileno(), False)
    while True:
        chunk = process.stdout.read()
        if chunk:
            log.write(chunk)
            log.flush()
            text += chunk.decode("utf-8", errors="replace")
            # A bar of one step, as for a file being written, is not what is waited for.
            matches = [match for match in _STEP.findall(text) if match[2] != "1"]
            if matches:
                what, done, total = matches[-1]
                # A full bar, as of weights that are loaded, says nothing of the validation that comes after it.
                step = f"{what.lower() or 'step'} {done}/{total}" if done != total else "at work"
            # Half a bar may stand at the end; a chunk may hold more lines than one bar and what follows it.
            text = text[-200:]
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
