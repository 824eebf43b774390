"""``python -m eval MODE --run FOLDER``: evaluate a run; each mode is a stage that does nothing when up to date."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from gream.decoding.choices import ServerEngine
from gream.dialogue import Form
from gream.engine.settings import Combine, Device, Settings
from gream.errors import GreamError, exit_with_error_line
from gream.options import (
    ChainsOption,
    ChainTokensOption,
    DeviceOption,
    FormOption,
    KeepOption,
    OverwriteOption,
    RunOption,
    SeedOption,
    TemperatureOption,
    with_groups,
)

from .options import (
    AtOption,
    Evaluated,
    FuseOption,
    Here,
    HistoryRuleOption,
    NameOption,
    RefitOption,
    SplitOption,
    UntiedOption,
)

if TYPE_CHECKING:
    from gream.protocol import History, Protocol

    from .generative import Place

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def baselines(
    run: RunOption,
    history: HistoryRuleOption = "excluded",
    refit: RefitOption = False,
    untied: UntiedOption = False,
    at: AtOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    keep: KeepOption = False,
) -> None:
    """Popularity, co-occurrence, a Markov chain, and transitions with content, on the test split; seconds each."""
    from .stages import evaluate_baselines

    protocol = _protocol(history, refit, untied, at)
    done = evaluate_baselines(run, protocol=protocol, seed=seed, command=_command(), overwrite=overwrite, keep=keep)
    for result in done:
        print(result, flush=True)


@app.command()
def sasrec(
    run: RunOption,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the model.")] = 64,
    dropout: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Dropout of embeddings, attention and layers.")
    ] = 0.5,
    negatives: Annotated[
        int, typer.Option(min=1, help="Items drawn for the loss in place of the catalogue; all of them make it exact.")
    ] = 2048,
    loss: Annotated[
        Literal["corrected", "sampled"],
        typer.Option(help="Negatives shared and weighted to the catalogue, or each prediction's own and unweighted."),
    ] = "corrected",
    layers: Annotated[int, typer.Option(min=1, help="Blocks of attention.")] = 2,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads.")] = 2,
    positions: Annotated[
        Literal["oldest", "newest"], typer.Option(help="Item of a history from which positions are counted.")
    ] = "oldest",
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs; validation ends training earlier.")] = 200,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a better validation NDCG@10.")] = 10,
    history: HistoryRuleOption = "excluded",
    refit: RefitOption = False,
    untied: UntiedOption = False,
    at: AtOption = None,
    device: DeviceOption = Device.auto,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    keep: KeepOption = False,
) -> None:
    """Train SASRec from nothing on the run's interactions and rank with it: a strong baseline, minutes to train."""
    from gream.engine.checkpoint import resolve_device

    from .sasrec import SasRecSettings
    from .stages import evaluate_sasrec

    settings = SasRecSettings(
        hidden=hidden,
        dropout=dropout,
        negatives=negatives,
        loss=loss,
        layers=layers,
        heads=heads,
        positions=positions,
        epochs=epochs,
        patience=patience,
        device=resolve_device(device),
        seed=seed,
    )
    protocol = _protocol(history, refit, untied, at)
    done = evaluate_sasrec(run, settings, protocol=protocol, command=_command(), overwrite=overwrite, keep=keep)
    print(done, flush=True)


@app.command()
@with_groups
def direct(what: Evaluated, here: Here, form: FormOption = None, fuse: FuseOption = None) -> None:
    """Ask a model for the next item at once."""
    _here(what, here, form=form, fuse=fuse)


@app.command()
@with_groups
def select(what: Evaluated, here: Here, form: FormOption = None) -> None:
    """Ask every checkpoint below --checkpoint for validation items (NAME-STEP); the last line names the best one."""
    from gream.checkpoints import checkpoints_in

    from .results import outputs_of, read_result

    what = dataclasses.replace(what, split="valid-untied" if what.split.endswith("untied") else "valid")
    found = []
    for step, folder in checkpoints_in(what.checkpoint):
        name = f"{what.name}-{step}"
        _here(dataclasses.replace(what, checkpoint=folder, name=name), here, form=form)
        metrics = read_result(what.run / outputs_of(name)[1]).metrics
        found.append((metrics["ndcg@10"].value, folder))
        print(f"{name}: Recall@10 {metrics['recall@10'].value:.4f}, NDCG@10 {metrics['ndcg@10'].value:.4f}", flush=True)
    print(max(found, key=lambda pair: pair[0])[1])


@app.command()
@with_groups
def reasoning(
    what: Evaluated,
    here: Here,
    chain_tokens: ChainTokensOption = 512,
    temperature: TemperatureOption = 0.0,
    chains: ChainsOption = 1,
    fuse: FuseOption = None,
) -> None:
    """Let a model reason, then ask it for items given its chain, or given several chains together."""
    _here(what, here, chain_tokens=chain_tokens, temperature=temperature, chains=chains, fuse=fuse)


@app.command()
@with_groups
def sampled(
    what: Evaluated,
    here: Here,
    chain_tokens: ChainTokensOption = 512,
    temperature: Annotated[float, typer.Option(min=0.01, help="Sampling temperature of the chains.")] = 1.0,
    chains: Annotated[int, typer.Option(min=2, help="Chains per user: the n of pass@K.")] = 10,
) -> None:
    """The paper's sampled mode: n chains with one item each; pass@K, and hit@K by the chain's log-probability."""
    _here(what, here, chain_tokens=chain_tokens, temperature=temperature, chains=chains, combine=Combine.answers)


@app.command("import")
def import_(
    run: RunOption,
    lists: Annotated[
        Path, typer.Option(help="Lists made elsewhere: .csv, .tsv, .parquet, or a TREC run: .run, .trec, .txt.")
    ],
    name: NameOption,
    at: AtOption = None,
    split: SplitOption = "test",
    partial: Annotated[
        bool, typer.Option("--partial", help="Measure only the users in the file, also where they are not all.")
    ] = False,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    keep: KeepOption = False,
) -> None:
    """Measure lists made elsewhere: users and items by their names in the data."""
    from .lists import import_lists
    from .metrics import cutoffs_with

    done = import_lists(
        run,
        lists,
        name,
        cutoffs_with(at),
        split,
        partial=partial,
        seed=seed,
        command=_command(),
        overwrite=overwrite,
        keep=keep,
    )
    print(done, flush=True)


@app.command()
def rewards(run: RunOption, seed: SeedOption = 0, overwrite: OverwriteOption = False, keep: KeepOption = False) -> None:
    """Compare the validation reward before and after SRPO, paired by prompt."""
    from .rewards import compare_rewards, read_rewards
    from .table import rewards_line

    print(compare_rewards(run, seed=seed, overwrite=overwrite, keep=keep), flush=True)
    comparison = read_rewards(run)
    if comparison is not None:
        print(rewards_line(comparison), flush=True)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of an evaluation, RUN/eval/NAME.")],
    second: Annotated[
        Path | None,
        typer.Argument(help="Another one, of the same users; without it FIRST is set against its run's best baseline."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File to write everything to as well, as JSON.")
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Set two evaluations against each other, paired by user, by length of history and popularity of the target."""
    from gream.console import make_console
    from gream.files import write_json

    from .compare import compare as compare_evaluations
    from .compare import rival_of
    from .table import print_comparison

    if second is None:
        first, second = rival_of(first), first
    comparison = compare_evaluations(first, second, seed=seed)
    if json_file is not None:
        write_json(json_file, comparison.model_dump(mode="json"))
    print_comparison(comparison, make_console())


@app.command()
def table(run: RunOption) -> None:
    """Show every evaluation of a run, counted baselines among them: they are made where they are missing."""
    from gream.console import make_console

    from .results import read_results
    from .rewards import read_rewards
    from .stages import with_baselines
    from .table import print_table

    with_baselines(run, command=_command())
    results = read_results(run)
    if not results:
        raise GreamError(f"{run}: holds no eval/*/metrics.json; run 'python -m eval baselines' or 'direct' first")
    print_table(results, read_rewards(run), make_console())


@app.command()
def report(
    run: RunOption,
    user_ids: Annotated[
        bool, typer.Option("--user-ids", help="Name the users shown by their ids in the data, not by numbers.")
    ] = False,
    overwrite: OverwriteOption = False,
    keep: KeepOption = False,
) -> None:
    """Write RUN/report.html: everything about a run on one page."""
    from .report.stage import write_report
    from .stages import with_baselines

    with_baselines(run, command=_command())
    print(write_report(run, user_ids=user_ids, overwrite=overwrite, keep=keep), flush=True)


_HANDED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(context_settings=_HANDED_ON)
def recommend(context: typer.Context) -> None:
    """Rank items for a history, or for a file of users."""
    _serving("recommend", context)


@app.command(context_settings=_HANDED_ON)
def serve(context: typer.Context) -> None:
    """Serve recommendations over HTTP, with a page to try them on."""
    _serving("serve", context)


@app.command()
@with_groups
def remote(
    what: Evaluated,
    endpoint: Annotated[list[str], typer.Option(help="Root of a server, e.g. http://127.0.0.1:30000; repeat.")],
    engine: Annotated[ServerEngine, typer.Option(help="Engine that runs on the servers.")] = ServerEngine.sglang,
    mode: Annotated[
        Literal["direct", "reasoning", "sampled"],
        typer.Option(help="Ask at once, after chains of reasoning, or for an item per sampled chain."),
    ] = "reasoning",
    form: FormOption = None,
    chain_tokens: ChainTokensOption = 512,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Sampling temperature of the chains; by default 0, which is greedy, and 1 where they are sampled.",
        ),
    ] = None,
    chains: Annotated[
        int | None, typer.Option(min=1, help="Chains per user; by default 1, and 10 where they are sampled.")
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests at once, over all servers.")] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds until a request counts as failed.")] = 300.0,
    patience: Annotated[float, typer.Option(min=0.0, help="Seconds for which a failing request is tried again.")] = 600,
) -> None:
    """Evaluate a model that runs on SGLang or vLLM servers."""
    import os

    from gream.decoding.server_client import settings_of

    from .generative import OnServers

    reasoned, many = mode != "direct", mode == "sampled"
    if not reasoned and (chains is not None or temperature is not None):
        raise GreamError("--mode direct writes no chains: leave --chains and --temperature out")
    usual_chains, usual_temperature = (10, 1.0) if many else (1, 0.0)
    _evaluate(
        what,
        OnServers(engine=engine, servers=settings_of(endpoint, in_flight, timeout, patience, os.environ)),
        chain_tokens=chain_tokens if reasoned else None,
        temperature=0.0 if not reasoned else usual_temperature if temperature is None else temperature,
        chains=1 if not reasoned else usual_chains if chains is None else chains,
        combine=Combine.answers if many else Combine.probability,
        form=form,
    )


def _protocol(history: History, refit: bool, untied: bool, at: list[int] | None) -> Protocol:
    from gream.protocol import Protocol

    from .metrics import cutoffs_with

    return Protocol(history, "train+valid" if refit else "train", untied, cutoffs_with(at))


def _serving(command: str, context: typer.Context) -> None:
    # By the name under which this folder itself goes: in the repository, or installed.
    serving = import_module("serving.__main__" if __package__ == "eval" else "gream_serving.__main__")
    serving.app([command, *context.args], prog_name=context.parent and context.parent.command_path)


def _here(what: Evaluated, here: Here, **asked: Any) -> None:
    from gream.engine.checkpoint import resolve_device

    from .generative import InProcess

    _evaluate(what, InProcess(batch_size=here.batch_size, device=resolve_device(here.device)), **asked)


def _evaluate(
    what: Evaluated,
    place: Place,
    *,
    chain_tokens: int | None = None,
    temperature: float = 0.0,
    chains: int = 1,
    combine: Combine = Combine.probability,
    form: Form | None = None,
    fuse: str | None = None,
) -> None:
    from .metrics import cutoffs_with
    from .stages import evaluate_model

    cutoffs = cutoffs_with(what.at)
    settings = Settings(
        k=cutoffs[-1],
        beams=what.beams,
        score=what.score,
        history=what.history,
        chain_tokens=chain_tokens,
        temperature=temperature,
        seed=what.seed,
        chains=chains,
        combine=combine,
        form=form,
        exclude_history=what.exclude_history,
        fuse=fuse,
    )
    result = evaluate_model(
        what.run,
        what.checkpoint,
        what.name,
        settings,
        place,
        what.split,
        what.users,
        _command(),
        cutoffs=cutoffs,
        overwrite=what.overwrite,
        keep=what.keep,
        index=what.index,
        template=what.prompt,
    )
    if result is not None:
        print(result, flush=True)


def _command() -> str:
    """What was typed: ``gream eval ...`` or ``gream report ...``, or the form of the repository."""
    program = ["gream"] if Path(sys.argv[0]).name == "gream" else ["python", "-m", "eval"]
    return shlex.join([*program, *sys.argv[1:]])


if __name__ == "__main__":
    exit_with_error_line(app)
