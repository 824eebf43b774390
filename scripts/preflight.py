"""Before a reproduction: is everything there that it needs, and how long will it take? Called by scripts/reproduce.sh.

Prints one line per check, "ok" or "x", then the estimate; ends with status 1 where a check failed. Nothing is written.
LLaMA-Factory and verl judge their recipes themselves, in processes of their own.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from gream.config import load_config, read_yaml
from gream.errors import GreamError, exit_with_error_line
from gream.files import read_json
from safetensors import SafetensorError, safe_open

from data_processing.config import DataRecipe, SftConfig
from data_processing.readers.formats import check_format

GB = 10**9
# Qwen3-4B, where no base model is there to be counted.
PARAMETERS = 4.02 * GB

# What the estimate of time rests on. Tokens are Beauty's in the published layout with recipes/data/paper.yaml, by a
# byte-level BPE of 2,048 tokens; the larger vocabulary of a pretrained model makes fewer of the same text.
ROW_TOKENS = {"alignment": 86, "chain": 196, "direct": 78}
PROMPT_TOKENS, CHAIN_TOKENS = 104, 92
# Targets that the template teacher finds an argument for: 37,435 of 71,486.
SUPPORTED = 0.52
# Assumptions; nothing of this project has been measured on a GPU.
FLOPS = 312e12  # bf16, dense, of an A100 by its data sheet
USED = 0.25  # of it, in training
PADDING = 1.5  # rows of one batch are padded to the longest
GENERATIONS = 2  # responses sampled per response trained on, under dynamic sampling
SAMPLED_PER_SECOND = 5000  # tokens per GPU by vLLM
STEP_OVERHEAD = 30  # seconds of an SRPO step: weights to the rollout, rewards, waiting for the longest response
FORWARD_SECONDS = 0.04  # a step of decoding in process, whatever the batch


@dataclass(frozen=True)
class Check:
    """One line of the result.

    Attributes:
        part: What was looked at.
        said: What is there, or what is wrong and what to do.
        good: Whether it will do.
    """

    part: str
    said: str
    good: bool = True


@dataclass(frozen=True)
class Work:
    """A line of the estimate.

    Attributes:
        stage: Its name.
        what: What there is to do.
        seconds: How long that may take.
    """

    stage: str
    what: str
    seconds: float


def check_data(arguments: argparse.Namespace) -> Iterator[Check]:
    """The two files of the data set, and whether they hold what the recipe asks of them."""
    files: tuple[Path, Path] = (arguments.reviews, arguments.metadata)
    if not all(path.is_file() for path in files):
        names = [f"{a} and {b} ({layout})" for layout, a, b in zip(*[iter(arguments.layouts)] * 3, strict=True)]
        yield Check(
            "data",
            f"{files[0].parent}: holds neither {', nor '.join(names)}, plain, .gz or .zst; {arguments.published}; "
            "name their folder with --raw",
            good=False,
        )
        return
    try:
        for path in files:
            check_format(path, arguments.format)
    except GreamError as error:
        yield Check("data", str(error), good=False)
        return
    if arguments.base and ".item2id" in files[1].name:
        yield Check("data", f"{files[1]}: holds no texts to make semantic ids of; take the raw dump", good=False)
        return
    yield Check("data", f"{arguments.format}: {files[0]}, {files[1]}")


def check_base(base: Path) -> Iterator[Check]:
    """The language model's folder."""
    weights = sorted(base.glob("*.safetensors"))
    if not (base / "config.json").is_file() or not weights:
        yield Check(
            "base model",
            f"{base}: no config.json and *.safetensors there; the paper's is Qwen3-4B-Instruct-2507, published by the "
            "Qwen team: name its folder with --base",
            good=False,
        )
        return
    try:
        tokenizer = (base / "tokenizer.json").read_text(encoding="utf-8")
    except OSError as error:
        yield Check("base model", f"{base}/tokenizer.json: cannot be read ({error.strerror})", good=False)
        return
    if "<|im_start|>" not in tokenizer:
        yield Check("base model", f"{base}: its tokenizer has no ChatML markers (<|im_start|>); use Qwen", good=False)
        return
    try:
        yield Check("base model", f"{base}: {parameters_of(base) / 1e6:,.1f} million parameters")
    except GreamError as error:
        yield Check("base model", str(error), good=False)


def parameters_of(base: Path) -> int:
    """Parameters of a model folder, counted from the headers of its weights.

    Raises:
        GreamError: A file is no safetensors file, or shorter than its header says.
    """
    total = 0
    for path in sorted(base.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as tensors:
                names = tensors.keys()
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
        except (OSError, SafetensorError) as error:
            raise GreamError(f"{path}: cannot be read as safetensors ({error}); fetch it again") from None
    return total


def run_check(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What a framework says of its recipe; where it runs does not matter, so that no GPU is touched."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def check_recipes(arguments: argparse.Namespace) -> tuple[list[Check], dict[str, Any]]:
    """What both frameworks say of their recipes, and verl's whole configuration; empty where it has none."""
    sft = ["llamafactory-gream", "check", *map(str, arguments.sft), *arguments.sft_settings]
    rl = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-dir", "recipes/rl", "--config-name", arguments.rl]
    rl += ["--cfg", "job", "--resolve", *arguments.rl_settings]
    with ThreadPoolExecutor() as pool:
        parsed, composed = pool.map(run_check, (sft, rl))
    checks = []
    if parsed.returncode == 0:
        names = ", ".join(map(str, arguments.sft))
        checks.append(Check("SFT recipes", f"{names}: LLaMA-Factory's parser accepts them"))
    else:
        said = parsed.stderr.strip().splitlines() or ["llamafactory-gream check failed"]
        checks.append(Check("SFT recipes", said[-1].removeprefix("error: "), good=False))
    recipe = f"recipes/rl/{arguments.rl}.yaml"
    if composed.returncode == 0:
        checks.append(Check("RL recipe", f"{recipe}: verl composes it"))
        return checks, yaml.safe_load(composed.stdout)
    # Behind the warnings of imports, Hydra says what is wrong first and how to see more last.
    said = [line for line in composed.stderr.splitlines() if line.strip() and "warn" not in line.lower()]
    checks.append(Check("RL recipe", f"{recipe}: {said[0] if said else 'verl refuses it'}", good=False))
    return checks, {}


def check_modules(job: dict[str, Any]) -> Iterator[Check]:
    """What training on GPUs needs besides requirements.txt."""
    rollout = job["actor_rollout_ref"]["rollout"]["name"] if job else "vllm"
    needed = {"deepspeed": "LLaMA-Factory's ZeRO-2", rollout: "verl's rollout"}
    if not job or job["actor_rollout_ref"]["model"]["use_remove_padding"]:
        needed["flash_attn"] = "verl's packed sequences (actor_rollout_ref.model.use_remove_padding)"
    missing = [f"{name} for {what}" for name, what in needed.items() if find_spec(name) is None]
    if missing:
        yield Check("packages", f"not installed: {'; '.join(missing)}", good=False)
    else:
        yield Check("packages", ", ".join(needed))


def check_gpus(gpus: int, parameters: float, job: dict[str, Any]) -> Iterator[Check]:
    """GPUs of this machine against what full fine-tuning and SRPO of the model take."""
    import torch

    needed = gpu_bytes(gpus, parameters, job)
    wanted = f"{gpus} of {needed / GB:.0f} GB needed for {parameters / GB:.1f} billion parameters"
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    said = f"{len(found)} GPU: {found[0].name}, {found[0].total_memory / GB:.0f} GB" if found else "no GPU found"
    good = len(found) >= gpus and min(gpu.total_memory for gpu in found[:gpus]) >= needed
    remedy = "" if good else "; take more GPUs (--gpus), larger ones, or a smaller base model"
    yield Check("GPUs", f"{said}; {wanted}{remedy}", good=good)


def gpu_bytes(gpus: int, parameters: float, job: dict[str, Any]) -> float:
    """Memory that each GPU needs, by rule of thumb.

    ZeRO-2 holds the weights in bf16 (2 bytes a parameter) whole and gradients, master weights and Adam's moments (2, 4
    and 8) in shares; FSDP2 all four in float32 (16) in shares, beside which vLLM takes its own share of the memory.
    """
    activations = 10 * GB
    sft = 2 * parameters + 14 * parameters / gpus + activations
    update = 16 * parameters / gpus + 2 * activations
    engine = job["actor_rollout_ref"]["rollout"]["gpu_memory_utilization"] if job else 0.6
    return max(sft, update, 16 * parameters / gpus / (0.95 - engine))


def check_disk(arguments: argparse.Namespace, parameters: float, job: dict[str, Any]) -> Iterator[Check]:
    """Room where the run folder is, for what it does not hold yet."""
    run: Path = arguments.run
    held = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) if run.exists() else 0
    saved = sum(read_yaml(recipe).get("save_total_limit", 1) for recipe in arguments.sft)
    saved += job["trainer"]["max_actor_ckpt_to_keep"] if job else 2
    # 16 bytes a parameter are a checkpoint to resume from, and while one is written, that which it replaces is still
    # there; 2 bytes are a model in bf16: the extended base, and what each SFT stage ends with.
    needed = parameters * (16 * (saved + 1) + 2 * 3)
    needed += (4 if arguments.base else 1) * GB  # data, token ids, logs
    where = next(folder for folder in (run, *run.resolve().parents) if folder.exists())
    free = shutil.disk_usage(where).free
    said = f"{free / GB:,.0f} GB free at {where}, {max(0, needed - held) / GB:,.0f} GB needed"
    good = free >= needed - held
    yield Check("disk", said if good else f"{said}; make room, or make {run} a link to another disk", good=good)


def estimate(arguments: argparse.Namespace, parameters: float, job: dict[str, Any]) -> list[Work]:
    """How long the stages may take, from the rows that the data recipe makes of the data set."""
    users, items, interactions, targets = counted(arguments.run) or arguments.counts
    aligned, chains, direct = counted_rows(arguments.run) or expected_rows(
        load_config(DataRecipe, arguments.data).sft, users, items, interactions - 3 * users, targets
    )
    aligned *= arguments.passes
    rate = arguments.gpus * FLOPS * USED

    def training(tokens: float) -> float:
        # Forward, backward (twice as much) and the forward of gradient checkpointing.
        return PADDING * tokens * 8 * parameters / rate

    work = [
        Work("data", f"{users:,} users, {items:,} items", 300 + 2e-3 * interactions),
        Work(
            "sft-alignment",
            f"{aligned:,} rows of {ROW_TOKENS['alignment']} tokens",
            training(aligned * ROW_TOKENS["alignment"]),
        ),
        Work(
            "sft-reasoning",
            f"{chains:,} rows with chains of {ROW_TOKENS['chain']} tokens, {direct:,} without of "
            f"{ROW_TOKENS['direct']}",
            training(chains * ROW_TOKENS["chain"] + direct * ROW_TOKENS["direct"]),
        ),
    ]
    if job:
        steps, batch = job["trainer"]["total_training_steps"], job["data"]["train_batch_size"]
        rollouts = job["actor_rollout_ref"]["rollout"]["n"]
        sampled = GENERATIONS * batch * rollouts * CHAIN_TOKENS / (SAMPLED_PER_SECOND * arguments.gpus)
        # The update, and a forward each of the reference and of the policy before it.
        update = batch * rollouts * (PROMPT_TOKENS + CHAIN_TOKENS) * (8 + 2 + 2) * parameters / rate
        work.append(
            Work(
                "srpo",
                f"{steps} steps of {batch} prompts x {rollouts} responses of {CHAIN_TOKENS} tokens",
                steps * (sampled + update + STEP_OVERHEAD),
            )
        )
    batches = 2 * users / 32 / arguments.gpus
    # One malformed chain makes its batch run on to the limit: the longest of 32 is taken as twice the mean.
    decoding = batches * FORWARD_SECONDS * (5 + 2 * CHAIN_TOKENS + 5)
    # SASRec on Beauty: 441 s of one core.
    work.append(Work("evaluation", f"4 x {users:,} users, baselines", decoding + 441 * interactions / 198_502))
    return work


def expected_rows(sft: SftConfig, users: int, items: int, with_history: int, targets: int) -> tuple[int, int, int]:
    """Rows of one pass of alignment; rows with a chain and direct ones of the reasoning stage."""
    rows = (sft.next_item + sft.fused_next) * with_history
    rows += (sft.id_to_text + sft.text_to_id) * items + (sft.search + sft.preference) * users
    return round(rows), round(SUPPORTED * targets), with_history


def counted_rows(run: Path) -> tuple[int, int, int] | None:
    """The same, where the stage 'sft' has written them."""
    statistics = read_statistics(run / "sft" / "statistics.json")
    if statistics is None:
        return None
    return sum(statistics["alignment"].values()), statistics["reasoning"], statistics["alignment_rows_mixed_in"]


def counted(run: Path) -> tuple[int, int, int, int] | None:
    """Users, items, interactions and targets from position 4 on, where the stage 'interactions' has counted them."""
    statistics = read_statistics(run / "statistics.json")
    if statistics is None:
        return None
    targets = statistics["training_targets"]["at_position_4_or_later"]
    return statistics["users"], statistics["items"], statistics["interactions"], targets


def read_statistics(path: Path) -> dict[str, Any] | None:
    """What a finished stage counted."""
    return read_json(path, remedy="make it again") if path.exists() else None


def hours(seconds: float) -> str:
    """A duration, no more exact than it is known."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"


def read_arguments() -> argparse.Namespace:
    """What scripts/reproduce.sh passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("reviews", "metadata", "data", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("--layouts", nargs="+", required=True, help="format, reviews, metadata of each layout")
    parser.add_argument("--published", required=True, help="where the files come from")
    parser.add_argument("--base", type=Path, help="without one, a tiny model is made and no GPU needed")
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--sft", nargs="+", type=Path, required=True, help="recipes")
    parser.add_argument("--sft-settings", nargs="*", default=[], help="KEY=VALUE behind each of them")
    parser.add_argument("--rl", required=True, help="recipe")
    parser.add_argument("--rl-settings", nargs="*", default=[], help="KEY=VALUE behind it")
    parser.add_argument("--passes", type=int, required=True, help="over the alignment rows")
    parser.add_argument("--counts", nargs=4, type=int, required=True, help="users, items, interactions, targets")
    return parser.parse_args()


def main() -> None:
    """Print every check and the estimate; status 1 where a check failed."""
    arguments = read_arguments()
    parameters = 1e6
    checks = list(check_data(arguments))
    if arguments.base:
        base = list(check_base(arguments.base))
        parameters = parameters_of(arguments.base) if base[0].good else PARAMETERS
        checks += base
    recipes, job = check_recipes(arguments)
    checks += recipes
    checks += check_disk(arguments, parameters, job)
    if arguments.base:
        checks += check_modules(job)
        checks += check_gpus(arguments.gpus, parameters, job)
    for check in checks:
        print(f"  {'ok' if check.good else 'x '}  {check.part}: {check.said}")

    if arguments.base:
        work = estimate(arguments, parameters, job)
        total = hours(sum(part.seconds for part in work))
        print(f"\n  {arguments.gpus} GPU{'s' * (arguments.gpus > 1)} as fast as an A100 may take {total}:")
        for part in work:
            print(f"    {part.stage:14}{hours(part.seconds):>8}  {part.what}")
        print(
            "  This is arithmetic, not a measurement: nothing here was run on a GPU. Training at "
            f"{USED:.0%} of {FLOPS / 1e12:.0f} TFLOP/s,\n  {SAMPLED_PER_SECOND:,} sampled tokens per second and GPU, "
            "rows as long as on Beauty. Three times more or less would\n  not surprise."
        )
    else:
        print("\n  A tiny model on some of the users: minutes on two CPU cores.")
    sys.exit(0 if all(check.good for check in checks) else 1)


if __name__ == "__main__":
    exit_with_error_line(main)
