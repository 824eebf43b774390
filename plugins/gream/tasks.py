"""Compact records of the alignment tasks, and the conversations they stand for.

A record names its task, its wording, and by number the items and the user it is about; `Material` holds what these
numbers mean. The exporter of SFT files, the LLaMA-Factory plugin and the assembler of token ids all read a record
through this module, so a row says the same by each way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from string import Formatter
from sys import intern
from typing import TypedDict, cast, get_args

from gream.dialogue import SYSTEM_PROMPT, Message, join_history, sequence_messages
from gream.errors import GreamError
from gream.files import iterate_jsonl, read_jsonl, write_jsonl
from gream.templates import TEMPLATES, Template
from gream.templates import Task as Task
from gream.texts import refuse_tokens

_REMEDY = "run the stage 'sft' again"

# Most recent items whose titles stand in a prompt of titles.
TITLES = 5
TITLE_SEPARATOR = "; "

ITEM_TEXTS = ("title", "description", "brand", "category")
USER_TEXTS = ("intention", "general", "long_term", "short_term")


class Record(TypedDict):
    """One row of training, by reference.

    ``task`` is one of the six tasks, or "sequence": every item of ``history`` is then a target.

    Attributes:
        task: See above.
        template: Index into the task's wordings; 0 for "sequence".
        item: Number of the item that the row is about; -1 for "sequence".
        history: Numbers of the items before it, oldest first; empty where the task shows none.
        user: Number of the user whose texts are used; -1 where none are.
    """

    task: str
    template: int
    item: int
    history: list[int]
    user: int


@dataclass(frozen=True)
class Material:
    """What the numbers in records mean.

    Attributes:
        ids: Semantic id of each item, as text.
        items: `ITEM_TEXTS` of each item; a text may be empty.
        users: `USER_TEXTS` of each user who has them.
    """

    ids: Sequence[str]
    items: Sequence[Mapping[str, str]]
    users: Mapping[int, Mapping[str, str]]

    def __post_init__(self) -> None:
        """Refuse a text that would put a turn, a thought or an id into a row.

        Raises:
            GreamError: A text of an item or a user holds a control or id token.
        """
        for kind, texts_of in (("item", enumerate(self.items)), ("user", self.users.items())):
            for number, texts in texts_of:
                for name, text in texts.items():
                    refuse_tokens(text, f"the {name} of {kind} {number}")

    def slots(self, record: Record) -> dict[str, str]:
        """Text of every slot that ``record`` could fill; empty where there is none.

        Raises:
            GreamError: The record names an item or a user that does not exist.
        """
        item, history, user = record["item"], record["history"], record["user"]
        if not -1 <= item < len(self.ids) or not all(0 <= other < len(self.ids) for other in history):
            raise GreamError(f"a record names an item outside the catalogue of {len(self.ids)} items: {record}")
        if user >= 0 and user not in self.users:
            raise GreamError(f"a record names user {user}, of whom there are no texts: {record}")
        slots = dict.fromkeys(USER_TEXTS, "") if user < 0 else dict(self.users[user])
        slots["history"] = join_history([self.ids[other] for other in history])
        slots["titles"] = TITLE_SEPARATOR.join(self.items[other]["title"] for other in history[-TITLES:])
        if item >= 0:
            slots |= {"item": self.ids[item], **self.items[item]}
        return slots

    def filled(self, record: Record) -> frozenset[str]:
        """Names of the slots that `slots` has a text for."""
        names = frozenset(("history", "titles")) if record["history"] else frozenset()
        if record["item"] >= 0:
            names |= self._filled_items[record["item"]]
        if record["user"] >= 0:
            names |= frozenset(name for name, text in self.users[record["user"]].items() if text.strip())
        return names

    @cached_property
    def _filled_items(self) -> list[frozenset[str]]:
        return [frozenset(["item", *(name for name, text in texts.items() if text.strip())]) for texts in self.items]

    def save(self, folder: Path) -> None:
        """Write ``items.jsonl`` and ``users.jsonl``."""
        rows = ({"id": id_, **texts} for id_, texts in zip(self.ids, self.items, strict=True))
        write_jsonl(folder / "items.jsonl", rows)
        write_jsonl(folder / "users.jsonl", ({"user": user, **texts} for user, texts in self.users.items()))

    @staticmethod
    def load(folder: Path) -> Material:
        """Read what `save` wrote.

        Raises:
            GreamError: A file is missing or is not what `save` writes; names file and line.
        """
        items = read_jsonl(folder / "items.jsonl", fields={"id": str, **dict.fromkeys(ITEM_TEXTS, str)}, remedy=_REMEDY)
        users = read_jsonl(
            folder / "users.jsonl", fields={"user": int, **dict.fromkeys(USER_TEXTS, str)}, remedy=_REMEDY
        )
        return Material(
            [row.pop("id") for row in items],
            items,
            {row.pop("user"): row for row in users},
        )


def read_records(path: Path) -> list[Record]:
    """The records of a JSONL file.

    Raises:
        GreamError: The file cannot be read, or a line is no record; names file and line.
    """
    fields = {"task": str, "template": int, "item": int, "history": list, "user": int}
    # Keys and tasks of one copy each: a third of the memory.
    return [
        {
            "task": intern(row["task"]),
            "template": row["template"],
            "item": row["item"],
            "history": row["history"],
            "user": row["user"],
        }
        for _, row in iterate_jsonl(path, fields=fields, remedy=_REMEDY)
    ]


def template_of(task: str, number: int) -> Template:
    """Wording ``number`` of ``task``.

    Raises:
        GreamError: There is no such task or wording.
    """
    wordings = TEMPLATES.get(cast("Task", task))
    if wordings is None or not 0 <= number < len(wordings):
        raise GreamError(f"no template {number} of task '{task}'; tasks: {', '.join(TEMPLATES)}")
    return wordings[number]


@cache
def slots_of(template: Template) -> frozenset[str]:
    """Names of the slots in question and answer."""
    return frozenset(name for _, name, _, _ in Formatter().parse(template.question + template.answer) if name)


@cache
def wordings_for(task: Task, filled: frozenset[str]) -> tuple[int, ...]:
    """Numbers of the wordings of ``task`` that need no slot besides those ``filled``."""
    return tuple(number for number, wording in enumerate(TEMPLATES[task]) if slots_of(wording) <= filled)


def reworded(record: Record, row: int, epoch: int, material: Material) -> Record:
    """``record`` in the wording of an epoch: its own in epoch 0, one drawn from all that fit it in later ones.

    The draw depends on ``row`` and ``epoch`` alone, so that every rank and every resumed run makes the same.

    Args:
        record: Of one of the six tasks; another is returned as it is.
        row: Its place in the file.
        epoch: From 0.
        material: What fills its slots.
    """
    if epoch == 0 or record["task"] not in get_args(Task):
        return record
    fitting = wordings_for(cast("Task", record["task"]), material.filled(record))
    if not fitting:
        return record
    # Multipliers of Knuth and of splitmix64: neighbouring rows and epochs draw apart.
    mixed = (row * 0x9E3779B1 + epoch * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 31)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return {**record, "template": fitting[(mixed >> 33) % len(fitting)]}


def render_record(record: Record, material: Material) -> list[Message]:
    """The conversation that a record stands for.

    Raises:
        GreamError: See `Material.slots` and `render_task`; a sequence without items.
    """
    if record["task"] == "sequence":
        if not record["history"]:
            raise GreamError(f"a sequence without items: {record}")
        return sequence_messages([material.ids[item] for item in record["history"]])
    return render_task(record["task"], record["template"], material.slots(record))


def render_task(task: str, template: int, slots: Mapping[str, str]) -> list[Message]:
    """The conversation of one row, system prompt and answer included.

    Args:
        task: One of the six tasks.
        template: Index into the task's templates.
        slots: A text for every slot that the template names.

    Raises:
        GreamError: Unknown task or template, or a slot without a text, so that no answer is ever empty.
    """
    wording = template_of(task, template)
    lacking = sorted(name for name in slots_of(wording) if not slots.get(name, "").strip())
    if lacking:
        raise GreamError(f"task '{task}', template {template}: slot '{lacking[0]}' is empty")
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": wording.question.format(**slots)},
        {"role": "assistant", "content": wording.answer.format(**slots)},
    ]
