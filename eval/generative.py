"""Predictions of a model, in chunks that survive a kill; over servers in one, whose journal survives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
from gream.decoding.choices import ServerEngine
from gream.decoding.server_client import ServerSettings
from gream.engine.engine import Answer, Engine, Query
from gream.engine.fusion import Candidates
from gream.engine.model import Model
from gream.engine.settings import Combine
from gream.errors import GreamError
from gream.files import write_atomically
from gream.processes import Processes
from gream.progress import progress_bar
from gream.protocol import Cases
from gream.tables import read_table

from .fusion import candidates_in, candidates_table
from .results import predictions_table

# Batches whose users are sorted by length together, and which a kill may cost.
_BATCHES_PER_CHUNK = 4


class Place(Protocol):
    """Where a model runs."""

    @property
    def recorded(self) -> dict[str, str | int]:
        """What of it has a say in the last digits of scores."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Whose versions are recorded."""

    @property
    def step(self) -> int | None:
        """Users per chunk; None for all."""

    def model(self, checkpoint: Path, out: Path) -> Model:
        """The model of a folder; what is unfinished lies in the folder ``out``."""


@dataclass(frozen=True, kw_only=True)
class InProcess:
    """The model runs here.

    Attributes:
        batch_size: Users per batch; chains, where each user gets several.
        device: "cpu" or "cuda".
    """

    batch_size: int
    device: str
    packages = ("torch", "transformers")

    @property
    def recorded(self) -> dict[str, str | int]:
        """See `Place`."""
        return {"batch_size": self.batch_size, "device": self.device}

    @property
    def step(self) -> int:
        """See `Place`."""
        return self.batch_size * _BATCHES_PER_CHUNK

    def model(self, checkpoint: Path, out: Path) -> Model:
        """See `Place`."""
        from gream.engine.local import LocalModel

        return LocalModel.load(checkpoint, self.device, self.batch_size)


@dataclass(frozen=True, kw_only=True)
class OnServers:
    """The model runs on servers.

    Attributes:
        engine: What runs there.
        servers: Where; changes nothing in the result.
    """

    engine: ServerEngine
    servers: ServerSettings
    packages = ("transformers", "aiohttp")
    step = None

    @property
    def recorded(self) -> dict[str, str | int]:
        """See `Place`."""
        return {"engine": self.engine}

    def model(self, checkpoint: Path, out: Path) -> Model:
        """See `Place`."""
        from gream.engine.remote import ServedModel

        return ServedModel(checkpoint, self.engine, self.servers, out / "answers.jsonl")


# What a chunk of fused lists holds beside predictions: the lists of the model and of the item scores alone.
_ALONE = ("by_model", "by_scores")
# And every chunk: seconds that a user waited, tokens, chains without an answer, and the user's share of the time that
# the chunk took.
_COSTS = ("latency", "prompt_tokens", "written_tokens", "malformed_chains", "seconds")


def predict_in_chunks(engine: Engine, cases: Cases, step: int, parts: Path, processes: Processes) -> None:
    """Predict this process's share of the chunks, skipping those that an earlier, killed run left in ``parts``.

    The chunks depend on ``cases`` and ``step`` alone, so that resumed runs and several processes compute the same
    batches as one unbroken run.

    Args:
        engine: The model.
        cases: Whom to ask.
        step: Users per chunk.
        parts: Folder of finished chunks.
        processes: Who shares the work.
    """
    asked = engine.settings
    length = asked.chains if asked.combine == Combine.answers else min(asked.k, len(engine.ids))

    def table(some: Cases, queries: Sequence[Query], answers: Sequence[Answer], seconds: float) -> pl.DataFrame:
        return _table(some, answers, length, [len(query.prompt) for query in queries], seconds)

    _in_chunks(engine, cases, step, parts, processes, table)


def weigh_in_chunks(
    engine: Engine, cases: Cases, step: int, parts: Path, processes: Processes
) -> tuple[list[Candidates], npt.NDArray[np.integer[Any]]]:
    """What the lists of validation users are chosen from, and their targets; see `predict_in_chunks`."""
    parts.mkdir(exist_ok=True)
    _in_chunks(engine, cases, step, parts, processes, lambda some, _, answers, __: candidates_table(some, answers))
    processes.wait()
    table = _collected(cases, step, parts)
    return candidates_in(table), table["target"].to_numpy()


def _in_chunks(
    engine: Engine,
    cases: Cases,
    step: int,
    parts: Path,
    processes: Processes,
    table: Callable[[Cases, Sequence[Query], Sequence[Answer], float], pl.DataFrame],
) -> None:
    """Ask chunk by chunk; ``table`` makes a chunk's file of its cases, queries, answers and seconds per user."""
    chunks = processes.share(_chunks(cases, step, parts))
    queries = engine.queries(cases.histories, cases.users.tolist())
    sizes = [min(step, len(queries) - start) for start, _ in chunks]
    finished = sum(count for count, (_, path) in zip(sizes, chunks, strict=True) if path.exists())
    label = f"process 1 of {processes.count}" if processes.count > 1 else None
    with progress_bar(sum(sizes), "users", done=finished, label=label, show=processes.rank == 0) as progress:
        for start, path in chunks:
            if path.exists():
                continue
            rows = slice(start, start + step)
            before = engine.decoder.seconds
            answers = engine.answer(queries[rows], progress.update)
            seconds = (engine.decoder.seconds - before) / len(answers)
            some = Cases(cases.users[rows], cases.targets[rows], cases.histories[rows])
            with write_atomically(path) as temporary:
                table(some, queries[rows], answers, seconds).write_parquet(temporary)


def _table(
    cases: Cases, answers: Sequence[Answer], length: int, prompt_tokens: Sequence[int], seconds: float
) -> pl.DataFrame:
    """Predictions, lists of ``length`` items, the columns of ``_COSTS``, and of fused lists those of ``_ALONE``."""
    lists = [_filled(answer, history, length) for answer, history in zip(answers, cases.histories, strict=True)]
    predictions = predictions_table(
        cases.users,
        cases.targets,
        np.array([items for items, _ in lists]),
        np.array([scores for _, scores in lists]),
        [None if answer.chain is None else answer.chain.text for answer in answers],
        [None if answer.chain is None else not answer.chain.complete for answer in answers],
    ).with_columns(
        latency=pl.Series([answer.seconds for answer in answers]),
        prompt_tokens=pl.Series(prompt_tokens),
        written_tokens=pl.Series([sum(len(chain.tokens) for chain in answer.chains) for answer in answers]),
        malformed_chains=pl.Series([sum(not chain.complete for chain in answer.chains) for answer in answers]),
        seconds=pl.lit(seconds),
    )
    fused = [answer.candidates for answer in answers if answer.candidates is not None]
    if not fused:
        return predictions
    lists_of = ([own.by_model(length) for own in fused], [own.by_scores(length) for own in fused])
    return predictions.with_columns(
        pl.Series(name, [[*items.tolist(), *[-1] * (length - len(items))] for items in lists], dtype=pl.List(pl.Int32))
        for name, lists in zip(_ALONE, lists_of, strict=True)
    )


def _filled(answer: Answer, history: Sequence[int], length: int) -> tuple[list[int], list[float]]:
    """A list of ``length``: where what the user already has leaves fewer, that comes last, at minus infinity."""
    missing = [item for item in dict.fromkeys(reversed(history)) if item not in answer.items]
    missing = missing[: length - len(answer.items)]
    return answer.items + missing, answer.scores + [-np.inf] * len(missing)


def _chunks(cases: Cases, step: int, parts: Path) -> list[tuple[int, Path]]:
    """Number of the first case, and file, of each chunk."""
    return [(start, parts / f"{start:09d}.parquet") for start in range(0, len(cases.users), step)]


def collect_chunks(cases: Cases, step: int, parts: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame | None]:
    """Predictions of all chunks, what they cost (`_COSTS`), and the parts of fused lists (`_ALONE`): a row per user.

    Raises:
        GreamError: A chunk is missing.
    """
    table = _collected(cases, step, parts)
    alone = table.select(_ALONE) if _ALONE[0] in table.columns else None
    return table.drop(_COSTS).drop(_ALONE, strict=False), table.select(_COSTS), alone


def _collected(cases: Cases, step: int, parts: Path) -> pl.DataFrame:
    paths = [path for _, path in _chunks(cases, step, parts)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise GreamError(
            f"{missing[0]}: not there, though its process is done; all processes must see the same run folder"
        )
    return pl.concat([read_table(path) for path in paths])
