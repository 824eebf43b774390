"""Groups of options that several modes of evaluation share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from gream.options import (
    BatchSizeOption,
    BeamsOption,
    CheckpointOption,
    DeviceOption,
    ExcludeOption,
    HistoryOption,
    KeepOption,
    OverwriteOption,
    RunOption,
    SeedOption,
)

NameOption = Annotated[str, typer.Option(help="Name of the evaluation: its folder under eval/.")]
UsersOption = Annotated[int | None, typer.Option(help="Ask a random sample of that many users; all by default.")]
SplitOption = Annotated[
    Literal["test", "valid"], typer.Option(help="Split whose item is to be predicted for each user.")
]
ScoreOption = Annotated[
    Literal["vocabulary", "legal"],
    typer.Option(help="What scores a token: the softmax over the whole vocabulary, or over the legal tokens only."),
]
IndexOption = Annotated[
    Path | None, typer.Option(help="index.json of a model that knows the run's items by other ids.")
]
PromptOption = Annotated[
    Path | None, typer.Option(help="Text file with {history} in it: the prompt of a model trained elsewhere.")
]

HistoryRuleOption = Annotated[
    Literal["allowed", "excluded"], typer.Option(help="Whether lists may hold what the user already has.")
]
RefitOption = Annotated[
    bool,
    typer.Option(
        "--refit", help="Fit on everything but the test item, with settings chosen before on validation, for the test."
    ),
]


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated, on whom, and how items are searched for."""

    run: RunOption
    checkpoint: CheckpointOption
    name: NameOption
    users: UsersOption = None
    split: SplitOption = "test"
    beams: BeamsOption = 20
    score: ScoreOption = "vocabulary"
    history: HistoryOption = 20
    exclude_history: ExcludeOption = False
    seed: SeedOption = 0
    overwrite: OverwriteOption = False
    keep: KeepOption = False


@dataclass(frozen=True)
class Here:
    """How a model in this process is asked, and what one trained elsewhere needs."""

    batch_size: BatchSizeOption = 32
    device: DeviceOption = "auto"
    index: IndexOption = None
    prompt: PromptOption = None
