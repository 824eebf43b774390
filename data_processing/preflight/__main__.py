"""``gream preflight``: a line per check, "ok" or "x", then an estimate; status 1 where a check failed. Only reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gream.config import load_config
from gream.errors import exit_with_error_line
from gream.options import RunOption
from gream.recipes import find_recipe

from ..config import DataRecipe
from ..readers.formats import Format
from . import checks, cost, machine
from .jobs import read_tuning

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def preflight(
    run: RunOption,
    data: Annotated[Path, typer.Option(help="Data recipe.")],
    reviews: Annotated[Path, typer.Option(help="First file of the data set, as for 'gream data interactions'.")],
    metadata: Annotated[Path, typer.Option(help="Second file of the data set.")],
    format: Annotated[Format, typer.Option(help="Format of the two files, as in 'interactions.format'.")],
    sft: Annotated[list[Path], typer.Option(help="SFT recipe; repeat.")],
    rl: Annotated[Path, typer.Option(help="RL recipe.")],
    counts: Annotated[
        tuple[int, int, int, int], typer.Option(help="Users, items, interactions, targets, until they are counted.")
    ],
    base: Annotated[Path | None, typer.Option(help="Language model; without one, a tiny model needs no GPU.")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of this machine to train on.")] = 8,
    passes: Annotated[int, typer.Option(min=1, help="Passes over the alignment rows.")] = 3,
    sft_setting: Annotated[list[str] | None, typer.Option(help="key=value behind the SFT recipes; repeat.")] = None,
    rl_setting: Annotated[list[str] | None, typer.Option(help="key=value behind the RL recipe; repeat.")] = None,
    layout: Annotated[list[str] | None, typer.Option(help="Files that would do as the data set, in words.")] = None,
    source: Annotated[str, typer.Option(help="Who publishes the files, in words.")] = "",
) -> None:
    """Check that a reproduction can run, and estimate how long it may take."""
    parameters: float = 1e6
    found = [checks.check_data(reviews, metadata, format, layout or [], source, base)]
    if base:
        model, shape, parameters = checks.check_base(base)
        found.append(model)
    recipes = [find_recipe("sft", name) for name in sft]
    judged, job = checks.check_recipes(recipes, sft_setting or [], find_recipe("rl", rl), rl_setting or [])
    found += [*judged, checks.check_disk(run, recipes, parameters, job, pretrained=base is not None)]
    if base:
        tunings = [read_tuning(recipe) for recipe in recipes]
        found += [machine.check_packages(tunings, job), *machine.check_gpus(gpus, shape, tunings, job)]
        if job:
            found.append(machine.check_machine(gpus, shape, job))
    for check in found:
        print(f"  {'ok' if check.good else 'x '}  {check.part}: {check.said}")

    if base is None:
        print("\n  A tiny model on some of the users: minutes on two CPU cores.")
    else:
        known = checks.counted(run) or cost.Counts(*counts)
        recipe = load_config(DataRecipe, find_recipe("data", data))
        rows = checks.counted_rows(run) or cost.expected_rows(recipe.sft, known)
        work = cost.estimate(gpus, parameters, passes, known, rows, job.srpo if job else None)
        total = cost.hours(sum(part.seconds for part in work))
        print(f"\n  {gpus} GPU{'s' * (gpus > 1)} as fast as an A100 may take {total}:")
        for part in work:
            print(f"    {part.stage:14}{cost.hours(part.seconds):>8}  {part.what}")
        print(
            "  This is arithmetic, not a measurement: nothing here was run on a GPU. Training at "
            f"{cost.USED:.0%} of {cost.FLOPS / 1e12:.0f} TFLOP/s,\n  {cost.SAMPLED_PER_SECOND:,} sampled tokens per "
            "second and GPU, rows as long as on Beauty. Three times more or less would\n  not surprise."
        )
    raise typer.Exit(0 if all(check.good for check in found) else 1)


if __name__ == "__main__":
    exit_with_error_line(app)
