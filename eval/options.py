"""Groups of options that several modes of evaluation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer
from gream.decoding.choices import Score
from gream.engine.settings import Device
from gream.options import (
    BatchSizeOption,
    BeamsOption,
    CheckpointOption,
    DeviceOption,
    ExcludeOption,
    HistoryOption,
    IndexOption,
    KeepOption,
    OverwriteOption,
    PromptOption,
    RunOption,
    ScoreOption,
    SeedOption,
)

NameOption = Annotated[str, typer.Option(help="Name of the evaluation: its folder under eval/.")]
AtOption = Annotated[
    list[int] | None, typer.Option(min=1, help="Cut-off beside 1, 5 and 10; repeat. Lists are as long as the largest.")
]
UsersOption = Annotated[int | None, typer.Option(help="Ask a random sample of that many users; all by default.")]
SplitOption = Annotated[
    Literal["test", "valid", "test-untied", "valid-untied"],
    typer.Option(help="Split whose item is to be predicted for each user; untied: if nothing of theirs has its time."),
]
UntiedOption = Annotated[
    bool, typer.Option("--untied", help="Leave out test items that share their time with another of the user's items.")
]
HistoryRuleOption = Annotated[
    Literal["allowed", "excluded"], typer.Option(help="Whether lists may hold what the user already has.")
]
FuseOption = Annotated[
    str | None,
    typer.Option(
        help="Add item scores, weighted by validation: 'transitions', or a .csv or .parquet file with the columns "
        "user, item, score and split (valid or test)."
    ),
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
    at: AtOption = None
    beams: BeamsOption = 20
    score: ScoreOption = Score.vocabulary
    history: HistoryOption = None
    exclude_history: ExcludeOption = False
    seed: SeedOption = 0
    overwrite: OverwriteOption = False
    keep: KeepOption = False
    index: IndexOption = None
    prompt: PromptOption = None


@dataclass(frozen=True)
class Here:
    """A model in this process."""

    batch_size: BatchSizeOption = 32
    device: DeviceOption = Device.auto
