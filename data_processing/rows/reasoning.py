"""Reasoning rows: prompts whose answer is a chain in five stages and an item (paper, section 3.3)."""

from __future__ import annotations

import json
import random
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, BinaryIO, overload

import numpy as np
from gream.dialogue import ReasonedAnswer, reasoning_prompt
from gream.errors import GreamError
from gream.files import Row
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import TOKEN_PATTERN
from gream.texts import refuse_tokens

from ..config import SftConfig
from ..tables import Item, Sequences, rows_of
from ..teacher.chains import TEMPLATE, Chain, Place
from ..teacher.filters import Rejection, Titles, length_of, rejections
from ..teacher.labels import labelled
from ..teacher.template import argue, usual_successors


@dataclass(frozen=True)
class Reasoned:
    """One reasoning row before it is written.

    Attributes:
        history: Semantic ids of the prompt, oldest first.
        answer: The whole chain and its answer.
    """

    history: tuple[str, ...]
    answer: ReasonedAnswer

    def row(self, steps: int) -> Row:
        """Messages, with the first ``steps`` stages of the chain.

        Raises:
            GreamError: A stage holds a control token, or a part of an id.
        """
        said = (self.answer.evidence, self.answer.preference, self.answer.intent, self.answer.recommendation)
        refuse_tokens(TOKEN_PATTERN.sub(" ", " ".join(said)), "a chain")
        answer = {"role": "assistant", "content": self.answer.render(steps)}
        return {"messages": [*reasoning_prompt(self.history), answer]}


class ReasonedRows(Sequence[Reasoned]):
    """Reasoning rows in a file, each read when asked for, and what there is to say of them all."""

    def __init__(self, file: BinaryIO) -> None:
        """Start empty.

        Args:
            file: Open for writing and reading; whoever opened it closes it.
        """
        self._file = file
        self._begins = array("q", [0])
        self._keys, self._order = array("d"), np.arange(0)
        self._lengths, self._digests = array("i"), array("Q")
        self._kept: Counter[int] = Counter()
        self._items = self._whole = 0

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, number: int) -> Reasoned: ...
    @overload
    def __getitem__(self, number: slice) -> list[Reasoned]: ...
    def __getitem__(self, number: int | slice) -> Reasoned | list[Reasoned]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        at = int(self._order[number])
        self._file.seek(self._begins[at])
        history, answer = json.loads(self._file.read(self._begins[at + 1] - self._begins[at]))
        return Reasoned(tuple(history), ReasonedAnswer(**{**answer, "history": tuple(answer["history"])}))

    def append(self, key: float, row: Reasoned) -> None:
        """Add a row, to be sorted by ``key``."""
        answer = json.dumps(vars(row.answer))
        self._file.write(f"[{json.dumps(row.history)}, {answer}]".encode())
        self._begins.append(self._file.tell())
        self._keys.append(key)
        self._lengths.append(length_of(row.answer.render()))
        # Eight bytes: among ten million chains, one in 400,000 such sets has two that seem to be one.
        self._digests.append(int.from_bytes(blake2b(answer.encode(), digest_size=8).digest(), "big"))
        self._kept[len(row.answer.history)] += 1
        self._items += len(row.history)
        self._whole += row.answer.history == row.history

    def sort(self) -> None:
        """Bring the rows into the order of their keys, equal ones as added."""
        self._order = np.argsort(np.asarray(self._keys), kind="stable")

    def measures(self) -> dict[str, Any]:
        """How much of the history chains leave out, and how long they are."""
        rows = len(self)
        if not rows:
            return {}
        lengths = np.sort(np.asarray(self._lengths)).tolist()
        return {
            "history_dropped_share": 1 - sum(kept * times for kept, times in self._kept.items()) / self._items,
            "nothing_dropped_share": self._whole / rows,
            "distinct_share": len(np.unique(np.asarray(self._digests))) / rows,
            "length": {
                "median": lengths[rows // 2],
                "p99": lengths[int(0.99 * (rows - 1))],
                "longest": lengths[-1],
            },
            "items_kept": {str(count): self._kept[count] for count in sorted(self._kept)},
        }


def reasoning_rows(
    config: SftConfig,
    catalog: Catalog,
    catalogue: Sequence[Item],
    sequences: Sequences,
    chains: Mapping[Place, Chain] | None,
    random_: random.Random,
    file: BinaryIO,
) -> tuple[ReasonedRows, dict[str, Any]]:
    """Reasoning rows in order, and what became of the targets.

    Args:
        config: See `SftConfig`.
        catalog: Semantic ids.
        catalogue: Items by number.
        sequences: Training items of each user, oldest first.
        chains: Of a language model, by place; the template teacher argues where there are none.
        random_: Draws wordings and the order among histories of one length.
        file: Holds the rows.

    Raises:
        GreamError: A chain of the language model argues about other items than its row shows.
    """
    known = labelled(catalogue)
    titles = Titles(known)
    successors = usual_successors([known[item] for item in sequence] for sequence in sequences.values())
    of_row, positions = sequences.targets(config.reasoning_min_history)
    supported = np.ones(len(of_row), dtype=bool)
    rows = ReasonedRows(file)
    rejected_by: Counter[Rejection] = Counter()
    written = rejected = 0
    written_by: Counter[str] = Counter()
    repeats, repeat = 1, 0
    while repeat < repeats:
        for number, row, position in rows_of(np.flatnonzero(supported), of_row[supported], positions[supported]):
            end = int(sequences.start[row]) + position
            *history, target = sequences.flat[max(end - config.history, int(sequences.start[row])) : end + 1].tolist()
            ids = [catalog.text(item) for item in history]
            items = [known[item] for item in history]
            place = Place(int(sequences.users[row]), position)
            if chains is None:
                answer = argue(items, known[target], ids, catalog.text(target), successors, random_)
            elif place in chains:
                if chains[place].items != (*history, target):
                    raise GreamError(
                        f"chains.jsonl: the chain for position {place.position} of user {place.user} argues about "
                        "other items than its row shows; run the stage 'chains' again"
                    )
                answer = chains[place].answer(ids, catalog.text(target))
            else:
                answer = None
            if answer is None:
                supported[number] = False
                continue
            found = rejections(
                answer.render(),
                history=items,
                history_ids=ids,
                target=known[target],
                target_id=catalog.text(target),
                titles=titles,
                longest=config.longest_chain,
            )
            written += 1
            written_by["template" if chains is None or chains[place].teacher == TEMPLATE else "model"] += not found
            rejected += bool(found)
            rejected_by.update(found)
            if found:
                continue
            # Every pass goes from short to long; the fraction shuffles histories of one length.
            length = len(history) if config.curriculum.easy_first else 0
            key = repeat * (config.history + 1) + length + random_.random()
            rows.append(key, Reasoned(tuple(ids), answer))
        repeat += 1
        if repeat == 1 and chains is None:
            # A language model has written each chain once; the template teacher writes as many as are wanted.
            repeats = max(1, round(config.reasoning_rows / max(1, int(supported.sum()))))
    rows.sort()
    return rows, {
        "reasoning": len(rows),
        "reasoning_targets": len(of_row),
        "reasoning_unsupported": int((~supported).sum()),
        "chains": {
            "teacher": config.chains,
            "written": written,
            "taught_by": {name: written_by[name] for name in ("model", "template")},
            "rejected": rejected,
            "rejected_by": {reason.name: rejected_by[reason] for reason in Rejection},
            **rows.measures(),
        },
    }
