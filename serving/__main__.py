"""``gream recommend`` and ``gream serve``: one model, for a history that somebody names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from gream.decoding.choices import Score, ServerEngine
from gream.engine.settings import Device, Mode, Settings
from gream.errors import exit_with_error_line
from gream.options import (
    BatchSizeOption,
    BeamsOption,
    ChainsOption,
    ChainTokensOption,
    DeviceOption,
    FormOption,
    HistoryOption,
    IndexOption,
    PromptOption,
    RunOption,
    ScoreOption,
    TemperatureOption,
    with_groups,
)

if TYPE_CHECKING:
    from .recommend import RunModel

# At once, over all servers; and until a request to one counts as failed.
MOST_IN_FLIGHT = 256
REQUEST_SECONDS = 60.0

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@dataclass(frozen=True)
class Recommending:
    """A model that recommends in both modes for whoever asks."""

    run: RunOption
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Model folder in Hugging Face format; by default the run's last: of SRPO, else of SFT."),
    ] = None
    beams: BeamsOption = 20
    score: ScoreOption = Score.vocabulary
    exclude_history: Annotated[
        bool | None,
        typer.Option(
            help="Leave out of a list whatever the user already has; by default where hardly anybody in the raw data "
            "takes an item twice."
        ),
    ] = None
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Part of the catalogue that lists keep to: category=NAME, brand=NAME, or a file of items; repeat."
        ),
    ] = None
    fuse: Annotated[
        str | None,
        typer.Option(
            help="Evaluation of the run made with --fuse transitions: its item scores are added with its weights, and "
            "the parts are shown."
        ),
    ] = None
    chain_tokens: ChainTokensOption = 512
    temperature: TemperatureOption = 0.0
    chains: ChainsOption = 1
    history: HistoryOption = None
    form: FormOption = None
    index: IndexOption = None
    prompt: PromptOption = None
    batch_size: BatchSizeOption = 16
    device: DeviceOption = Device.auto
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="Root of a server that runs the model, e.g. http://127.0.0.1:30000, instead of this process; repeat."
        ),
    ] = None
    engine: Annotated[ServerEngine, typer.Option(help="Engine that runs on the servers.")] = ServerEngine.sglang
    patience: Annotated[
        float, typer.Option(min=0.0, help="Seconds for which a request to the servers that fails is tried again.")
    ] = 10.0

    def model(self) -> RunModel:
        """The model and the run.

        Raises:
            GreamError: The run has no model or its statistics cannot be read, or a setting is impossible.
        """
        import os

        from gream.checkpoints import last_checkpoint
        from gream.decoding.server_client import settings_of

        from .recommend import OnServers, RunModel
        from .users import nothing_twice

        servers = None
        if self.endpoint:
            servers = settings_of(self.endpoint, MOST_IN_FLIGHT, REQUEST_SECONDS, self.patience, os.environ)
        return RunModel(
            run=self.run,
            checkpoint=self.checkpoint or last_checkpoint(self.run),
            settings=Settings(
                beams=self.beams,
                score=self.score,
                history=self.history,
                chain_tokens=self.chain_tokens,
                temperature=self.temperature,
                chains=self.chains,
                form=self.form,
                exclude_history=nothing_twice(self.run) if self.exclude_history is None else self.exclude_history,
                fuse=self.fuse,
            ),
            device=self.device,
            batch_size=self.batch_size,
            only=self.only or (),
            index=self.index,
            template=self.prompt,
            fused=self.fuse,
            on_servers=None if servers is None else OnServers(engine=self.engine, servers=servers),
        )


@app.command()
@with_groups
def recommend(
    model: Recommending,
    item: Annotated[
        list[str] | None, typer.Option(help="An item of the history, oldest first: id, title or semantic id; repeat.")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="A user of the run, by the id in the data, instead of --item; repeat.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(help='JSON lines {"user": NAME, "history": [ITEM, ...]}, instead of --item.')
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Ask at once, or after a chain of reasoning.")] = Mode.reasoning,
    k: Annotated[int, typer.Option("-k", min=1, help="Items per list.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per user instead of tables.")] = False,
) -> None:
    """Rank items for a user of the run, for a history, or for a file of users."""
    from .recommend_command import recommend_command

    recommend_command(model.model(), mode, k, entries=item or (), users=user or (), file=users, as_json=as_json)


@app.command()
@with_groups
def serve(
    model: Recommending,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; further ones get status 503.")] = 64,
) -> None:
    """Serve recommendations over HTTP, with a page to try them on."""
    from .serve_command import serve_command

    serve_command(model.model(), host, port, waiting)


if __name__ == "__main__":
    exit_with_error_line(app)
