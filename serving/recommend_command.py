"""``gream recommend``: what was asked for on standard output, as tables or as JSON lines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from gream.console import make_console
from gream.engine.settings import Mode
from gream.errors import GreamError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from .items import Items
from .recommend import Asked, RankedItem, Recommendation, RunModel, find_history, read_users, recommend_all
from .users import Users


def recommend_command(
    model: RunModel,
    mode: Mode,
    k: int,
    *,
    entries: Sequence[str] = (),
    users: Sequence[str] = (),
    file: Path | None = None,
    as_json: bool,
) -> None:
    """Print lists for one history, for users of the run or for a file of users, each as soon as its batch is done.

    Args:
        model: The model, and the run that it recommends from.
        mode: Ask at once, or after a chain.
        k: Items per list.
        entries: One history.
        users: Or users of the run, by their ids in the data.
        file: Or a file of users.
        as_json: JSON lines instead of tables.

    Raises:
        GreamError: Nothing or too much is asked for, an item or user is unknown, or the model does not fit.
    """
    if bool(entries) + bool(users) + bool(file) != 1:
        raise GreamError(
            "name users of the run, each with --user, or the items of one history, each with --item, or a file of "
            "users with --users"
        )
    # Everything that was typed is checked before the model is loaded.
    items = model.items()
    asked = _asked(model.run, items, entries, users, file)
    recommender = model.recommender(items, [mode])
    console = make_console()
    several = len(asked) > 1
    lists = recommend_all(recommender, mode, asked, k, model.batch_size)
    for user, found in tqdm(lists, total=len(asked), unit=" users", disable=not several or not sys.stderr.isatty()):
        if as_json:
            print(_json_line(user, found), flush=True)
        else:
            _print(user, found, console)


def _asked(run: Path, items: Items, entries: Sequence[str], users: Sequence[str], file: Path | None) -> Sequence[Asked]:
    if file is not None:
        return read_users(file, items)
    if not users:
        return [Asked(None, find_history(items, entries))]
    histories = Users(run)
    return [Asked(user, histories.history(user)) for user in users]


def _json_line(user: Asked, found: Recommendation) -> str:
    who = {} if user.user is None else {"user": user.user}
    return json.dumps(who | found.model_dump(mode="json"), ensure_ascii=False)


def _print(user: Asked, found: Recommendation, console: Console) -> None:
    if user.user is not None:
        console.print(Text(f"user {user.user}", style="bold"))
    shown = "; ".join(item.title or item.item_id for item in found.history)
    console.print(Text.assemble(("history: ", "dim"), shown))
    if found.left_out:
        console.print(Text(f"{found.left_out} earlier items do not fit the prompt", style="dim"))
    if found.reasoning is not None:
        console.print(Text(found.reasoning.text.strip(), style="italic"))
        if not found.reasoning.complete:
            console.print(Text("the chain did not end by itself: <answer> was appended", style="yellow"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("", justify="right")
    table.add_column("item", overflow="fold")
    table.add_column("id", no_wrap=True)
    table.add_column("semantic id", overflow="fold")
    fused = any(item.parts is not None for item in found.items)
    for head in ("score", "log p", "item score") if fused else ("log p", "p"):
        table.add_column(head, justify="right", no_wrap=True)
    for item in found.items:
        table.add_row(
            str(item.rank),
            Text(item.title),
            Text(item.item_id),
            Text("".join(item.semantic_id)),
            *_figures(item),
        )
    console.print(table)
    console.print()


def _figures(item: RankedItem) -> tuple[str, ...]:
    """An item's log-probability and probability, or its fused score and what it is the sum of."""
    if item.parts is None:
        return f"{item.score:.3f}", f"{math.exp(item.score):.1%}"
    parts = item.parts
    return f"{item.score:.3f}", f"{parts.log_probability:.3f}", f"{parts.weight:g} x {parts.item_score:.3f}"
