"""``gream shop ORDERS [PRODUCTS]``: look at a shop's tables, write a recipe, go the way to recommendations."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer
from gream.errors import GreamError, exit_with_error_line
from gream.recipes import recipes_folder

from ..readers.formats import Columns
from .fit import measure_shop, write_recipe
from .look import look_at

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def shop(
    orders: Annotated[Path, typer.Argument(help="Table of purchases, clicks or ratings: CSV or Parquet, a row each.")],
    products: Annotated[Path | None, typer.Argument(help="Table of products; left out, the orders name them.")] = None,
    said: Annotated[
        list[str] | None,
        typer.Argument(help="columns.FIELD=COLUMN for what is guessed wrong, e.g. columns.time_format=%d.%m.%Y."),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME of the orders' file by default.")] = None,
    look_only: Annotated[bool, typer.Option("--look", help="Write the recipe and stop.")] = False,
) -> None:
    """Look at a shop's tables, show what they hold, write a recipe that fits, and go the way to recommendations.

    Minutes on two CPU cores. The recipe is RUN/recipe.yaml: change it and call again, and it is taken as it is.
    """
    said = list(said or ())
    if products is not None and "columns." in str(products) and "=" in str(products):
        said.insert(0, str(products))
        products = None
    folder = run or Path("runs") / orders.name.split(".")[0]
    recipe = folder / "recipe.yaml"
    if recipe.exists():
        if said:
            raise GreamError(f"{recipe}: is there already; change it there, or delete it to look at the tables again")
        print(f"recipe: {recipe}, as it is", flush=True)
    else:
        look = look_at(orders, products, dict(map(_said, said)))
        print("\n".join(look.lines()), flush=True)
        sizes = measure_shop(look)
        write_recipe(recipe, look, sizes)
        print("\n".join([*sizes.lines(), f"recipe: {recipe}"]), flush=True)
    if look_only:
        # What was said of columns stands in the recipe by now.
        again = ["gream", "shop", *map(str, filter(None, (orders, products))), *(["--run", str(run)] if run else [])]
        print(f"next: look at the recipe, change what is wrong, then: {shlex.join(again)}", flush=True)
        return
    script = recipes_folder().parent / "scripts" / "quickstart.sh"
    if not script.exists():
        raise GreamError(f"{script}: not there; training needs the repository: call 'gream shop' from an install of it")
    absolute = [str(path.resolve()) for path in (recipe, orders, products or orders, folder)]
    options = ("--recipe", "--reviews", "--meta", "--run")
    arguments = [part for pair in zip(options, absolute, strict=True) for part in pair]
    os.execvp("bash", ["bash", str(script), *arguments])  # noqa: S606, S607 - the script of this project


def _said(text: str) -> tuple[str, str]:
    field, sign, column = text.removeprefix("interactions.").removeprefix("columns.").partition("=")
    if not sign or not column or field not in Columns.model_fields:
        raise GreamError(f"'{text[:200]}': write columns.FIELD=COLUMN, FIELD one of {', '.join(Columns.model_fields)}")
    return field, column


if __name__ == "__main__":
    exit_with_error_line(app)
