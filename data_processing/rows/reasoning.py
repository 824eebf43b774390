"""Reasoning rows: prompts whose answer is a chain in five stages and an item (paper, section 3.3)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gream.dialogue import ReasonedAnswer, reasoning_prompt
from gream.errors import GreamError
from gream.files import Row
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import TOKEN_PATTERN
from gream.texts import refuse_tokens

from ..config import SftConfig
from ..tables import Item
from ..teacher.chains import Chain, Place, places
from ..teacher.filters import Rejection, Titles, count_rejections, length_of, rejections
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


def reasoning_rows(
    config: SftConfig,
    catalog: Catalog,
    catalogue: Sequence[Item],
    sequences: Mapping[int, Sequence[int]],
    chains: Mapping[Place, Chain] | None,
    random_: random.Random,
) -> tuple[list[Reasoned], dict[str, Any]]:
    """Reasoning rows in order, and what became of the targets.

    Args:
        config: See `SftConfig`.
        catalog: Semantic ids.
        catalogue: Items by number.
        sequences: Training items of each user, oldest first.
        chains: Of a language model, by place; the template teacher argues where there are none.
        random_: Draws wordings and the order among histories of one length.

    Raises:
        GreamError: A chain of the language model argues about other items than its row shows.
    """
    known = labelled(catalogue)
    titles = Titles(known)
    successors = usual_successors([[known[item] for item in sequence] for sequence in sequences.values()])
    examples = places(sequences, config.reasoning_min_history)
    targets = len(examples)
    rows: list[tuple[float, Reasoned]] = []
    unsupported: set[Place] = set()
    found: list[list[Rejection]] = []
    repeats, repeat = 1, 0
    while repeat < repeats:
        for place in examples:
            sequence = sequences[place.user]
            history = sequence[max(0, place.position - config.history) : place.position]
            target = sequence[place.position]
            ids = [catalog.text(item) for item in history]
            items = [known[item] for item in history]
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
                unsupported.add(place)
                continue
            found.append(
                rejections(
                    answer.render(),
                    history=items,
                    history_ids=ids,
                    target=known[target],
                    target_id=catalog.text(target),
                    titles=titles,
                    longest=config.longest_chain,
                )
            )
            if found[-1]:
                continue
            # Every pass goes from short to long; the fraction shuffles histories of one length.
            length = len(history) if config.curriculum.easy_first else 0
            rows.append((repeat * (config.history + 1) + length + random_.random(), Reasoned(tuple(ids), answer)))
        repeat += 1
        if repeat == 1 and chains is None:
            # A language model has written each chain once; the template teacher writes as many as are wanted.
            examples = [place for place in examples if place not in unsupported]
            repeats = max(1, round(config.reasoning_rows / max(1, len(examples))))
    rows.sort(key=lambda pair: pair[0])
    reasoned = [row for _, row in rows]
    return reasoned, {
        "reasoning": len(reasoned),
        "reasoning_targets": targets,
        "reasoning_unsupported": len(unsupported),
        "chains": {
            "teacher": config.chains,
            "written": len(found),
            "rejected": sum(map(bool, found)),
            "rejected_by": count_rejections(found),
            **_measures(reasoned),
        },
    }


def _measures(rows: Sequence[Reasoned]) -> dict[str, Any]:
    """How much of the history chains leave out, and how long they are."""
    if not rows:
        return {}
    kept = Counter(len(row.answer.history) for row in rows)
    lengths = sorted(length_of(row.answer.render()) for row in rows)
    items = sum(len(row.history) for row in rows)
    return {
        "history_dropped_share": 1 - sum(len(row.answer.history) for row in rows) / items,
        "nothing_dropped_share": sum(row.answer.history == row.history for row in rows) / len(rows),
        "distinct_share": len({row.answer for row in rows}) / len(rows),
        "length": {
            "median": lengths[len(lengths) // 2],
            "p99": lengths[int(0.99 * (len(lengths) - 1))],
            "longest": lengths[-1],
        },
        "items_kept": {str(count): kept[count] for count in sorted(kept)},
    }
