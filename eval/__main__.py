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
    from eval.generative import Combine, Decoding

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


class _Split(StrEnum):
    test = "test"
    valid = "valid"


class _Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class _Mode(StrEnum):
    direct = "direct"
    reasoning = "reasoning"


class _Engine(StrEnum):
    sglang = "sglang"
    vllm = "vllm"


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
Index = Annotated[Path | None, typer.Option(help="index.json of a model that knows the run's items by other ids.")]
Prompt = Annotated[
    Path | None, typer.Option(help="Text file with {history} in it: the prompt of a model trained elsewhere.")
]
History = Annotated[int, typer.Option(min=1, help="Most recent items in the prompt; as in training.")]
ChainTokens = Annotated[int, typer.Option(min=1, help="Most tokens of a chain; the paper allows 1560.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Overwrite = Annotated[bool, typer.Option(help="Replace outputs made with another configuration.")]


@app.command()
def baselines(run: Run, seed: Seed = 0, overwrite: Overwrite = False) -> None:
    """Popularity, item-to-item co-occurrence and a Markov chain over items, on the test split."""
    from eval.stages import evaluate_baselines

    for result in evaluate_baselines(run, seed=seed, command=_command(), overwrite=overwrite):
        print(result, flush=True)


@app.command()
def sasrec(
    run: Run,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the model.")] = 64,
    dropout: Annotated[float, typer.Option(min=0.0, max=0.99, help="Of embeddings, attention and layers.")] = 0.5,
    negatives: Annotated[
        int, typer.Option(min=1, help="Items that stand for the catalogue in the loss; the catalogue's size is exact.")
    ] = 2048,
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs; validation ends training earlier.")] = 200,
    device: Device = _Device.auto,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train SASRec from nothing on the run's interactions and rank with it: a strong baseline, minutes to train."""
    from eval.checkpoint import resolve_device
    from eval.sasrec import SasRecSettings
    from eval.stages import evaluate_sasrec

    settings = SasRecSettings(
        hidden=hidden,
        dropout=dropout,
        negatives=negatives,
        epochs=epochs,
        device=resolve_device(device.value),
        seed=seed,
    )
    print(evaluate_sasrec(run, settings, command=_command(), overwrite=overwrite), flush=True)


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
    index: Index = None,
    prompt: Prompt = None,
    form: Form = _Form.question,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Ask a model for the next item at once."""
    decoding = _decoding(beams, batch_size, score, history, device, seed, form=form)
    _evaluate(run, checkpoint, name, decoding, split, users, index, prompt, overwrite)


@app.command()
def reasoning(
    run: Run,
    checkpoint: Checkpoint,
    name: Name,
    users: Users = None,
    beams: Beams = 20,
    batch_size: BatchSize = 32,
    chain_tokens: ChainTokens = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the chain; 0 is greedy.")] = 0.0,
    chains: Annotated[int, typer.Option(min=1, help="Chains per user, their lists combined by log-sum-exp.")] = 1,
    split: Split = _Split.test,
    device: Device = _Device.auto,
    score: Score = _Score.vocabulary,
    history: History = 20,
    index: Index = None,
    prompt: Prompt = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Let a model reason, then ask it for items given its chain, or given several chains together."""
    decoding = _decoding(
        beams, batch_size, score, history, device, seed,
        chain_tokens=chain_tokens, temperature=temperature, chains=chains,
    )  # fmt: skip
    _evaluate(run, checkpoint, name, decoding, split, users, index, prompt, overwrite)


@app.command()
def sampled(
    run: Run,
    checkpoint: Checkpoint,
    name: Name,
    users: Users = None,
    beams: Beams = 20,
    batch_size: BatchSize = 32,
    chain_tokens: ChainTokens = 512,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the chains.")] = 1.0,
    chains: Annotated[int, typer.Option(min=2, help="Chains per user: n of pass@K.")] = 10,
    split: Split = _Split.test,
    device: Device = _Device.auto,
    score: Score = _Score.vocabulary,
    history: History = 20,
    index: Index = None,
    prompt: Prompt = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """The paper's sampled mode: n chains with one item each; pass@K, and hit@K by the chain's log-probability."""
    decoding = _decoding(
        beams, batch_size, score, history, device, seed,
        chain_tokens=chain_tokens, temperature=temperature, chains=chains, combine="answers",
    )  # fmt: skip
    _evaluate(run, checkpoint, name, decoding, split, users, index, prompt, overwrite)


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
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of an evaluation, RUN/eval/NAME.")],
    second: Annotated[Path, typer.Argument(help="Another one, of the same users.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there as well.")] = None,
    seed: Seed = 0,
) -> None:
    """Set two evaluations against each other, paired by user, by length of history and popularity of the target."""
    from gream.stage import write_json

    from eval.compare import compare as compare_evaluations
    from eval.table import make_console, print_comparison

    comparison = compare_evaluations(first, second, seed=seed)
    if json_file is not None:
        write_json(json_file, comparison.model_dump(mode="json"))
    print_comparison(comparison, make_console())


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


@app.command()
def recommend(
    run: Run,
    checkpoint: Checkpoint,
    item: Annotated[
        list[str] | None, typer.Option(help="An item of the history, oldest first: id, title or semantic id; repeat.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(help='JSON lines {"user": NAME, "history": [ITEM, ...]}, instead of --item.')
    ] = None,
    mode: Annotated[_Mode, typer.Option(help="Ask at once, or after a chain of reasoning.")] = _Mode.reasoning,
    k: Annotated[int, typer.Option("-k", min=1, help="Items per list.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per user instead of tables.")] = False,
    beams: Annotated[int, typer.Option(min=1, help="Hypotheses per step of the item search, k or more.")] = 20,
    history: History = 20,
    chain_tokens: ChainTokens = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Users decoded together.")] = 16,
    device: Device = _Device.auto,
) -> None:
    """Rank items for a history, or for a file of users."""
    from eval.recommend import Settings
    from eval.recommend_command import recommend_command

    settings = Settings(beams, history, chain_tokens, batch_size, device.value)
    recommend_command(run, checkpoint, settings, mode.value, item or [], users, k, as_json=as_json)


@app.command()
def serve(
    run: Run,
    checkpoint: Checkpoint,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; further ones get status 503.")] = 64,
    beams: Annotated[int, typer.Option(min=1, help="Hypotheses per step, and the longest list.")] = 20,
    history: History = 20,
    chain_tokens: ChainTokens = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests decoded together.")] = 16,
    device: Device = _Device.auto,
) -> None:
    """Serve recommendations over HTTP, with a page to try them on."""
    from eval.recommend import Settings
    from eval.serve_command import serve_command

    settings = Settings(beams, history, chain_tokens, batch_size, device.value)
    serve_command(run, checkpoint, settings, host, port, waiting)


@app.command()
def remote(
    run: Run,
    checkpoint: Annotated[Path, typer.Option(help="The folder that the servers run; its tokenizer is read here.")],
    name: Name,
    endpoint: Annotated[list[str], typer.Option(help="Root of a server, e.g. http://127.0.0.1:30000; repeat.")],
    engine: Annotated[_Engine, typer.Option(help="What runs there.")] = _Engine.sglang,
    mode: Annotated[_Mode, typer.Option(help="Ask at once, or after chains of reasoning.")] = _Mode.reasoning,
    chains: Annotated[int, typer.Option(min=1, help="Chains per user, combined; above 1 at a temperature.")] = 1,
    chain_tokens: ChainTokens = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the chains; 0 is greedy.")] = 0.0,
    users: Users = None,
    beams: Beams = 20,
    split: Split = _Split.test,
    score: Score = _Score.vocabulary,
    history: History = 20,
    seed: Seed = 0,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests at once, over all servers.")] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds until a request counts as failed.")] = 300.0,
    patience: Annotated[float, typer.Option(min=0.0, help="Seconds for which a failing request is tried again.")] = 180,
    overwrite: Overwrite = False,
) -> None:
    """Evaluate a model that runs on SGLang or vLLM servers."""
    import os

    from gream.decoding.server_client import settings_of

    from eval.remote import RemoteDecoding, evaluate_remote

    reasoned = mode is _Mode.reasoning
    decoding = RemoteDecoding(
        engine=engine.value,
        beams=beams,
        score=score.value,
        history=history,
        chains=chains if reasoned else 0,
        chain_tokens=chain_tokens if reasoned else None,
        temperature=temperature if reasoned else 0.0,
        seed=seed,
    )
    servers = settings_of(endpoint, in_flight, timeout, patience, os.environ)
    print(
        evaluate_remote(run, checkpoint, name, decoding, servers, split.value, users, _command(), overwrite=overwrite),
        flush=True,
    )


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
    chains: int = 1,
    combine: Combine = "probability",
    form: _Form = _Form.question,
) -> Decoding:
    from eval.checkpoint import resolve_device
    from eval.generative import Decoding

    return Decoding(
        beams=beams,
        batch_size=batch_size,
        score=score.value,
        history=history,
        device=resolve_device(device.value),
        chain_tokens=chain_tokens,
        temperature=temperature,
        seed=seed,
        chains=chains,
        combine=combine,
        form=form.value,
    )


def _evaluate(
    run: Path,
    checkpoint: Path,
    name: str,
    decoding: Decoding,
    split: _Split,
    users: int | None,
    index: Path | None,
    prompt: Path | None,
    overwrite: bool,
) -> None:
    from eval.stages import evaluate_model

    result = evaluate_model(
        run,
        checkpoint,
        name,
        decoding,
        split.value,
        users,
        _command(),
        overwrite=overwrite,
        index=index,
        template=prompt,
    )
    if result is not None:
        print(result, flush=True)


def _command() -> str:
    return shlex.join(["python", "-m", "eval", *sys.argv[1:]])


if __name__ == "__main__":
    exit_with_error_line(app)
