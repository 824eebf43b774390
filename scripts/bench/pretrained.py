"""What a pretrained start is worth, and how new rows should start: the loss on rows held out, at equal budgets.

    bash scripts/quickstart.sh --base smollm2 --reviews REVIEWS --meta METADATA --name gifts
    source scripts/environment.sh
    PYTHONPATH=. python scripts/bench/pretrained.py --run runs/gifts --base models/smollm2 --out runs/pretrained

Every arm is a model trained by LLaMA-Factory on the same rows in the same order, at a constant learning rate, and asked
at each budget for the validation items of users, the text of items whose texts no row of training shows (new rows that
start from words start from theirs, too), and the id of such texts. Rows of other tasks are left out, as they show texts
of several items. Finished arms are skipped when it is started again. Some ten minutes an arm on two idle cores, by
arithmetic.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gream.config import load_config
from gream.files import Row, iterate_jsonl, write_json, write_jsonl
from gream.protocol import held_out, read_interactions
from gream.tasks import Material, Record, render_record

from data_processing.config import DataRecipe
from data_processing.model import build_model
from data_processing.pretrained.base import open_base

ROOT = Path(__file__).resolve().parents[2]

HELD_OUT = ("next", "text", "id")
SEED = 42

# Where the weights start, which rows are trained on, and settings of LLaMA-Factory.
ARMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "random weights": ("random", "train", ()),
    "gaussian rows": ("gaussian", "train", ()),
    "semantic rows": ("semantic", "train", ()),
    "centroid rows": ("centroid", "train", ()),
    "semantic, next items alone": ("semantic", "train_next", ()),
    "semantic, LoRA": ("semantic", "train", ("finetuning_type=lora", "lora_target=all", "learning_rate=2e-3")),
}


def write_rows(recipe: DataRecipe, run: Path, folder: Path, users: int, share: float) -> None:
    """The rows that all arms are trained on, and those held out, as data sets of LLaMA-Factory.

    Args:
        recipe: Of the run.
        run: A run folder after the stage ``sft``.
        folder: Made here.
        users: Whose validation items are asked for.
        share: Of the items, those whose texts are held out.
    """
    material = Material.load(run / "sft")
    random_ = np.random.default_rng(SEED)
    items = set(random_.permutation(len(material.ids))[: round(share * len(material.ids))].tolist())
    sets: dict[str, list[Row]] = {"train": [], "train_next": [], **{name: [] for name in HELD_OUT}}
    told = {"id_to_text": "text", "text_to_id": "id"}
    names = ("alignment_records.jsonl", "alignment.jsonl")
    for (_, record), (_, row) in zip(*(iterate_jsonl(run / "sft" / name) for name in names), strict=True):
        task = record["task"]
        if task == "next_item":
            sets["train"].append(row)
            sets["train_next"].append(row)
        elif task in told:
            sets[told[task] if record["item"] in items else "train"].append(row)
    cases = held_out(read_interactions(run / "interactions.parquet"), "valid").sample(users, SEED)
    for target, history in zip(cases.targets.tolist(), cases.histories, strict=True):
        asked = Record(task="next_item", template=0, item=target, history=list(history[-recipe.sft.history :]), user=-1)
        sets["next"].append({"messages": render_record(asked, material)})
    shape = json.loads((run / "sft" / "dataset_info.json").read_text())["alignment"]
    folder.mkdir(parents=True)
    for name, rows in sets.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    write_json(folder / "dataset_info.json", {name: {**shape, "file_name": f"{name}.jsonl"} for name in sets})


def make_model(start: str, recipe: DataRecipe, run: Path, base: Path, folder: Path) -> None:
    """The extended model of an arm; ``random`` has the base's shape and weights of its own."""
    kind = "gaussian" if start == "random" else start
    build_model(
        recipe.model.model_copy(update={"initialisation": kind}),
        recipe.sft,
        SEED,
        base=open_base(base),
        index=run / "index.json",
        items=run / "items.parquet",
        enriched=run / "enriched.jsonl",
        sft=run / "sft",
        out=folder,
    )
    if start == "random":
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(SEED)
        config = AutoConfig.from_pretrained(folder / "model")
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "model")


def train(arm: str, folder: Path, data: Path, budgets: list[int]) -> dict[str, Any]:
    """Losses in nats per token of each held-out set, by steps."""
    _, rows, settings = ARMS[arm]
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = [
        *(str(Path(sys.executable).parent / "llamafactory-gream"), "train", "smollm2_alignment"),
        f"model_name_or_path={folder}/model",
        f"dataset_dir={data}",
        f"dataset={rows}",
        f"eval_dataset={','.join(HELD_OUT)}",
        *("eval_on_each_dataset=true", "eval_strategy=steps", f"eval_steps={budgets[0]}"),
        *("per_device_eval_batch_size=16", "lr_scheduler_type=constant_with_warmup", "plot_loss=false"),
        *(f"max_steps={budgets[-1]}", "save_steps=1000000", f"output_dir={folder}/out"),
        *settings,
    ]
    with open(folder / "log", "w") as log:
        subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)
    history = json.loads((folder / "out" / "trainer_state.json").read_text())["log_history"]
    losses: dict[int, dict[str, float]] = {}
    for entry in history:
        for name in HELD_OUT:
            if f"eval_{name}_loss" in entry and entry["step"] in budgets:
                losses.setdefault(entry["step"], {})[name] = entry[f"eval_{name}_loss"]
    for weights in (folder / "out").rglob("*.safetensors"):
        weights.unlink()
    seconds = next(entry["train_runtime"] for entry in history if "train_runtime" in entry)
    return {"arm": arm, "losses": losses, "seconds": round(seconds)}


def main() -> None:
    """Train what is not done yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run folder after the stage 'sft'")
    parser.add_argument("--base", type=Path, required=True, help="folder of the pretrained model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the arms")
    parser.add_argument("--budgets", type=int, nargs="+", default=[25, 50, 100], help="steps, multiples of the first")
    parser.add_argument("--users", type=int, default=96, help="whose next item is asked for")
    parser.add_argument("--share", type=float, default=0.2, help="of the items, whose texts are held out")
    options = parser.parse_args()
    recipe = load_config(DataRecipe, ROOT / "recipes" / "data" / "smollm2.yaml")
    run, out = options.run.resolve(), options.out.resolve()
    if not (out / "rows").is_dir():
        write_rows(recipe, run, out / "rows", options.users, options.share)
    results = []
    for number, (arm, (start, *_)) in enumerate(ARMS.items()):
        folder = out / str(number)
        if not (folder / "result.json").is_file():
            folder.mkdir(exist_ok=True)
            make_model(start, recipe, run, options.base, folder)
            write_json(folder / "result.json", train(arm, folder, out / "rows", options.budgets))
            shutil.rmtree(folder / "model")
        results.append(json.loads((folder / "result.json").read_text()))
        print(f"{arm}: {results[-1]['seconds']} s", file=sys.stderr)
    rows = {name: sum(1 for _ in iterate_jsonl(out / "rows" / f"{name}.jsonl")) for name in HELD_OUT}
    print(f"nats per token on rows held out {rows}, after {', '.join(map(str, options.budgets))} steps of 8 rows")
    for result in results:
        cells = [" ".join(f"{result['losses'][str(step)][name]:6.3f}" for step in options.budgets) for name in HELD_OUT]
        print(f"{result['arm']:28} {'   '.join(cells)}   {result['seconds']:5} s")


if __name__ == "__main__":
    main()
