"""Validation losses of the training schedules, from one aligned model, on the same rows in another order.

    python scripts/bench/curriculum.py --run RUN [--aligned CHECKPOINT] [--rows 4000] [--figure FILE.svg]

RUN holds the stages up to ``sft`` and ``model``. A model is aligned on next-item rows, or is the checkpoint of the
alignment stage; then, for each schedule, a copy of it is trained once over the same sampled rows, from the same state.
Every so often it is asked for the validation items of some users:
directly, and after the template teacher's chain, which knows them. The second is no recommendation accuracy: it says
how well chain and item are learned.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gream.dialogue import Message, direct_prompt, reasoning_prompt, render_prompt
from gream.semantic_ids.catalog import Catalog
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

from data_processing.config import CurriculumConfig
from data_processing.curriculum import reasoning_share, training_order
from data_processing.labels import labelled
from data_processing.tables import read_items, read_jsonl, read_sequences, read_training_sequences
from data_processing.teacher import argue, usual_successors

SCHEDULES = ("ramp", "shuffled", "official")
HISTORY = 20
# Tokens of one row, and which of them are learned.
Row = tuple[list[int], list[bool]]


def encode(tokenizer: Any, prompt: Sequence[Message], answer: str, *, whole: bool = False) -> Row:
    """A row; its prompt is learned as well where ``whole``."""
    asked = tokenizer(render_prompt(prompt), add_special_tokens=False)["input_ids"]
    said = tokenizer(answer + "<|im_end|>\n", add_special_tokens=False)["input_ids"]
    return [*asked, *said], [whole] * len(asked) + [True] * len(said)


def batch_of(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids ``[B, T]``, labels ``[B, T]`` (-100 where not learned) and mask ``[B, T]``."""
    width = max(len(tokens) for tokens, _ in rows)
    ids, labels, mask = (torch.full((len(rows), width), fill) for fill in (0, -100, 0))
    for place, (tokens, learned) in enumerate(rows):
        ids[place, : len(tokens)] = torch.tensor(tokens)
        labels[place, : len(tokens)] = torch.tensor(tokens).where(torch.tensor(learned), torch.tensor(-100))
        mask[place, : len(tokens)] = 1
    return ids, labels, mask


@torch.inference_mode()
def loss_of(model: Any, rows: Sequence[Row]) -> float:
    """Mean cross-entropy of learned tokens, in nats."""
    model.eval()
    total, count = 0.0, 0
    for first in range(0, len(rows), 50):
        ids, labels, mask = batch_of(rows[first : first + 50])
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
        wanted = labels[:, 1:].flatten()
        total += torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum").item()
        count += int((wanted != -100).sum())
    model.train()
    return total / count


def train(model: Any, rows: Sequence[Row], *, batch: int, rate: float, watch: Any = None, every: int = 0) -> None:
    """One pass in the order given; ``watch(step)`` every so many steps, at the start and at the end."""
    steps = len(rows) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(0.05 * steps), steps)
    for step in range(steps):
        if watch and step % every == 0:
            watch(step)
        ids, labels, mask = batch_of(rows[step * batch : (step + 1) * batch])
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    if watch:
        watch(steps)


def validation_rows(run: Path, tokenizer: Any, users: int, seed: int) -> dict[str, list[Row]]:
    """The validation items of some users: asked for directly, and a chain and an item after it."""
    catalog, known = Catalog.load(run / "index.json"), labelled(read_items(run / "items.parquet"))
    sequences = read_sequences(run / "interactions.parquet")
    training = read_training_sequences(run / "interactions.parquet")
    successors = usual_successors([[known[item] for item in sequence] for sequence in training.values()])
    random_ = random.Random(seed)
    rows: dict[str, list[Row]] = {"direct": [], "chain": [], "item after chain": []}
    for user in random_.sample(sorted(sequences), len(sequences)):
        history, target = sequences[user][:-2][-HISTORY:], sequences[user][-2]
        ids = [catalog.text(item) for item in history]
        answer = argue([known[item] for item in history], known[target], ids, catalog.text(target), successors, random_)
        if answer is None:
            continue
        rows["direct"].append(encode(tokenizer, direct_prompt(ids), catalog.text(target)))
        tokens, learned = encode(tokenizer, reasoning_prompt(ids), answer.render())
        tail = tokenizer(f"{catalog.text(target)}</answer><|im_end|>\n", add_special_tokens=False)["input_ids"]
        head = len(tokens) - len(tail)
        rows["chain"].append((tokens[:head], learned[:head]))
        rows["item after chain"].append(
            (
                tokens,
                [False] * head + [True] * len(catalog.ids[target]) + [False] * (len(tail) - len(catalog.ids[target])),
            )
        )
        if len(rows["direct"]) == users:
            break
    # Of the direct rows, too, only the id counts.
    rows["direct"] = [(tokens, [*learned[:-2], False, False]) for tokens, learned in rows["direct"]]
    return rows


def draw(result: dict[str, Any], path: Path) -> None:
    """The share of reasoning rows and the validation losses over the steps, a line per schedule."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "gream", "font.size": 8})
    import matplotlib.pyplot as plt

    panels = ["share of reasoning rows", "direct", "chain", "item after chain"]
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 2.8), layout="constrained")
    for axis, panel in zip(axes, panels, strict=True):
        for schedule, style in zip(result["schedules"], ("-", "--", ":"), strict=False):
            points = result["schedules"][schedule][panel]
            axis.plot(*zip(*points, strict=True), style, label=schedule)
        axis.set_title(panel if panel == panels[0] else f"validation loss: {panel}", fontsize=8)
        axis.set_xlabel("step")
    axes[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4000, help="rows of either kind")
    parser.add_argument("--aligned", type=Path, help="checkpoint to start from; otherwise RUN/model is aligned first")
    parser.add_argument("--alignment-steps", type=int, default=300)
    parser.add_argument("--watch", type=int, default=10, help="times that losses are measured")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--schedules", nargs="+", default=list(SCHEDULES), choices=SCHEDULES)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    random_ = random.Random(options.seed)

    start = options.aligned or options.run / "model"
    tokenizer = AutoTokenizer.from_pretrained(start)
    base = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    rows = [row["messages"] for row in read_jsonl(options.run / "sft" / "reasoning.jsonl")]
    kinds: dict[bool, list[Any]] = {False: [], True: []}
    for messages in rows:
        kinds["<think>" in messages[-1]["content"]].append(messages)
    # In the order of the file: short histories first.
    chosen = {
        kind: [all_[place] for place in sorted(random_.sample(range(len(all_)), min(options.rows, len(all_))))]
        for kind, all_ in kinds.items()
    }
    learned = [
        encode(tokenizer, messages[:-1], messages[-1]["content"]) for messages in (*chosen[False], *chosen[True])
    ]
    held_out = validation_rows(options.run, tokenizer, options.users, options.seed)

    base.train()
    if options.aligned is None:
        began = time.monotonic()
        seen = random_.choices(kinds[False], k=options.alignment_steps * options.batch)
        known = [encode(tokenizer, messages[:-1], messages[-1]["content"], whole=True) for messages in seen]
        train(base, known, batch=options.batch, rate=2e-3)
        print(f"aligned: {options.alignment_steps} steps, {time.monotonic() - began:.0f} s", flush=True)

    result: dict[str, Any] = {
        "options": {key: str(value) for key, value in vars(options).items() if key not in ("run", "aligned", "figure")},
        "schedules": {},
    }
    for schedule in options.schedules:
        order = training_order(CurriculumConfig(schedule=schedule), len(chosen[False]), len(chosen[True]), options.seed)
        model, began = copy.deepcopy(base), time.monotonic()
        curves: dict[str, list[tuple[float, float]]] = {name: [] for name in held_out}
        share = reasoning_share(order, len(chosen[False]), 40)
        curves["share of reasoning rows"] = [(place / options.batch, value) for place, value in share]

        def watch(step: int, model: Any = model, curves: Any = curves, schedule: str = schedule) -> None:
            losses = {name: loss_of(model, held) for name, held in held_out.items()}
            for name, loss in losses.items():
                curves[name].append((step, round(loss, 4)))
            print(schedule, step, *(f"{name} {loss:.4f}" for name, loss in losses.items()), sep="  ", flush=True)

        steps = len(order) // options.batch
        train(
            model,
            [learned[row] for row in order],
            batch=options.batch,
            rate=1e-3,
            watch=watch,
            every=max(1, steps // options.watch),
        )
        result["schedules"][schedule] = {**curves, "seconds": round(time.monotonic() - began)}
    if options.figure:
        draw(result, options.figure)
        options.figure.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
