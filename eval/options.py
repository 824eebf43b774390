"""Command-line options that several modes share: by themselves, and in groups."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer


class Split(StrEnum):
    """Values of --split."""

    test = "test"
    valid = "valid"


class Device(StrEnum):
    """Values of --device."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Form(StrEnum):
    """Values of --form."""

    question = "question"
    sequence = "sequence"


class Score(StrEnum):
    """Values of --score."""

    vocabulary = "vocabulary"
    legal = "legal"


RunOption = Annotated[Path, typer.Option(help="Run folder, e.g. runs/quickstart.")]
CheckpointOption = Annotated[
    Path, typer.Option(help="Model folder in Hugging Face format; on servers, the one they run.")
]
NameOption = Annotated[str, typer.Option(help="Name of the evaluation: its folder under eval/.")]
UsersOption = Annotated[int | None, typer.Option(help="Ask a random sample of that many users; all by default.")]
BeamsOption = Annotated[
    int, typer.Option(min=1, help="Hypotheses per step of the item search: as many as a list has items, or more.")
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Users decoded together.")]
SplitOption = Annotated[Split, typer.Option(help="Whose item is to be predicted.")]
DeviceOption = Annotated[Device, typer.Option(help="Where the model runs.")]
FormOption = Annotated[
    Form, typer.Option(help="Of the direct prompt: the history in a question, or the sequence itself; as trained.")
]
ScoreOption = Annotated[Score, typer.Option(help="Softmax over the whole vocabulary, or over the legal tokens only.")]
IndexOption = Annotated[
    Path | None, typer.Option(help="index.json of a model that knows the run's items by other ids.")
]
PromptOption = Annotated[
    Path | None, typer.Option(help="Text file with {history} in it: the prompt of a model trained elsewhere.")
]
HistoryOption = Annotated[int, typer.Option(min=1, help="Most recent items in the prompt; as in training.")]
ExcludeOption = Annotated[bool, typer.Option(help="Leave out of a list whatever the user already has.")]
ChainTokensOption = Annotated[int, typer.Option(min=1, help="Most tokens of a chain; the paper allows 1560.")]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace outputs made with another configuration.")]


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated, on whom, and how items are searched for."""

    run: RunOption
    checkpoint: CheckpointOption
    name: NameOption
    users: UsersOption = None
    split: SplitOption = Split.test
    beams: BeamsOption = 20
    score: ScoreOption = Score.vocabulary
    history: HistoryOption = 20
    exclude_history: ExcludeOption = False
    seed: SeedOption = 0
    overwrite: OverwriteOption = False


@dataclass(frozen=True)
class Here:
    """How a model in this process is asked, and what one trained elsewhere needs."""

    batch_size: BatchSizeOption = 32
    device: DeviceOption = Device.auto
    index: IndexOption = None
    prompt: PromptOption = None


@dataclass(frozen=True)
class Recommending:
    """A model that recommends in both modes for whoever asks."""

    run: RunOption
    checkpoint: CheckpointOption
    beams: BeamsOption = 20
    history: HistoryOption = 20
    exclude_history: ExcludeOption = False
    chain_tokens: ChainTokensOption = 512
    form: FormOption = Form.question
    batch_size: BatchSizeOption = 16
    device: DeviceOption = Device.auto


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
