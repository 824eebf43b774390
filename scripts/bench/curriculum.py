"""Validation losses over supervised training, each arm with one thing changed, from one model on the same rows.

    PYTHONPATH=. python scripts/bench/curriculum.py --run RUN [--steps 400] [--rows 4000] [--figure FILE.svg]

RUN holds the stages up to ``sft`` and ``model``. Its model is first trained on the catalogue's texts alone, so that
its words have a meaning; then its semantic ids get their rows, it is aligned for ``--steps`` steps, and trained once
over ``--rows`` next-item rows and as many reasoning rows. The arms:

    base        rows drawn from a Gaussian; all alignment tasks; the share of reasoning rows ramps up
    unaligned   next-item rows alone in the place of the alignment tasks, as many
    semantic    each new row starts as the mean of the words of the items under it
    official, shuffled    the reasoning stage's rows in another order

Every so often the model is asked for the validation items of some users: directly, and after the template teacher's
chain, which knows them. The second is no recommendation accuracy: it says how well chain and item are learned.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from gream.dialogue import Message, direct_prompt, reasoning_prompt, render_prompt
from gream.files import read_jsonl
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.extension import semantic_rows, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

from data_processing.config import CurriculumConfig
from data_processing.rows.curriculum import reasoning_share, training_order
from data_processing.tables import read_items, read_sequences, read_training_sequences
from data_processing.teacher.labels import labelled
from data_processing.teacher.template import argue, usual_successors

HISTORY = 20
# Tokens of one row, and which of them are learned.
Row = tuple[list[int], list[bool]]
Curves = dict[str, list[tuple[float, float]]]


class Arm(NamedTuple):
    """One way of training; see the module."""

    semantic: bool = False
    aligned: bool = True
    schedule: Literal["ramp", "official", "shuffled"] = "ramp"


ARMS = {
    "base": Arm(),
    "unaligned": Arm(aligned=False),
    "semantic": Arm(semantic=True),
    "official": Arm(schedule="official"),
    "shuffled": Arm(schedule="shuffled"),
}


def encode(tokenizer: Any, prompt: Sequence[Message], answer: str) -> Row:
    """A row whose answer is learned."""
    asked = tokenizer(render_prompt(prompt), add_special_tokens=False)["input_ids"]
    said = tokenizer(answer + "<|im_end|>\n", add_special_tokens=False)["input_ids"]
    return [*asked, *said], [False] * len(asked) + [True] * len(said)


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


def train(
    model: Any,
    rows: Sequence[Row],
    *,
    batch: int,
    rate: float,
    watch: Callable[[int], None] | None = None,
    every: int = 1,
) -> None:
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


def item_texts(run: Path) -> list[str]:
    """What is known of each item in words, item 0 first."""
    items, enriched = read_items(run / "items.parquet"), read_jsonl(run / "enriched.jsonl")
    return [
        f"{item.title}\n{item.brand}\n{', '.join(item.categories)}\n{row['description']}\n"
        for item, row in zip(items, enriched, strict=True)
    ]


def start_of(base: Any, tokenizer: Any, catalog: Catalog, texts: Sequence[list[int]] | None, seed: int) -> Any:
    """A copy of ``base`` whose semantic ids have rows that nothing was learned in, by the words of items or drawn."""
    model = copy.deepcopy(base)
    rows = tokenizer.convert_tokens_to_ids(list(catalog.tokens))
    rows_of = partial(semantic_rows, catalog.tokens, catalog.ids, texts) if texts else None
    write_rows(model, rows, min(rows), seed=seed, rows_of=rows_of)
    return model


def draw(arms: Mapping[str, Curves], steps: int, path: Path) -> None:
    """Validation losses over the steps of both stages, the first of ``steps``, and the share of reasoning rows."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "gream", "font.size": 8})
    import matplotlib.pyplot as plt

    panels = ["direct", "chain", "item after chain", "share of reasoning rows"]
    figure, axes = plt.subplots(1, len(panels), figsize=(13, 3), layout="constrained")
    for axis, panel in zip(axes, panels, strict=True):
        for (name, curves), style in zip(arms.items(), ("-", "--", "-.", ":", ":"), strict=False):
            axis.plot(*zip(*curves[panel], strict=True), style, label=name)
        axis.axvline(steps, color="0.8", linewidth=0.8, zorder=0)
        axis.set_title(panel if panel == panels[-1] else f"validation loss: {panel}", fontsize=8)
        axis.set_xlabel("step")
    axes[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--text-steps", type=int, default=300, help="steps on the catalogue's texts")
    parser.add_argument("--steps", type=int, default=400, help="steps of alignment")
    parser.add_argument("--rows", type=int, default=4000, help="rows of either kind in the reasoning stage")
    parser.add_argument("--watch", type=int, default=6, help="times per stage that losses are measured")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    random_ = random.Random(options.seed)
    run, batch = options.run, options.batch

    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    base = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    catalog = Catalog.load(run / "index.json")
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in item_texts(run)]
    held_out = validation_rows(run, tokenizer, options.users, options.seed)

    def sample(rows: Sequence[Any], count: int) -> list[Row]:
        """Rows of an ``sft`` file, in its order: in the curriculum, short histories first."""
        kept: list[int] = []
        while len(kept) < count:  # more than there are: in several passes
            kept += sorted(random_.sample(range(len(rows)), min(count - len(kept), len(rows))))
        return [encode(tokenizer, rows[place][:-1], rows[place][-1]["content"]) for place in kept]

    steps = options.steps
    aligned, reasoning = (
        [row["messages"] for row in read_jsonl(run / "sft" / f"{name}.jsonl")] for name in ("alignment", "reasoning")
    )
    records = read_jsonl(run / "sft" / "alignment_records.jsonl")
    next_item = [row for row, record in zip(aligned, records, strict=True) if record["task"] == "next_item"]
    alignment = {True: sample(aligned, steps * batch), False: sample(next_item, steps * batch)}
    direct = sample([row for row in reasoning if "<think>" not in row[-1]["content"]], options.rows)
    reasoned = sample([row for row in reasoning if "<think>" in row[-1]["content"]], options.rows)
    later = [*direct, *reasoned]

    began = time.monotonic()
    base.train()
    of_texts = [(text[:256], [True] * len(text[:256])) for text in random_.choices(texts, k=options.text_steps * batch)]
    train(base, of_texts, batch=batch, rate=2e-3)
    print(f"texts: {options.text_steps} steps, {time.monotonic() - began:.0f} s", flush=True)

    arms: dict[str, Curves] = {}
    # Arms that differ in the second stage alone share the first.
    first: dict[tuple[bool, bool], tuple[Any, Curves]] = {}
    for name in options.arms:
        arm, began = ARMS[name], time.monotonic()

        def watch(step: int, *, model: Any, curves: Curves, name: str = name) -> None:
            losses = {kind: loss_of(model, held) for kind, held in held_out.items()}
            for kind, loss in losses.items():
                curves[kind].append((step, round(loss, 4)))
            print(name, step, *(f"{kind} {loss:.4f}" for kind, loss in losses.items()), sep="  ", flush=True)

        key = (arm.semantic, arm.aligned)
        if key not in first:
            model = start_of(base, tokenizer, catalog, texts if arm.semantic else None, options.seed)
            curves: Curves = {kind: [] for kind in held_out}
            seeing = partial(watch, model=model, curves=curves)
            train(model, alignment[arm.aligned], batch=batch, rate=2e-3, watch=seeing, every=steps // options.watch)
            first[key] = model, curves
        model, shared = first[key]
        model, curves = copy.deepcopy(model), {kind: points[:-1] for kind, points in shared.items()}
        order = training_order(CurriculumConfig(schedule=arm.schedule), len(direct), len(reasoned), options.seed)
        share = reasoning_share(order, len(direct), 40)
        curves["share of reasoning rows"] = [(0, 0.0), (steps, 0.0)]
        curves["share of reasoning rows"] += [(steps + place / batch, value) for place, value in share]
        seeing = partial(lambda step, **given: watch(steps + step, **given), model=model, curves=curves)
        every = max(1, len(order) // batch // options.watch)
        train(model, [later[row] for row in order], batch=batch, rate=1e-3, watch=seeing, every=every)
        arms[name] = curves
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    if options.figure:
        draw(arms, steps, options.figure)


if __name__ == "__main__":
    main()
