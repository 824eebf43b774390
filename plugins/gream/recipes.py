"""Recipes by path or by name: ``paper`` is the one that comes along, wherever ``gream`` is called."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from gream.errors import GreamError

Kind = Literal["data", "sft", "rl"]


def recipes_folder() -> Path:
    """Where the recipes that come along are installed: the folder of the repository, or a copy of it.

    Raises:
        GreamError: There is none.
    """
    found = find_spec("gream_recipes")
    if found is None or not found.submodule_search_locations:
        raise GreamError("the recipes are not installed; run bash scripts/install.sh")
    return Path(found.submodule_search_locations[0])


def find_recipe(kind: Kind, name: str | Path) -> Path:
    """The file of a recipe.

    Args:
        kind: What it is for; only recipes of this kind are found by name.
        name: A path, or the name of a recipe that comes along, without its ending.

    Raises:
        GreamError: Neither is there; names the recipes that are.
    """
    if Path(name).is_file():
        return Path(name)
    folder = recipes_folder() / kind
    shipped = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if str(name) not in shipped:
        raise GreamError(f"{str(name)[:200]}: no such file, and no recipe by that name; there are {', '.join(shipped)}")
    return shipped[str(name)]


def describe_recipes() -> list[tuple[str, str, str]]:
    """Kind, name and first sentence of each recipe that comes along."""
    paths = sorted(recipes_folder().glob("*/*.yaml"))
    return [(path.parent.name, path.stem, _first_sentence(path.read_text(encoding="utf-8"))) for path in paths]


def _first_sentence(recipe: str) -> str:
    """Of the comment that a recipe begins with; it may go over several lines."""
    text = " ".join(recipe.replace("\n# ", " ").lstrip("# ").split())
    return re.split(r"(?<=[.]) ", text, maxsplit=1)[0]


def copy_recipes(to: Path) -> None:
    """Copy all recipes that come along into a new folder, to be read and changed.

    Raises:
        GreamError: The folder exists already, or cannot be made.
    """
    ignored = shutil.ignore_patterns("__init__.py", "__pycache__")
    try:
        shutil.copytree(recipes_folder(), to, ignore=ignored)
    except FileExistsError:
        raise GreamError(f"{to}: exists already; name a folder that does not") from None
    except OSError as error:
        raise GreamError(f"{to}: cannot be written ({error.strerror})") from None
