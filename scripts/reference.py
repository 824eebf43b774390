"""Writes the pages of ``docs/reference`` that are made from the code: commands, recipes, metrics.

    python scripts/reference.py

renews them; ``tests/test_reference.py`` fails where they are stale.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.main
from gream.cli import COMMANDS
from gream.recipes import recipes_folder
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[1]
NOTE = "Made from the code by `python scripts/reference.py`; do not edit.\n"

MADE_BY_HAND = """\
## Keys of verl's recipes

`algorithm.srpo` holds what SRPO adds to verl's configuration; all other keys of `recipes/rl/*.yaml` are
[verl's own](https://verl.readthedocs.io/en/latest/examples/config.html).

{srpo}
Outside that section:

| key | default | meaning |
|---|---|---|
| `algorithm.adv_estimator` | | `srpo` |
| `reward.reward_manager.name` | | `srpo` |
| `trainer.v1.trainer_mode` | | `srpo_sync`: the trainer that replaces groups and keeps the surplus |
| `algorithm.filter_groups` | verl's | `enable=true max_num_gen_batches=10` turns dynamic sampling on |
| `actor_rollout_ref.rollout.name` | verl's | `hf_cpu`: a rollout by transformers on a CPU |
| `+actor_rollout_ref.model.override_config.answer_catalog` | none | path of an `index.json`: behind `<answer>` \
the rollout writes nothing but an item's id; with `hf_cpu` and `vllm` |

## Keys of LLaMA-Factory's recipes

All keys of `recipes/sft/*.yaml` are [LLaMA-Factory's own](https://llamafactory.readthedocs.io/en/latest/). Under
`gream train` three values are this project's:

| key | value | meaning |
|---|---|---|
| `template` | `gream` | the dialogue of evaluation, whatever the tokenizer's chat template says |
| `dataset` | `alignment_records` | compact rows, rendered at load time |
| `tokenized_path` | `RUN/assembled` | rows as token ids, made by `gream assemble` |
"""


def pages() -> dict[str, str]:
    """Name and text of each page."""
    return {
        "commands.md": "".join(["# Commands\n\n", NOTE, *_commands()]),
        "recipe.md": "".join(["# Keys of the recipes\n\n", NOTE, "\n", *_recipe_keys()]),
        "metrics.md": "".join(["# Metrics\n\n", NOTE, *_metrics()]),
    }


def _commands() -> Iterator[str]:
    yield "\n`gream COMMAND --help` prints the same. Commands by what they are for:\n"
    panel = ""
    for name, command in COMMANDS.items():
        if command.panel != panel:
            panel = command.panel
            yield f"\n## {panel}\n"
        # Folders go by their installed names in the table of commands, and by the repository's here.
        module = command.module.replace("gream_data", "data_processing").replace("gream_", "")
        program: Any = typer.main.get_command(import_module(module).app)
        if not command.alone:
            yield from _command(f"gream {name}", program.commands[name])
        elif hasattr(program, "commands"):
            for part, inner in program.commands.items():
                if part in COMMANDS:  # a command of its own
                    continue
                yield from _command(f"gream {name} {part}", inner)
        else:
            yield from _command(f"gream {name}", program)


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    shown = " ".join([name, *(_metavar(argument) for argument in arguments), *(["[OPTIONS]"] if options else [])])
    yield f"\n### {name}\n\n    {shown}\n\n{_prose(command.help)}\n"
    rows = [(_metavar(argument), "", argument.help) for argument in arguments]
    rows += [(_names(option), _default_of_option(option), option.help) for option in options]
    yield from _table(("option", "default", "meaning"), rows)


def _metavar(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _names(option: Any) -> str:
    """``--no-...`` only where it is not the default."""
    return " ".join(option.opts + (option.secondary_opts if option.default is not False else []))


def _default_of_option(option: Any) -> str:
    if option.required:
        return "required"
    value = option.default
    return "" if value is None or value is False or callable(value) or value in ((), []) else _shown(value)


def _recipe_keys() -> Iterator[str]:
    from verl_srpo.settings import SrpoSettings

    from data_processing.config import DataRecipe

    yield "An unknown key is an error that names the nearest valid one. A value can be overridden behind the command:\n"
    yield "`section.key=value` for data and SRPO, `key=value` for SFT.\n\n## Shipped recipes\n"
    for kind in ("data", "sft", "rl"):
        names = sorted((recipes_folder() / kind).glob("*.yaml"))
        yield f"\n- {kind}: " + ", ".join(f"`{path.stem}`" for path in names) + "\n"
    yield "\n## Keys of the data recipe\n"
    top = {name: field for name, field in DataRecipe.model_fields.items() if _model_in(field.annotation) is None}
    yield from _keys(DataRecipe, "", only=top)
    for name, field in DataRecipe.model_fields.items():
        section = _model_in(field.annotation)
        if section is not None:
            yield from _section(name, section)
    yield "\n" + MADE_BY_HAND.format(srpo="".join(_keys(SrpoSettings, "algorithm.srpo.")).lstrip("\n"))


def _section(name: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"\n### {name}\n\n{_prose(_first_paragraph(model))}\n"
    yield from _keys(model, f"{name}.")
    for key, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None:
            yield from _section(f"{name}.{key}", inner)


def _keys(model: type[BaseModel], prefix: str, only: Iterable[str] | None = None) -> Iterator[str]:
    said = _attributes(model)
    rows = []
    for key, field in model.model_fields.items():
        if _model_in(field.annotation) is None and (only is None or key in only):
            default = field.get_default(call_default_factory=True)
            shown = "required" if default is PydanticUndefined else "none" if default in (None, {}) else _shown(default)
            choices = _choices(field.annotation)
            rows.append((f"`{prefix}{key}`", shown, " ".join(filter(None, [said[key], choices]))))
    yield from _table(("key", "default", "meaning"), rows)


def _metrics() -> Iterator[str]:
    from eval import metrics, results

    yield f"\n{_prose(inspect.getdoc(metrics) or '')}\n"
    yield "\n## `metrics.json`\n"
    yield from _keys_of_result(results.Result)
    for model in (results.Interval, results.Exposure, results.Cost):
        yield f"\n### {model.__name__}\n\n{_prose(_first_paragraph(model))}\n"
        yield from _keys_of_result(model)
    names = ", ".join(f"`{name}`" for name in metrics.METRICS)
    yield f"\n`metrics` holds an `Interval` for each of {names}.\n"


def _keys_of_result(model: type[BaseModel]) -> Iterator[str]:
    said = _attributes(model)
    yield from _table(("key", "what"), [(f"`{key}`", said.get(key, "")) for key in model.model_fields])


def _model_in(annotation: Any) -> type[BaseModel] | None:
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _choices(annotation: Any) -> str:
    """The values that a key may have, where they are counted."""
    for kind in (annotation, *get_args(annotation)):
        if get_origin(kind) is Literal:
            return "One of " + ", ".join(f"`{value}`" for value in get_args(kind)) + "."
    return ""


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """What the docstring says of each attribute."""
    block = (inspect.getdoc(model) or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {6,}.*)*)", block, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _first_paragraph(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").split("\n\n")[0]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
        for row in rows:
            first, *rest = (_cell(cell) for cell in row)
            yield f"| {first if first.startswith('`') else f'`{first}`'} | {' | '.join(rest)} |\n"


def _cell(text: str | None) -> str:
    return _prose(text or "").replace("\n", " ").replace("|", "\\|")


def _prose(text: str) -> str:
    """Docstrings mark code in two ways, Markdown in one; angle brackets outside of code would be markup."""
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    return re.sub(r"(`[^`]*`)|<(?=[\w|/])", lambda match: match[1] or "\\<", text)


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        value = f"[{', '.join(map(str, value))}]"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (ROOT / "docs" / "reference" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
