"""``gream rl RECIPE``: verl's own ``main_ppo`` on a recipe, with the plugin, the metrics file and the platform set."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from gream.recipes import find_recipe

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"ignore_unknown_options": True})
def rl(
    recipe: Annotated[str, typer.Argument(help="Recipe: its path, or the name of one that comes along, e.g. paper.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value in Hydra's syntax, wins over the recipe; or Hydra's options.")
    ] = None,
) -> None:
    """Train with verl: SRPO from an SFT checkpoint, by 'python -m verl.trainer.main_ppo' with the plugin set up."""
    path = find_recipe("rl", recipe)
    command = [sys.executable, "-m", "verl.trainer.main_ppo"]
    command += ["--config-dir", str(path.parent.resolve()), "--config-name", path.stem, *(overrides or [])]
    variables = {**environment(path, overrides or []), **os.environ}
    os.execve(command[0], command, variables)  # noqa: S606 - an argument list, no shell


def environment(recipe: Path, overrides: list[str]) -> dict[str, str]:
    """Variables that verl needs before it reads its configuration; what is set already wins over them.

    Args:
        recipe: File of the recipe.
        overrides: Of the command line.
    """
    from omegaconf import OmegaConf

    config = OmegaConf.create()
    # Recipes of the same folder that this one starts from, then what it changes: Hydra's defaults, as far as used here.
    names = [name for name in OmegaConf.load(recipe).get("defaults", []) if isinstance(name, str)]
    parents = [parent for name in names if (parent := recipe.with_name(f"{name}.yaml")).exists()]
    for path in [*parents, recipe]:
        config = OmegaConf.unsafe_merge(config, OmegaConf.load(path))
    plain = [value for value in overrides if "=" in value and value[0].isalpha()]
    config = OmegaConf.merge(config, OmegaConf.from_dotlist(plain))
    folder = OmegaConf.select(config, "trainer.default_local_dir")
    on_cpu = OmegaConf.select(config, "trainer.device") == "cpu"
    return {
        "VERL_USE_EXTERNAL_MODULES": "verl_srpo.plugin",
        **({"VERL_FILE_LOGGER_PATH": f"{folder}/metrics.jsonl"} if folder else {}),
        **({"VERL_PLATFORM": "cpu"} if on_cpu else {}),
    }
