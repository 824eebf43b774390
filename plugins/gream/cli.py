"""``gream COMMAND``: one front door to the commands of all folders; a command's folder is imported when it is called.

Folders are named here as they are installed, so that ``gream`` works wherever it is called and imports none of them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated

import typer

import gream
from gream.errors import GreamError, exit_with_error_line


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        module: Its ``app`` has the command.
        what: What it does, in a line.
        panel: Heading that it stands under.
        alone: The whole ``app`` is the command, not a command of the same name within it.
    """

    module: str
    what: str
    panel: str
    alone: bool = False


_RUN, _USE, _LOOK = "From reviews to figures", "Use a model", "Look and check"

COMMANDS = {
    "shop": Command(
        "gream_data.shop.__main__", "From a shop's two tables to recommendations, in one go.", _RUN, alone=True
    ),
    "data": Command("gream_data.__main__", "Run a stage of data processing, from a dump to a model.", _RUN, alone=True),
    "model": Command("gream_data.pretrained.__main__", "Fetch a small pretrained language model.", _RUN, alone=True),
    "assemble": Command("llamafactory_gream.cli", "Write alignment rows as token ids, for several passes.", _RUN),
    "train": Command("llamafactory_gream.cli", "Train with LLaMA-Factory: SFT.", _RUN),
    "rl": Command("verl_srpo.cli", "Train with verl: SRPO.", _RUN, alone=True),
    "stage": Command("gream.__main__", "Run any command as a stage: logged, resumable, recorded.", _RUN),
    "eval": Command("gream_eval.__main__", "Evaluate: baselines, models, comparisons, tables.", _RUN, alone=True),
    "report": Command("gream_eval.__main__", "Write everything about a run on one page.", _RUN),
    "recommend": Command("gream_serving.__main__", "Rank items for a history, or for a file of users.", _USE),
    "serve": Command("gream_serving.__main__", "Serve recommendations over HTTP, with a page.", _USE),
    "inspect": Command("llamafactory_gream.cli", "Print training rows as the model sees them.", _LOOK),
    "check": Command("llamafactory_gream.cli", "Have LLaMA-Factory's parser read SFT recipes.", _LOOK),
    "preflight": Command(
        "gream_data.preflight.__main__", "Check that a reproduction can run; estimate its time.", _LOOK, alone=True
    ),
    "recipes": Command("gream.__main__", "List the recipes that come along, or copy them into a folder.", _LOOK),
    "checkpoint": Command("gream.__main__", "Print where the model of SRPO's last checkpoint lies.", _LOOK),
    "doctor": Command("gream.__main__", "Show what is installed, and the remedy for what is missing.", _LOOK),
}


def main() -> None:
    """Run the command that is named first, or show help."""
    exit_with_error_line(_run)


def _run() -> None:
    try:
        _call()
    except ModuleNotFoundError as error:
        raise GreamError(
            f"{error.name} is not installed: bash scripts/install.sh installs everything, pip install "
            "'gream[sft,rl,serve]' what a bare wheel lacks"
        ) from error


def _call() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    command = COMMANDS.get(name)
    if command is None:
        _help()(prog_name="gream")
    elif command.alone:
        import_module(command.module).app(sys.argv[2:], prog_name=f"gream {name}")
    else:
        import_module(command.module).app(sys.argv[1:], prog_name="gream")


def _help() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, add_completion=False, help="Generative reasoning recommendation.")
    for name, command in COMMANDS.items():
        app.command(name, help=command.what, rich_help_panel=command.panel)(lambda: None)

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        """Its options."""

    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        print(gream.__version__)
        raise typer.Exit
