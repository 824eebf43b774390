"""Evaluations as stages of a run folder: up to date, resumed after a kill, or made anew."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
from gream.counted.fusion import (
    TRANSITIONS,
    embeddings_of,
    transition_scores,
    transitions_of,
)
from gream.counted.lists import (
    Counted,
    Ranking,
    cooccurrence,
    markov_chain,
    popular_first,
    popularity,
    popularity_of,
    rank_by,
    rank_histories,
)
from gream.counted.transitions import grid_lines
from gream.engine.checkpoint import checkpoint_files
from gream.engine.contract import read_contract, settle
from gream.engine.engine import Engine
from gream.engine.fusion import Fusion
from gream.engine.settings import Combine, Settings
from gream.errors import GreamError
from gream.processes import Processes, join_processes
from gream.protocol import (
    COMMON,
    Cases,
    Protocol,
    Split,
    held_out,
    read_interactions,
    training_matrix,
    training_sequences,
)
from gream.provenance import code_of
from gream.semantic_ids.catalog import Catalog
from gream.stage import StageResult, Summary, run_stage

from .fusion import (
    FUSION_USERS,
    FileScores,
    best_weight,
    choose_weights,
    gains_by_weight,
)
from .generative import Place, collect_chunks, predict_in_chunks, weigh_in_chunks
from .metrics import CUTOFFS, exposure_of, mean_with_interval, measure, pass_at_k
from .results import (
    BASELINES,
    Cost,
    Interval,
    Mode,
    Result,
    outputs_of,
    predictions_table,
    read_results,
    versions_of,
    write_result,
)

if TYPE_CHECKING:
    from .sasrec import SasRecSettings


def evaluate_baselines(
    run: Path, *, protocol: Protocol = COMMON, seed: int, command: str, overwrite: bool, keep: bool = False
) -> Iterator[StageResult]:
    """Make ``eval/popularity``, ``cooccurrence``, ``markov`` and ``transitions`` on the test split, for all users.

    The weights of the last are chosen on the validation items with counts of the training part, under any protocol.
    Without ``embeddings.safetensors`` in the run it goes by transitions alone.

    Args:
        run: Run folder.
        protocol: What lists may hold and what is counted; it is part of the names.
        seed: Of the bootstrap and of the sample of validation users.
        command: What was typed, for the record.
        overwrite: Replace those that were made with another configuration or by other code.
        keep: Accept those that other code made.

    Yields:
        What happened to each.

    Raises:
        GreamError: An input is missing or broken.
    """
    counted: dict[Mode, Counted] = {"popularity": popularity, "cooccurrence": cooccurrence, "markov": markov_chain}
    allow = protocol.history == "allowed"

    def ranker(baseline: Counted) -> _Ranker:
        def ranked(data: _Data, _: Path) -> _Ranked:
            began = time.monotonic()
            length, histories = protocol.length, data.cases.histories
            ranking = rank_by(baseline, data.train, data.items, histories, length, allow_history=allow)
            return ranking, time.monotonic() - began, {}

        return ranked

    embeddings = embeddings_of(run)

    def by_transitions(data: _Data, _: Path) -> _Ranked:
        counts = transitions_of(run, training_matrix(data.interactions, data.items), data.items)
        weights, gains = choose_weights(counts, data.interactions, seed, allow_history=allow)
        print("\n".join(grid_lines(gains)), flush=True)
        if protocol.fitted != "train":
            counts = transitions_of(run, data.train, data.items)
        began = time.monotonic()
        ranking = counts.rank(weights, data.cases.histories, protocol.length, allow_history=allow)
        seconds = time.monotonic() - began
        return ranking, seconds, dataclasses.asdict(weights) | {"validation_ndcg@10": gains[weights]}

    rankers: dict[Mode, _Ranker] = {mode: ranker(baseline) for mode, baseline in counted.items()}
    for mode, ranked in (rankers | {"transitions": by_transitions}).items():
        yield _evaluate_baseline(
            run,
            mode,
            ranked,
            protocol=protocol,
            config={},
            more_inputs={"embeddings": embeddings} if mode == "transitions" and embeddings else {},
            packages=(),
            seed=seed,
            command=command,
            overwrite=overwrite,
            keep=keep,
        )


def with_baselines(run: Path, *, command: str) -> None:
    """Make the counted baselines that a run's models are read against, where they are missing.

    They are those of the protocols in which models were asked for test items; no model, or no data beside the
    evaluations, no baselines.

    Args:
        run: Run folder.
        command: What was typed, for the record.

    Raises:
        GreamError: An input is broken.
    """
    if not all((run / name).exists() for name in ("interactions.parquet", "index.json")):
        return
    results = read_results(run)
    asked = {
        Protocol(result.history, result.fitted or "train", result.split == "test-untied")
        for result in results
        if result.mode not in BASELINES and result.split.startswith("test")
    }
    have = {result.name for result in results}
    for protocol in sorted(asked, key=lambda protocol: protocol.suffix):
        if f"transitions{protocol.suffix}" not in have:
            for done in evaluate_baselines(run, protocol=protocol, seed=0, command=command, overwrite=False, keep=True):
                print(done, flush=True)


def evaluate_sasrec(
    run: Path,
    settings: SasRecSettings,
    *,
    protocol: Protocol = COMMON,
    command: str,
    overwrite: bool,
    keep: bool = False,
) -> StageResult:
    """Train SASRec and make ``eval/sasrec`` on the test split, for all users.

    The number of epochs is chosen on the validation items. Where they are fitted on too, the model is then trained anew
    on everything but the test items, for that many epochs.

    Args:
        run: Run folder.
        settings: Size of the model and how it is trained.
        protocol: What lists may hold and what is trained on; it is part of the name.
        command: What was typed, for the record.
        overwrite: Replace one that was made with other settings or by other code.
        keep: Accept one that other code made.

    Raises:
        GreamError: An input is missing or broken, or a setting is impossible.
    """
    from .sasrec import train_sasrec

    def ranked(data: _Data, out: Path) -> _Ranked:
        valid = held_out(data.interactions, "valid")
        sequences = training_sequences(data.interactions)
        trained = train_sasrec(sequences, valid, data.items, settings, out / "training.safetensors")
        model, seconds = trained.model, trained.seconds
        if protocol.fitted != "train":
            again = train_sasrec(
                training_sequences(data.interactions, protocol.fitted),
                None,
                data.items,
                dataclasses.replace(settings, epochs=trained.best_epoch),
                out / "refit.safetensors",
            )
            model, seconds = again.model, seconds + again.seconds
        began = time.monotonic()
        ranking = rank_histories(
            lambda batch: model.score_histories(batch).double().cpu().numpy(),
            popularity_of(data.train, data.items),
            data.cases.histories,
            protocol.length,
            allow_history=protocol.history == "allowed",
        )
        return (
            ranking,
            time.monotonic() - began,
            dataclasses.asdict(settings)
            | {
                "epochs_trained": trained.epochs,
                "best_epoch": trained.best_epoch,
                "validation_ndcg@10": trained.validation_ndcg,
                "training_seconds": seconds,
            },
        )

    return _evaluate_baseline(
        run,
        "sasrec",
        ranked,
        protocol=protocol,
        config=dataclasses.asdict(settings),
        more_inputs={},
        packages=("torch",),
        seed=settings.seed,
        command=command,
        overwrite=overwrite,
        keep=keep,
    )


@dataclasses.dataclass(frozen=True)
class _Data:
    """What a baseline sees: ``train`` int64 ``[2, M]``, what it is fitted on, the test cases, the number of items."""

    interactions: pl.DataFrame
    train: npt.NDArray[np.int64]
    cases: Cases
    items: int


# From the data and a folder for unfinished work to a ranking, the seconds of ranking alone, and what to record.
_Ranked = tuple[Ranking, float, dict[str, str | int | float | None]]
_Ranker = Callable[[_Data, Path], _Ranked]


def _evaluate_baseline(
    run: Path,
    mode: Mode,
    ranked: _Ranker,
    *,
    protocol: Protocol,
    config: dict[str, Any],
    more_inputs: Mapping[str, Path],
    packages: Sequence[str],
    seed: int,
    command: str,
    overwrite: bool,
    keep: bool,
) -> StageResult:
    interactions, index = run / "interactions.parquet", run / "index.json"
    name = mode + protocol.suffix

    def build(out: Path) -> Summary:
        table = read_interactions(interactions)
        count = len(Catalog.load(index))
        data = _Data(table, training_matrix(table, count, protocol.fitted), held_out(table, protocol.split), count)
        (items, scores), seconds, settings = ranked(data, out)
        nothing = [None] * len(items)
        predictions = predictions_table(data.cases.users, data.cases.targets, items, scores, nothing, nothing)
        result = Result(
            name=name,
            mode=mode,
            split=protocol.split,
            history=protocol.history,
            fitted=protocol.fitted,
            checkpoint=None,
            **measure(items, data.cases.targets, catalogue=count, seed=seed, cutoffs=protocol.cutoffs),
            malformed_rate=None,
            seconds_per_user=seconds / len(items),
            exposure=exposure_of(items, data.train, data.cases.histories, count),
            seed=seed,
            settings=settings,
            versions=versions_of("numpy", "polars", "scipy", *packages),
            command=command,
        )
        return write_result(out, result, predictions)

    return run_stage(
        run,
        f"eval-{name}",
        config={"mode": mode, "seed": seed} | dataclasses.asdict(protocol) | config,
        inputs={"interactions": interactions, "ids": index, **more_inputs},
        outputs=outputs_of(name),
        code=code_of(evaluate_baselines),
        build=build,
        overwrite=overwrite,
        keep=keep,
        keep_partial=True,
    )


def evaluate_model(
    run: Path,
    checkpoint: Path,
    name: str,
    settings: Settings,
    place: Place,
    split: Split,
    users: int | None,
    command: str,
    *,
    cutoffs: Sequence[int] = CUTOFFS,
    overwrite: bool,
    keep: bool = False,
    index: Path | None = None,
    template: Path | None = None,
) -> StageResult | None:
    """Make ``eval/NAME`` for a checkpoint, in as many processes as torchrun started.

    Args:
        run: Run folder.
        checkpoint: Folder in Hugging Face format; on servers, the one that they run.
        name: Name of the evaluation.
        settings: How to ask; the seed also draws the sample of users and the bootstrap.
        place: Where the model runs.
        split: Whose item is to be predicted.
        users: Size of the sample of users; None asks all.
        command: What was typed, for the record.
        cutoffs: Lengths at which lists are measured, ascending; ``settings.k`` is the largest.
        overwrite: Replace an evaluation of the same name made with another configuration or by other code.
        keep: Accept one that other code made.
        index: Ids that the model knows the run's items by; None for the run's own.
        template: Prompt of a model trained elsewhere, see `PromptTemplate`; None for this project's own.

    Returns:
        What happened; None in every process but the leading one.

    Raises:
        GreamError: An input is missing, the checkpoint does not fit the catalogue, servers fail, or the name is taken
            or unfit.
    """
    check_name(name)
    if settings.combine == Combine.answers and cutoffs[-1] > max(settings.chains, CUTOFFS[-1]):
        raise GreamError(f"--at {cutoffs[-1]}: sampled lists have an item per chain; raise --chains {settings.chains}")
    files = checkpoint_files(checkpoint)
    contract = read_contract(checkpoint)
    fitted = None if contract is None else contract.fitted
    if fitted == "train+valid" and (split.startswith("valid") or settings.fuse is not None):
        raise GreamError(
            f"{checkpoint}: was trained on the validation items too (sft.refit): it can neither be asked for them nor "
            "choose a weight by them; ask with --split test, without --fuse"
        )
    if settings.fuse is not None and split.startswith("valid"):
        raise GreamError("--fuse chooses its weight on the validation items: ask with --split test or test-untied")
    fused_file = None if settings.fuse in (None, TRANSITIONS) else Path(settings.fuse)
    if fused_file is not None:
        settings = dataclasses.replace(settings, fuse=fused_file.name)
    settings = settle(settings, checkpoint, own_prompt=template is None)
    interactions, ids_path = run / "interactions.parquet", index or run / "index.json"
    label = _label_of(checkpoint, run)
    processes = join_processes()

    def read() -> tuple[pl.DataFrame, Cases]:
        table = read_interactions(interactions)
        return table, held_out(table, split).sample(users, settings.seed)

    def predict(table: pl.DataFrame, cases: Cases, out: Path) -> tuple[Engine, dict[str, str | int | float | None]]:
        model = place.model(checkpoint, out)
        engine = Engine.open(model, checkpoint, ids_path, settings, template)
        weighed = _weigh(run, engine, table, fused_file, place.step or FUSION_USERS, out, processes)
        predict_in_chunks(engine, cases, place.step or len(cases.users), out / "parts", processes)
        processes.wait()
        return engine, weighed

    def build(out: Path) -> Summary:
        table, cases = read()
        (out / "parts").mkdir(exist_ok=True)
        processes.from_leader(str(out))
        engine, weighed = predict(table, cases, out)
        if engine.decoder.retries:
            causes = ", ".join(f"{count} after {cause}" for cause, count in sorted(engine.decoder.retries.items()))
            print(f"[eval-{name}] tried again: {causes}", flush=True)
        predictions, costs, alone = collect_chunks(cases, place.step or len(cases.users), out / "parts")
        items = np.array(predictions["items"].to_list(), dtype=np.int64)  # [N, k]
        catalogue = len(engine.ids)
        latency = np.percentile(costs["latency"].to_numpy(), (50, 95))
        prompt_tokens, written_tokens, malformed, seconds = (
            float(costs[column].to_numpy().mean())
            for column in ("prompt_tokens", "written_tokens", "malformed_chains", "seconds")
        )
        asked = dataclasses.asdict(settings) | place.recorded
        result = Result(
            name=name,
            mode=mode,
            split=split,
            history="excluded" if settings.exclude_history else "allowed",
            fitted=fitted,
            checkpoint=label,
            **measure(items, cases.targets, catalogue=catalogue, seed=settings.seed, cutoffs=cutoffs),
            malformed_rate=None if mode == "direct" else malformed / settings.chains,
            seconds_per_user=seconds / processes.count,
            exposure=exposure_of(items, training_matrix(table, catalogue), cases.histories, catalogue),
            cost=Cost(
                latency_p50=float(latency[0]),
                latency_p95=float(latency[1]),
                prompt_tokens=prompt_tokens,
                written_tokens=written_tokens,
            ),
            pass_at=_pass_at(items, cases, settings.seed, cutoffs) if mode == "sampled" else None,
            alone=None if alone is None else _alone(alone, cases, settings, catalogue, cutoffs),
            seed=settings.seed,
            settings={key: value for key, value in asked.items() if key not in ("k", "seed")}
            | weighed
            | {
                "index": ids_path.name,
                "prompt": None if template is None else template.name,
                "processes": processes.count,
            },
            versions=versions_of("numpy", "polars", *place.packages),
            command=command,
        )
        return write_result(out, result, predictions)

    mode: Mode = "sampled" if settings.combine == Combine.answers else settings.mode.value
    if processes.rank > 0:
        folder = processes.from_leader(None)
        if folder is not None:
            predict(*read(), Path(folder))
        return None
    done = run_stage(
        run,
        f"eval-{name}",
        config={"mode": mode, "split": split, "users": users, "checkpoint": label, "at": list(cutoffs)}
        | dataclasses.asdict(settings)
        | place.recorded,
        inputs={"interactions": interactions, "ids": ids_path}
        | {f"checkpoint/{path.name}": path for path in files}
        | ({} if template is None else {"prompt": template})
        | _fused_inputs(run, settings, fused_file),
        outputs=outputs_of(name),
        code=code_of(build),
        build=build,
        overwrite=overwrite,
        keep=keep,
        keep_partial=True,
    )
    if not done.ran:
        processes.from_leader(None)
    return done


def _fused_inputs(run: Path, settings: Settings, file: Path | None) -> dict[str, Path]:
    """What item scores are made of, beside the interactions."""
    if settings.fuse is None:
        return {}
    if file is not None:
        return {"fused": file, "users": run / "users.parquet", "items": run / "items.parquet"}
    embeddings = embeddings_of(run)
    return {} if embeddings is None else {"embeddings": embeddings}


def _weigh(
    run: Path, engine: Engine, table: pl.DataFrame, file: Path | None, step: int, out: Path, processes: Processes
) -> dict[str, str | int | float | None]:
    """Give the engine the item scores that its settings name, with the weight that validation chooses.

    Args:
        run: Run folder.
        engine: The model; its ``fusion`` is set.
        table: What `read_interactions` returns.
        file: Of item scores; None for transitions.
        step: Users per chunk.
        out: Folder of what is unfinished.
        processes: Who shares the work.

    Returns:
        What is to be recorded; nothing where nothing is fused.
    """
    settings = engine.settings
    if settings.fuse is None:
        return {}
    items = len(engine.ids)
    train = training_matrix(table, items)
    first = popular_first(popularity_of(train, items))
    recorded: dict[str, str | int | float | None] = {}
    if file is not None:
        scores = FileScores.load(file, run)
        of_valid, of_test = scores.of("valid"), scores.of("test")
    else:
        counts = transitions_of(run, train, items)
        weights, _ = choose_weights(counts, table, settings.seed, allow_history=not settings.exclude_history)
        of_valid = of_test = transition_scores(counts, weights)
        recorded = {f"{TRANSITIONS}.{name}": value for name, value in dataclasses.asdict(weights).items()}
    asked = held_out(table, "valid").at_most(FUSION_USERS, settings.seed)
    engine.fusion = Fusion(of_valid, first, 0.0)
    candidates, targets = weigh_in_chunks(engine, asked, step, out / "parts" / "valid", processes)
    gains = gains_by_weight(candidates, targets)
    weight = best_weight(gains)
    engine.fusion = Fusion(of_test, first, weight)
    if processes.rank == 0:
        shown = "  ".join(f"{value:g} {gain:.4f}{'*' * (value == weight)}" for value, gain in gains.items())
        print(f"weight of {settings.fuse}, NDCG@10 on {len(asked.users):,} validation users:  {shown}", flush=True)
    return recorded | {"fuse_weight": weight, "validation_ndcg@10": gains[weight]}


def _alone(
    lists: pl.DataFrame, cases: Cases, settings: Settings, catalogue: int, cutoffs: Sequence[int]
) -> dict[str, dict[str, Interval]]:
    """What the parts of fused lists are worth alone."""
    names = ("model", str(settings.fuse))
    return {
        name: measure(
            np.array(column.to_list(), dtype=np.int64),
            cases.targets,
            catalogue=catalogue,
            seed=settings.seed,
            cutoffs=cutoffs,
        )["metrics"]
        for name, column in zip(names, lists, strict=True)
    }


def _pass_at(answers: npt.NDArray[np.int64], cases: Cases, seed: int, cutoffs: Sequence[int]) -> dict[str, Interval]:
    """Pass@K of ``[N, n]`` answers for K up to n, with intervals over users."""
    n = answers.shape[1]
    hits = (answers == cases.targets[:, None]).sum(axis=1)
    return {f"pass@{k}": mean_with_interval(pass_at_k(hits, n, k), seed) for k in cutoffs if k <= n}


def check_name(name: str) -> None:
    """Refuse what is no name of an evaluation of a model."""
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise GreamError(f"--name '{name}': letters, digits, '-', '_' and '.' only")
    if name.split("-")[0] in BASELINES:
        raise GreamError(f"--name '{name}' is the name of a baseline; choose another")


def _label_of(path: Path, run: Path) -> str:
    """``path`` as seen from the run folder; its name alone where it lies elsewhere."""
    try:
        return path.resolve().relative_to(run.resolve()).as_posix()
    except ValueError:
        return path.name
