"""Lists made elsewhere become an evaluation of a run: by name of user and item, strictly, or not at all."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gream.errors import GreamError
from gream.protocol import Cases, Split, held_out, read_interactions, training_matrix
from gream.provenance import code_of
from gream.stage import StageResult, Summary, run_stage
from gream.tables import read_numbers, read_table

from .metrics import exposure_of, measure
from .results import Result, outputs_of, predictions_table, versions_of, write_result
from .stages import check_name

_TREC = (".run", ".trec", ".txt")
# Names among which the nearest one is looked for.
_MOST_NAMES = 200_000


class Entry(NamedTuple):
    """One item of a list.

    Attributes:
        line: Where the file has it, from 1; of Parquet the number of the row.
        user: Name of the user.
        item: Name of the item.
        place: What a list is sorted by, smallest first; None: the order of the file.
    """

    line: int
    user: str
    item: str
    place: float | None


def import_lists(
    run: Path,
    path: Path,
    name: str,
    cutoffs: Sequence[int],
    split: Split,
    *,
    partial: bool,
    seed: int,
    command: str,
    overwrite: bool,
    keep: bool,
) -> StageResult:
    """Make ``eval/NAME`` of the lists in ``path``.

    Args:
        run: Run folder.
        path: See `read_entries`.
        name: Of the evaluation.
        cutoffs: Ascending. Lists have as many items as the largest; longer ones are cut.
        split: Whose item was to be predicted.
        partial: Measure the users in the file; by default all users of the split must be there.
        seed: Of the bootstrap.
        command: What was typed, for the record.
        overwrite: Replace an evaluation of the same name made with another configuration.
        keep: Accept one that other code made.

    Raises:
        GreamError: A user or an item is unknown, an item stands twice in a list, a list is too short, a user of the
            split is missing, or the file cannot be read; names file and line.
    """
    check_name(name)
    interactions, users, items = (run / f"{table}.parquet" for table in ("interactions", "users", "items"))

    def build(out: Path) -> Summary:
        table = read_interactions(interactions)
        item_names = read_numbers(items, "item", "item_id")
        user_names = read_numbers(users, "user", "user_id")
        lists = _lists(path, user_names, item_names)
        cases = _asked(path, lists, list(user_names), held_out(table, split), split, cutoffs[-1], partial)
        ranked = np.array([lists[user][: cutoffs[-1]] for user in cases.users.tolist()])
        repeats = any(set(row) & set(history) for row, history in zip(ranked.tolist(), cases.histories, strict=True))
        nothing = [None] * len(ranked)
        scores = np.tile(-np.arange(1, cutoffs[-1] + 1, dtype=np.float32), (len(ranked), 1))
        result = Result(
            name=name,
            mode="imported",
            split=split,
            history="allowed" if repeats else "excluded",
            checkpoint=None,
            **measure(ranked, cases.targets, catalogue=len(item_names), seed=seed, cutoffs=cutoffs),
            malformed_rate=None,
            seconds_per_user=None,
            exposure=exposure_of(ranked, training_matrix(table, len(item_names)), cases.histories, len(item_names)),
            seed=seed,
            settings={"lists": path.name},
            versions=versions_of("numpy", "polars"),
            command=command,
        )
        return write_result(
            out, result, predictions_table(cases.users, cases.targets, ranked, scores, nothing, nothing)
        )

    return run_stage(
        run,
        f"eval-{name}",
        config={"mode": "imported", "at": list(cutoffs), "split": split, "partial": partial, "seed": seed},
        inputs={"interactions": interactions, "users": users, "items": items, "lists": path},
        outputs=outputs_of(name),
        code=code_of(import_lists),
        build=build,
        overwrite=overwrite,
        keep=keep,
    )


def read_entries(path: Path) -> Iterator[Entry]:
    """Every item of every list in a file, line by line.

    A CSV, TSV or Parquet table has the columns ``user`` and ``item``, and may have ``rank`` (the smallest comes first,
    and no two of a list are equal) or ``score`` (the largest comes first). A TREC run has six fields: user, Q0, item,
    rank, score, tag; as in trec_eval the score decides. Where nothing else does, the order of the file decides.

    Raises:
        GreamError: The file is of no such kind, or a line is not what it should be.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            table = read_table(path)
            yield from _rows(path, table.columns, enumerate(table.iter_rows(), start=1))
        elif suffix in (".csv", ".tsv"):
            with path.open(encoding="utf-8-sig", newline="") as stream:
                first = stream.readline()
                stream.seek(0)
                reader = csv.reader(stream, delimiter=max(",;\t", key=first.count), strict=True)
                head = next(reader, [])
                yield from _rows(path, head, ((reader.line_num, row) for row in reader if row))
        elif suffix in _TREC:
            with path.open(encoding="utf-8-sig") as stream:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield _trec(path, number, line.split())
        else:
            raise GreamError(f"{path}: lists are .csv, .tsv or .parquet, or a TREC run as {', '.join(_TREC)}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GreamError(f"{path}: cannot be read ({error}); write it as UTF-8 text") from None


def _rows(path: Path, head: Sequence[str], rows: Iterable[tuple[int, Sequence[object]]]) -> Iterator[Entry]:
    lacking = [name for name in ("user", "item") if name not in head]
    if lacking:
        raise GreamError(f"{path}: has no column '{lacking[0]}', but {', '.join(map(repr, head))[:200]}; name it so")
    doubled = [name for name in ("user", "item", "rank", "score") if head.count(name) > 1]
    if doubled:
        raise GreamError(f"{path}: has {head.count(doubled[0])} columns '{doubled[0]}'; keep one")
    order = next((name for name in ("rank", "score") if name in head), None)
    columns = [head.index(name) for name in ("user", "item")]
    taken: set[tuple[str, float]] = set()
    for number, row in rows:
        if len(row) != len(head):
            raise GreamError(f"{path}:{number}: {len(row)} fields where the header has {len(head)}")
        user, item = (str(row[column]) for column in columns)
        place = None if order is None else _number(path, number, row[head.index(order)])
        if place is not None and order == "rank":
            if (user, place) in taken:
                raise GreamError(
                    f"{path}:{number}: rank {place:g} stands twice in the list of user '{user[:60]}'; number the items "
                    "of each list, or leave the column out where the lines are in order"
                )
            taken.add((user, place))
        yield Entry(number, user, item, place if place is None or order == "rank" else -place)


def _trec(path: Path, number: int, fields: Sequence[str]) -> Entry:
    if len(fields) != 6:
        raise GreamError(f"{path}:{number}: {len(fields)} fields; a TREC run has user, Q0, item, rank, score, tag")
    return Entry(number, fields[0], fields[2], -_number(path, number, fields[4]))


def _number(path: Path, line: int, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise GreamError(f"{path}:{line}: '{str(value)[:40]}' is no number; rank or score is expected")
    return number


def _lists(path: Path, users: Mapping[str, int], items: Mapping[str, int]) -> dict[int, list[int]]:
    """Items of each user's list, best first, all by number."""
    found: dict[int, list[tuple[float, int]]] = {}
    held: set[tuple[int, int]] = set()
    for entry in read_entries(path):
        user = _known(path, entry.line, "user", entry.user, users)
        item = _known(path, entry.line, "item", entry.item, items)
        if (user, item) in held:
            raise GreamError(
                f"{path}:{entry.line}: item '{entry.item[:60]}' stands twice in the list of "
                f"user '{entry.user[:60]}'; leave one out"
            )
        held.add((user, item))
        found.setdefault(user, []).append((0.0 if entry.place is None else entry.place, item))
    return {user: [item for _, item in sorted(rows, key=lambda row: row[0])] for user, rows in found.items()}


def _known(path: Path, line: int, kind: str, name: str, names: Mapping[str, int]) -> int:
    # Numbers become fractions in a table with gaps.
    for spelt in (name, re.sub(r"(?<=\d)\.0+$", "", name)):
        if spelt in names:
            return names[spelt]
    near = get_close_matches(name[:200], list(names)[:_MOST_NAMES], 1)
    hint = f"; did you mean '{near[0][:60]}'?" if near else f"; names are those of {kind}s.parquet"
    raise GreamError(f"{path}:{line}: {kind} '{name[:60]}' is not in the data{hint}")


def _asked(
    path: Path,
    lists: Mapping[int, Sequence[int]],
    names: Sequence[str],
    cases: Cases,
    split: Split,
    least: int,
    partial: bool,
) -> Cases:
    """The cases that there are lists for, each of ``least`` items or more."""
    if not lists:
        raise GreamError(f"{path}: holds no list")
    strangers = sorted(set(lists) - set(cases.users.tolist()))
    if strangers:
        raise GreamError(
            f"{path}: {len(strangers)} users have no {split} item, among them '{names[strangers[0]][:60]}'"
        )
    kept = np.array([row for row, user in enumerate(cases.users.tolist()) if user in lists])
    if len(kept) < len(cases.users) and not partial:
        missing = next(user for user in cases.users.tolist() if user not in lists)
        raise GreamError(
            f"{path}: {len(cases.users) - len(kept)} of {len(cases.users)} users have no list, among them "
            f"'{names[missing][:60]}'; add them, or pass --partial to measure the others"
        )
    short = [user for user in lists if len(lists[user]) < least]
    if short:
        raise GreamError(
            f"{path}: {len(short)} lists have fewer than {least} items, that of user '{names[min(short)][:60]}' has "
            f"{len(lists[min(short)])}; write {least} each, or lower --at (10 at least)"
        )
    return Cases(cases.users[kept], cases.targets[kept], tuple(cases.histories[row] for row in kept))
