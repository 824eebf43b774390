"""Kill the stages of a small pipeline at random, start them again, and compare what comes out with an undisturbed run.

    python scripts/kill_test.py --folder runs/kill-test --kills 20 [--stages synthesize,interactions,...] [--seed 0]

Each kill is SIGKILL or SIGTERM, of the stage's own process or of any process below it, at a random moment of the stage.
After each, no process of the stage may be left; in the end every artefact must be that of the undisturbed run, which is
made once per folder. Run folders are made anew, round after round, until there were enough kills. Times and logs, which
no two runs share, are not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
SMALL = (
    *("synthesize.users=150", "synthesize.items=100", "semantic_ids.codebook_size=6", "model.hidden_size=32"),
    *("sft.alignment_rows=800", "sft.reasoning_rows=400", "rl.validation_users=8"),
)
# What holds times, or the folder that it was made in.
_TIMED = (".stages", ".partial", "logs", "report.html", "trainer_log.jsonl", "trainer_state.json", "training_args.bin")
_TIMED += ("metrics.jsonl", "README.md", "training_loss.png", "all_results.json", "train_results.json", "rollouts")
_TIMED += ("checkpoint-", "order.rank", "extra_state", "optim_world", "data.pt", "fsdp_config.json")
_SECONDS = ("seconds_per_user", "cost", "command")


def commands(run: Path) -> dict[str, list[str]]:
    """Command line of each stage, in their order."""
    python = [sys.executable, "-m"]
    recipes = ROOT / "recipes"
    data = ["--config", str(recipes / "data" / "quickstart.yaml"), "--run", str(run), *SMALL]
    names = ("synthesize", "interactions", "enrich", "embed", "semantic-ids", "sft", "rl", "model")
    stages = {name: [*python, "data_processing", name, *data] for name in names}

    def framework(name: str, inputs: list[str], *command: str) -> list[str]:
        options = [f"--input={run / path}" for path in inputs]
        return [
            *python,
            "gream",
            "stage",
            name,
            f"--run={run}",
            *options,
            f"--output=checkpoints/{name}",
            "--",
            *command,
        ]

    def sft(name: str, model: str, steps: int) -> list[str]:
        settings = [f"model_name_or_path={run / model}", f"dataset_dir={run / 'sft'}", f"max_steps={steps}"]
        settings += [f"output_dir={{out}}/checkpoints/{name}", "save_steps=4", "per_device_train_batch_size=4"]
        program = str(Path(sys.executable).with_name("llamafactory-gream"))
        recipe = str(recipes / "sft" / f"quickstart_{name}.yaml")
        return framework(name, [model, "sft"], program, "train", recipe, *settings)

    stages["alignment"] = sft("alignment", "model", 12)
    stages["reasoning"] = sft("reasoning", "checkpoints/alignment", 8)
    environment = ["VERL_PLATFORM=cpu", "VERL_USE_EXTERNAL_MODULES=verl_srpo.plugin"]
    environment += ["VERL_FILE_LOGGER_PATH={out}/checkpoints/srpo/metrics.jsonl"]
    settings = [f"algorithm.srpo.catalog={run}/index.json", "trainer.default_local_dir={out}/checkpoints/srpo"]
    settings += [f"data.train_files={run}/rl/train.parquet", f"data.val_files={run}/rl/val.parquet"]
    settings += [f"actor_rollout_ref.model.path={run}/checkpoints/reasoning", "data.train_batch_size=4"]
    settings += ["trainer.validation_data_dir={out}/checkpoints/srpo/validation", "trainer.total_training_steps=3"]
    settings += ["trainer.save_freq=1", "trainer.test_freq=3", "actor_rollout_ref.actor.ppo_mini_batch_size=4"]
    settings += ["actor_rollout_ref.rollout.n=4", "data.max_response_length=48", "algorithm.srpo.pass_at=2"]
    recipe = ["--config-dir", str(recipes / "rl"), "--config-name", "quickstart"]
    verl = ["env", *environment, sys.executable, "-m", "verl.trainer.main_ppo", *recipe, *settings]
    stages["srpo"] = framework("srpo", ["checkpoints/reasoning", "rl", "index.json"], *verl)
    evaluate = [*python, "eval"]
    asked = [f"--run={run}", f"--checkpoint={run / 'checkpoints' / 'reasoning'}", "--users=8", "--batch-size=4"]
    stages["baselines"] = [*evaluate, "baselines", f"--run={run}"]
    stages["direct"] = [*evaluate, "direct", *asked, "--name=direct-sft"]
    stages["rewards"] = [*evaluate, "rewards", f"--run={run}"]
    stages["report"] = [*evaluate, "report", f"--run={run}"]
    return stages


def start(command: list[str], log: Path) -> psutil.Popen:
    """Start a stage in a session of its own, its output into ``log``."""
    own = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    with log.open("ab") as stream:
        return psutil.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, start_new_session=True, env=own)


def below(process: psutil.Process) -> list[psutil.Process]:
    """Living processes below ``process``."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def insist_that_they_end(family: list[psutil.Process], stage: str) -> None:
    """Every process of a stage is gone a moment after it."""
    _, left = psutil.wait_procs(family, timeout=20)
    left = [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    if left:
        raise SystemExit(f"{stage}: {len(left)} processes live on: {left}")


def kill_once(stage: str, command: list[str], log: Path, seconds: float, draw: random.Random) -> str | None:
    """Start a stage and kill one of its processes; None where it had ended before."""
    process = start(command, log)
    time.sleep(draw.uniform(0, seconds))
    family = below(process)
    # Its own process as often as all others together.
    victim = draw.choice(family) if family and draw.random() < 0.5 else process
    number = draw.choice(SIGNALS)
    if process.poll() is not None:
        return None
    with suppress(psutil.NoSuchProcess):
        victim.send_signal(number)
    family = list({*family, *below(process)})
    status = process.wait(600)
    insist_that_they_end(family, stage)
    return None if status == 0 else f"{number.name} of {'the stage' if victim == process else 'a child'}"


def artefacts(run: Path) -> dict[str, str]:
    """Hash of every artefact without its times."""
    return {path.relative_to(run).as_posix(): _hash(path) for path in _compared(run)}


def _compared(run: Path) -> Iterator[Path]:
    for path in sorted(run.rglob("*")):
        if path.is_file() and not any(part.startswith(_TIMED) for part in path.relative_to(run).parts):
            yield path


def _hash(path: Path) -> str:
    content = path.read_bytes()
    if path.name == "metrics.json":
        content = json.dumps({key: value for key, value in json.loads(content).items() if key not in _SECONDS}).encode()
    elif "validation" in path.parts:  # responses come as they are finished
        rows = [json.loads(line) for line in content.splitlines()]
        content = "\n".join(sorted(json.dumps([row["input"], row["output"], row["score"]]) for row in rows)).encode()
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the two runs and the logs go")
    parser.add_argument("--kills", type=int, default=20, help="how many there are to be")
    parser.add_argument("--per-stage", type=int, default=3, help="at most so many of one stage in one round")
    parser.add_argument("--stages", help="only these, with commas; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600, help="no new round after so long")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    undisturbed, killed, log = folder / "undisturbed", folder / "killed", folder / "log.txt"
    names = options.stages.split(",") if options.stages else list(commands(killed))
    seconds: dict[str, float] = {}
    for name in names:
        began = time.monotonic()
        if start(commands(undisturbed)[name], log).wait(1200):
            raise SystemExit(f"{name}: fails undisturbed; see {log}")
        seconds[name] = time.monotonic() - began
    known = folder / "seconds.json"
    if known.exists():  # of the start that made the outputs, not of one that found them
        seconds |= json.loads(known.read_text())
    known.write_text(json.dumps(seconds))
    wanted = artefacts(undisturbed)
    print(f"undisturbed: {len(wanted)} artefacts, {sum(seconds.values()):.0f} s", flush=True)

    draw, count, rounds = random.Random(options.seed), Counter[str](), 0
    deadline = time.monotonic() + 60 * options.minutes
    while count.total() < options.kills and time.monotonic() < deadline:
        rounds += 1
        shutil.rmtree(killed, ignore_errors=True)
        for name in names:
            for _ in range(min(options.per_stage, options.kills - count.total())):
                done = kill_once(name, commands(killed)[name], log, seconds[name], draw)
                if done is not None:
                    count[f"{name}: {done}"] += 1
            if start(commands(killed)[name], log).wait(1200):
                raise SystemExit(f"{name}: does not end after kills; see {log}")
        found = artefacts(killed)
        if differing := sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key)):
            what = ", ".join(differing[:10])
            raise SystemExit(f"round {rounds}, after {count.total()} kills: {len(differing)} artefacts differ: {what}")
        print(f"round {rounds}: {count.total()} kills so far, all {len(found)} artefacts equal", flush=True)
    for what, times in sorted(count.items()):
        print(f"  {times:4d}  {what}")


if __name__ == "__main__":
    main()
