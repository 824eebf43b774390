"""``llamafactory-gream``: ``llamafactory-cli`` with the plugin registered in every rank, and three commands more."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from gream.errors import exit_with_error_line
from gream.options import KeepOption, OverwriteOption
from gream.recipes import find_recipe

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="LLaMA-Factory's launcher with GREAM's converter, template and callbacks registered, and commands of its own: "
    "assemble, inspect, check.",
    epilog="LLaMA-Factory's other commands are handed on: api, chat, export, webchat, webui, env, version.",
)


@app.command()
def assemble(
    run: Annotated[Path, typer.Option(help="Run folder with sft/ and model/.")],
    passes: Annotated[int, typer.Option(min=1, help="Times that every row is written, in other words each time.")] = 1,
    cutoff_len: Annotated[int, typer.Option(min=1, help="Most tokens of a row, as in the recipe.")] = 2560,
    train_on_prompt: Annotated[bool, typer.Option(help="Loss on prompts too, as in the recipe.")] = False,
    overwrite: OverwriteOption = False,
    keep: KeepOption = False,
) -> None:
    """Write RUN/assembled: token ids and labels of the alignment rows, for 'tokenized_path' of a recipe."""
    from llamafactory_gream.assemble import assemble as assemble_run

    result = assemble_run(
        run, passes=passes, cutoff_len=cutoff_len, train_on_prompt=train_on_prompt, overwrite=overwrite, keep=keep
    )
    print(result, flush=True)


@app.command()
def inspect(
    recipe: Annotated[Path, typer.Argument(help="SFT recipe: its path, or a name, e.g. quickstart_alignment.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, wins over the recipe.")] = None,
    row: Annotated[int, typer.Option(min=0, help="First row to print, from 0, in the order of the files.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many rows to print.")] = 1,
) -> None:
    """Print rows as the model sees them: bold green where there is loss, dim elsewhere."""
    from rich.console import Console

    from llamafactory_gream.inspection import inspect as inspect_rows

    console = Console(highlight=False, markup=False)
    inspect_rows(find_recipe("sft", recipe), overrides or (), row, count, console)


@app.command()
def check(
    recipes: Annotated[list[str], typer.Argument(help="SFT recipes, and key=value that wins over each.")],
) -> None:
    """Have LLaMA-Factory's own parser read recipes, without data, model or GPU."""
    from llamafactory_gream.inspection import check as check_recipe

    for recipe in recipes:
        if "=" not in recipe:
            check_recipe(find_recipe("sft", recipe), [other for other in recipes if "=" in other])
            print(f"{recipe}: LLaMA-Factory accepts it", flush=True)


@app.command(context_settings={"ignore_unknown_options": True})
def train(
    recipe: Annotated[Path, typer.Argument(help="SFT recipe: its path, or a name, e.g. quickstart_alignment.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, wins over the recipe.")] = None,
) -> None:
    """Train as 'llamafactory-cli train' does: SFT, by torchrun where there are several GPUs."""
    # LLaMA-Factory also takes its settings as options, without a recipe.
    if not str(recipe).startswith("-"):
        from llamafactory_gream.inspection import warn_of_cuts

        recipe = find_recipe("sft", recipe)
        warn_of_cuts(recipe, overrides or ())
    _launch(["train", str(recipe), *(overrides or ())])


def main() -> None:
    """Run one of the commands above, or hand over to LLaMA-Factory's launcher."""
    own = {command.callback.__name__ for command in app.registered_commands if command.callback}
    asked = sys.argv[1:2]
    exit_with_error_line(app if not asked or asked[0] in {*own, "--help"} else lambda: _launch(sys.argv[1:]))


def _launch(arguments: list[str]) -> None:
    from llamafactory_gream import worker
    from llamafactory_gream.registration import register
    from llamafactory_gream.seams import check_seams

    sys.argv[1:] = arguments
    # It starts torchrun by name, which lies beside this interpreter, whether its environment is activated or not.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    register()
    check_seams(programs=True)
    from llamafactory import launcher
    from llamafactory.train import tuner

    # The launcher starts torchrun on its own file; our worker registers the plugin in each rank first.
    launcher.__file__ = worker.__file__
    # Without torchrun it imports this function and calls it.
    tuner.run_exp = worker.with_callbacks(tuner.run_exp)
    launcher.launch()
