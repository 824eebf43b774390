"""What each part of SRPO does: GRPO, GRPO with one part more, SRPO whole; several seeds, from one SFT checkpoint.

    source scripts/environment.sh
    PYTHONPATH=. python scripts/bench/ablation.py --run runs/quickstart --out runs/ablation

A job is a variant with a seed, in a folder of its own; a line of OUT/results.jsonl says that it is done. Stopped and
started again, finished jobs are skipped and the one under way goes on from its last checkpoint. About five minutes per
job on two free cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gream.files import jsonl_line, read_json, read_jsonl
from gream.tables import read_table

from eval.metrics import mean_with_interval, ranks_of

ROOT = Path(__file__).resolve().parents[2]

BINARY = ("algorithm.srpo.near_miss=0",)  # and a table of zeros, as long as the ids are deep
GRPO = ("algorithm.adv_estimator=grpo",)
DYNAMIC = ("algorithm.filter_groups.enable=true", "algorithm.filter_groups.max_num_gen_batches=30")

VARIANTS: dict[str, tuple[str, ...]] = {
    "GRPO": (*GRPO, *BINARY),
    "+ graded reward": GRPO,
    "+ bonus": BINARY,
    "+ dynamic sampling": (*GRPO, *BINARY, *DYNAMIC),
    "SRPO": DYNAMIC,
}


def command_of(run: Path, job: Path, variant: str, seed: int, levels: int, options: Sequence[str]) -> list[str]:
    """Command line of a job."""
    overrides = list(VARIANTS[variant])
    if BINARY[0] in overrides:
        overrides.append(f"algorithm.srpo.reward_table={[0] * (levels - 1)}".replace(" ", ""))
    return [
        *(sys.executable, "-m", "verl.trainer.main_ppo"),
        *("--config-dir", str(ROOT / "recipes" / "rl"), "--config-name", "quickstart"),
        f"algorithm.srpo.catalog={run}/index.json",
        f"actor_rollout_ref.model.path={run}/checkpoints/reasoning",
        f"data.train_files={run}/rl/train.parquet",
        f"data.val_files={run}/rl/val.parquet",
        f"data.seed={seed}",
        f"actor_rollout_ref.rollout.seed={seed}",
        f"trainer.default_local_dir={job}/checkpoints/srpo",
        f"trainer.validation_data_dir={job}/checkpoints/srpo/validation",
        *overrides,
        *options,
    ]


def folder_of(out: Path, job: Mapping[str, Any]) -> Path:
    """Folder of a job, by its ``variant``, ``seed`` and ``steps``."""
    return out / f"{''.join(filter(str.isalnum, job['variant']))}-{job['seed']}-{job['steps']}"


def finish(
    run: Path, job: Path, variant: str, seed: int, steps: int, levels: int, options: Sequence[str]
) -> dict[str, Any]:
    """Train and evaluate a job; what is there already is kept.

    Returns:
        Its line of results.
    """
    job.mkdir(parents=True, exist_ok=True)
    for name in ("index.json", "interactions.parquet"):
        shutil.copy(run / name, job / name)
    training = job / "checkpoints" / "srpo"
    environment = {
        **os.environ,
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "verl_srpo.plugin",
        "VERL_FILE_LOGGER_PATH": str(training / "metrics.jsonl"),
    }
    options = [*options, f"trainer.total_training_steps={steps}", f"trainer.test_freq={steps}"]
    with (job / "log.txt").open("a", encoding="utf-8") as log:

        def call(*command: str) -> None:
            subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)

        call(*command_of(run, job, variant, seed, levels, options))
        checkpoint = training / f"global_step_{steps}" / "actor" / "huggingface"
        call(sys.executable, "-m", "eval", "rewards", "--run", str(job))
        call(
            *(sys.executable, "-m", "eval", "reasoning", "--run", str(job)),
            *("--checkpoint", str(checkpoint), "--name", "srpo"),
        )
    rewards = read_json(job / "eval" / "rewards.json", remedy="make it again")
    metrics = read_json(job / "eval" / "srpo" / "metrics.json", remedy="make it again")["metrics"]
    return {
        "variant": variant,
        "seed": seed,
        "steps": steps,
        "before": rewards["before"]["value"],
        "after": rewards["after"]["value"],
        "difference": rewards["difference"],
        "recall@10": metrics["recall@10"],
    }


def hits(evaluation: Path) -> npt.NDArray[np.float64]:
    """``[users]``: 1 where the item was among the ten of a user's list; users in ascending order."""
    table = read_table(evaluation / "predictions.parquet", "user", "target", "items").sort("user")
    ranks = ranks_of(np.array(table["items"].to_list())[:, :10], table["target"].to_numpy())
    return (ranks > 0).astype(np.float64)


def show(run: Path, out: Path, results: Sequence[dict[str, Any]]) -> None:
    """Per variant: means over its seeds, the intervals of each seed, and what it gained on the SFT model's lists."""
    before = hits(run / "eval" / "reasoning-sft")
    for variant in VARIANTS:
        rows = sorted((row for row in results if row["variant"] == variant), key=lambda row: row["seed"])
        if rows:
            for name in ("difference", "recall@10"):
                parts = [row[name] for row in rows]
                mean = statistics.mean(part["value"] for part in parts)
                seeds = ", ".join(f"{part['value']:+.3f} ({part['low']:+.3f} to {part['high']:+.3f})" for part in parts)
                print(f"{variant:20} {'reward' if name == 'difference' else name:10} {mean:+.4f}   {seeds}")
            # A user's gain is the mean of all seeds, so that the interval is that of users and not of seeds.
            gains = [hits(folder_of(out, row) / "eval" / "srpo") - before for row in rows]
            gain = mean_with_interval(np.mean(gains, axis=0), seed=42)
            print(f"{variant:20} {'over SFT':10} {gain.value:+.4f}   ({gain.low:+.4f} to {gain.high:+.4f})")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a finished run: SFT checkpoint, RL rows, index")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=22)
    parser.add_argument("options", nargs="*", help="further overrides for every job")
    given = parser.parse_args()
    run, out = given.run.resolve(), given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.jsonl"
    results = read_jsonl(path) if path.exists() else []
    done = {(row["variant"], row["seed"], row["steps"]) for row in results}
    levels = min(len(tokens) for tokens in read_json(run / "index.json", remedy="make it again").values())
    # Seed by seed, so that a stop leaves whole comparisons.
    for seed in given.seeds:
        for variant in VARIANTS:
            if (variant, seed, given.steps) in done:
                continue
            print(f"{variant}, seed {seed}", flush=True)
            job = folder_of(out, {"variant": variant, "seed": seed, "steps": given.steps})
            row = finish(run, job, variant, seed, given.steps, levels, given.options)
            with path.open("a", encoding="utf-8") as stream:
                stream.write(jsonl_line(row))
            results.append(row)
    show(run, out, results)


if __name__ == "__main__":
    main()
