"""Options that commands of several folders share, each with its help, and groups of options as one parameter."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from gream.decoding.choices import Score
from gream.dialogue import Form
from gream.engine.settings import Device

RunOption = Annotated[Path, typer.Option(help="Run folder, e.g. runs/quickstart.")]
OverwriteOption = Annotated[
    bool, typer.Option(help="Replace outputs made with another configuration, or by other code.")
]
KeepOption = Annotated[bool, typer.Option(help="Accept outputs that other code made.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
CheckpointOption = Annotated[
    Path, typer.Option(help="Model folder in Hugging Face format; on servers, the one they run.")
]
BeamsOption = Annotated[
    int, typer.Option(min=1, help="Hypotheses per step of the item search: as many as a list has items, or more.")
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Users decoded together.")]
DeviceOption = Annotated[Device, typer.Option(help="Where the model runs.")]
FormOption = Annotated[
    Form | None,
    typer.Option(help="Form of the direct prompts in training, where the model does not say so itself."),
]
HistoryOption = Annotated[
    int | None,
    typer.Option(min=1, help="Most items of a prompt in training, where the model does not say so itself."),
]
ScoreOption = Annotated[
    Score,
    typer.Option(help="What scores a token: the softmax over the whole vocabulary, or over the legal tokens only."),
]
IndexOption = Annotated[
    Path | None, typer.Option(help="index.json of a model that knows the run's items by other ids.")
]
PromptOption = Annotated[
    Path | None, typer.Option(help="Text file with {history} in it: the prompt of a model trained elsewhere.")
]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="Sampling temperature of the chains; 0 is greedy.")]
ChainsOption = Annotated[int, typer.Option(min=1, help="Chains per user, their lists combined by log-sum-exp.")]
ExcludeOption = Annotated[bool, typer.Option(help="Leave out of a list whatever the user already has.")]
ChainTokensOption = Annotated[int, typer.Option(min=1, help="Most tokens of a chain; the paper allows 1560.")]


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with each parameter that is a group of options, a dataclass, replaced by the group's fields.

    Typer finds the options of a command in its signature.
    """
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        group = parameter.annotation
        if not dataclasses.is_dataclass(group):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        assert isinstance(group, type)  # noqa: S101 - and no instance of one
        groups[name] = group
        hints = get_type_hints(group, include_extras=True)
        for field in dataclasses.fields(group):
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            parameters.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
                )
            )

    @functools.wraps(command)
    def called(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        command(**values)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called
