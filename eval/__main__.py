"""``python -m eval MODE --run FOLDER``: evaluate a run; each mode is a stage that does nothing when up to date."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from gream.errors import GreamError, exit_with_error_line

if TYPE_CHECKING:
    from eval.generative import Decoding

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


class _Split(StrEnum):
    test = "test"
    valid = "valid"


class _Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class _Form(StrEnum):
    question = "question"
    sequence = "sequence"


class _Score(StrEnum):
    vocabulary = "vocabulary"
    legal = "legal"


Run = Annotated[Path, typer.Option(help="Run folder, e.g. runs/quickstart.")]
Checkpoint = Annotated[Path, typer.Option(help="Model folder in Hugging Face format.")]
Name = Annotated[str, typer.Option(help="Name of the evaluation: its folder under eval/.")]
Users = Annotated[int | None, typer.Option(help="Ask a random sample of that many users; all by default.")]
Beams = Annotated[int, typer.Option(help="Hypotheses per step of the item search, 10 or more.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Users per batch.")]
Split = Annotated[_Split, typer.Option(help="Whose item is to be predicted.")]
Device = Annotated[_Device, typer.Option(help="Where the model runs.")]
Form = Annotated[
    _Form, typer.Option(help="Of the prompt: the history in a question, or the sequence itself; as trained.")
]
Score = Annotated[_Score, typer.Option(help="Softmax over the whole vocabulary, or over the legal tokens only.")]
History = Annotated[int, typer.Option(min=1, help="Most recent items in the prompt; as in training.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Overwrite = Annotated[bool, typer.Option(help="Replace outputs made with another configuration.")]


@app.command()
def baselines(run: Run, seed: Seed = 0, overwrite: Overwrite = False) -> None:
    """Popularity and item-to-item co-occurrence on the test split."""
    from eval.stages import evaluate_baselines

    for result in evaluate_baselines(run, seed=seed, command=_command(), overwrite=overwrite):
        print(result, flush=True)


@app.command()
def direct(
    run: Run,
    checkpoint: Checkpoint,
    name: Name,
    users: Users = None,
    beams: Beams = 20,
    batch_size: BatchSize = 32,
    split: Split = _Split.test,
    device: Device = _Device.auto,
    score: Score = _Score.vocabulary,
    history: History = 20,
    form: Form = _Form.question,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Ask a model for the next item at once."""
    decoding = _decoding(beams, batch_size, score, history, device, seed, form=form)
    _evaluate(run, checkpoint, name, decoding, split, users, overwrite)


@app.command()
def reasoning(
    run: Run,
    checkpoint: Checkpoint,
    name: Name,
    users: Users = None,
    beams: Beams = 20,
    batch_size: BatchSize = 32,
    chain_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a chain; the paper allows 1560.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the chain; 0 is greedy.")] = 0.0,
    split: Split = _Split.test,
    device: Device = _Device.auto,
    score: Score = _Score.vocabulary,
    history: History = 20,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Let a model reason, then ask it for items given its chain."""
    decoding = _decoding(
        beams, batch_size, score, history, device, seed, chain_tokens=chain_tokens, temperature=temperature
    )
    _evaluate(run, checkpoint, name, decoding, split, users, overwrite)


@app.command()
def rewards(run: Run, seed: Seed = 0, overwrite: Overwrite = False) -> None:
    """Compare the validation reward before and after SRPO, paired by prompt."""
    from eval.rewards import compare_rewards, read_rewards
    from eval.table import rewards_line

    print(compare_rewards(run, seed=seed, overwrite=overwrite), flush=True)
    comparison = read_rewards(run)
    if comparison is not None:
        print(rewards_line(comparison), flush=True)


@app.command()
def table(run: Run) -> None:
    """Show every evaluation of a run."""
    from eval.results import read_results
    from eval.rewards import read_rewards
    from eval.table import make_console, print_table

    results = read_results(run)
    if not results:
        raise GreamError(f"{run}: holds no eval/*/metrics.json; run 'python -m eval baselines' or 'direct' first")
    print_table(results, read_rewards(run), make_console())


@app.command()
def report(run: Run, overwrite: Overwrite = False) -> None:
    """Write RUN/report.html: everything about a run on one page."""
    from eval.report import write_report

    print(write_report(run, overwrite=overwrite), flush=True)


def _decoding(
    beams: int,
    batch_size: int,
    score: _Score,
    history: int,
    device: _Device,
    seed: int,
    *,
    chain_tokens: int | None = None,
    temperature: float = 0.0,
    form: _Form = _Form.question,
) -> Decoding:
    from eval.generative import Decoding, resolve_device

    return Decoding(
        beams=beams,
        batch_size=batch_size,
        score=score.value,
        history=history,
        device=resolve_device(device.value),
        chain_tokens=chain_tokens,
        temperature=temperature,
        seed=seed,
        form=form.value,
    )


def _evaluate(
    run: Path, checkpoint: Path, name: str, decoding: Decoding, split: _Split, users: int | None, overwrite: bool
) -> None:
    from eval.stages import evaluate_model

    result = evaluate_model(run, checkpoint, name, decoding, split.value, users, _command(), overwrite=overwrite)
    print(result, flush=True)


def _command() -> str:
    return shlex.join(["python", "-m", "eval", *sys.argv[1:]])


if __name__ == "__main__":
    exit_with_error_line(app)
