"""Commands of the package itself: the installation, recipes, and any command as a stage; see `gream.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gream.errors import GreamError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def doctor() -> None:
    """Show in one table what is installed, and the remedy for each thing missing."""
    from rich.console import Console
    from rich.table import Table

    from gream.doctor import examine

    table = Table("", "found", "remedy", title="gream doctor")
    findings = examine()
    for finding in findings:
        mark = "[red]x[/]" if finding.remedy else "[green]ok[/]"
        table.add_row(f"{mark} {finding.part}", finding.found, finding.remedy)
    Console().print(table)
    broken = [finding.part for finding in findings if finding.remedy]
    if broken:
        raise GreamError(f"not in order: {', '.join(broken)}; the table names each remedy")


@app.command()
def recipes(
    to: Annotated[
        Path | None, typer.Argument(help="New folder to copy all of them into; left out, they are listed.")
    ] = None,
) -> None:
    """List the recipes that come along, or copy them into a folder to change them."""
    from gream.console import make_console
    from gream.recipes import copy_recipes, describe_recipes

    if to is not None:
        copy_recipes(to)
        print(f"recipes: written to {to}", flush=True)
        return
    from rich.table import Table

    table = Table("kind", "name", "what", box=None)
    for row in describe_recipes():
        table.add_row(*row)
    make_console().print(table)


@app.command()
def checkpoint(
    folder: Annotated[Path, typer.Argument(help="SRPO's checkpoints, e.g. runs/quickstart/checkpoints/srpo.")],
) -> None:
    """Print where the model of SRPO's last checkpoint lies."""
    from gream.checkpoints import last_model

    print(last_model(folder))


@app.command(context_settings={"ignore_unknown_options": True})
def stage(
    name: Annotated[str, typer.Argument(help="Name of the stage.")],
    command: Annotated[list[str], typer.Argument(help="The command, after --; {out} is where it writes.")],
    run: Annotated[Path, typer.Option(help="Run folder.")],
    output: Annotated[list[str], typer.Option(help="File or folder it makes, relative to {out}.")],
    input: Annotated[
        list[str] | None, typer.Option(help="File or folder it reads, as ROLE=PATH or PATH.", metavar="ROLE=PATH")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML that belongs to the configuration.")] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace outputs made with another configuration, or by other code.")
    ] = False,
    keep: Annotated[bool, typer.Option(help="Accept outputs that other code made.")] = False,
) -> None:
    """Run a command as a stage of a run folder: logged, resumable, recorded, skipped when nothing changed."""
    from gream.command_stage import named_inputs, run_command_stage

    inputs = named_inputs(run, input or [])
    result = run_command_stage(
        run, name, command, inputs=inputs, outputs=output, recipe=recipe, overwrite=overwrite, keep=keep
    )
    print(result, flush=True)


if __name__ == "__main__":
    import sys

    from gream.cli import main

    sys.argv[0] = "gream"  # as the console script has it, for what records its command
    main()
