"""Stage ``enrich`` with a language model as teacher: the same files, written through an OpenAI-compatible endpoint.

What was asked and answered lies in a folder that outlives the stage: `Journal` files, and what they cost.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

from gream.dialogue import Message
from gream.errors import GreamError
from gream.files import write_json
from gream.journal import Journal
from gream.stage import Summary

from ..config import RlConfig, TeacherConfig
from ..tables import read_training_reviews
from .client import Endpoint
from .enrich import Material, Subject, read_material, template_text, write_texts
from .prompts import (
    ask_description,
    ask_intention,
    ask_preference,
    description_reader,
    intention_reader,
    read_preference,
)
from .questions import ASKS, Question, ask_questions, question_key

S = TypeVar("S")


def enrich_with_model(
    config: TeacherConfig,
    endpoint: Endpoint,
    rl: RlConfig,
    seed: int,
    *,
    interactions: Path,
    items: Path,
    reviews: Path,
    folder: Path,
    out: Path,
) -> Summary:
    """Write ``enriched.jsonl`` and ``preferences.jsonl`` with texts of a language model.

    Args:
        config: See `TeacherConfig`.
        endpoint: Where to ask.
        rl: Says which training items are reserved.
        seed: Draws them.
        interactions: ``interactions.parquet``.
        items: ``items.parquet``.
        reviews: ``reviews.parquet``.
        folder: Keeps ``answers.jsonl``, ``rejects.jsonl`` and ``statistics.json`` between starts.
        out: Folder of the outputs.

    Raises:
        GreamError: The endpoint fails, or a text was rejected and ``on_reject`` is ``fail``.
    """
    material = read_material(rl, seed, interactions, items)
    settled = settle("enrich", config, endpoint, _questions(material, read_training_reviews(reviews)), folder)
    written = write_texts(
        material, lambda subject: settled.answers.get(subject) or template_text(material, subject), out
    )
    return Summary(f"{written.made}, {len(settled.rejected):,} of {settled.count:,} by the template teacher")


@dataclass(frozen=True)
class Settled(Generic[S]):
    """What a language model said.

    Attributes:
        answers: To each question that it answered so that the answer can be used.
        rejected: Questions without such an answer.
    """

    answers: dict[S, Mapping[str, str]]
    rejected: list[S]

    @property
    def count(self) -> int:
        """How many questions there were."""
        return len(self.answers) + len(self.rejected)


def settle(
    stage: str, config: TeacherConfig, endpoint: Endpoint, questions: Mapping[S, Question], folder: Path
) -> Settled[S]:
    """Ask what earlier starts have not settled, and count what it cost.

    Args:
        stage: Named on the screen.
        config: See `TeacherConfig`.
        endpoint: Where to ask.
        questions: By whatever the caller calls them; each one's subject has a ``kind``.
        folder: Keeps ``answers.jsonl``, ``rejects.jsonl`` and ``statistics.json`` between starts.

    Raises:
        GreamError: The endpoint fails, or a question was rejected and ``on_reject`` is ``fail``.
    """
    keys = {name: question_key(question, endpoint, config) for name, question in questions.items()}
    # Items of the same words make the same question, which is asked once.
    by_key = {key: questions[name] for name, key in keys.items()}
    with Journal(folder / "answers.jsonl") as answers, Journal(folder / "rejects.jsonl") as rejects:
        before = _tokens(endpoint, answers, rejects)
        asked = ask_questions(config, endpoint, by_key, answers, rejects)
        rejected = [name for name, key in keys.items() if key in rejects.rows]
        after = _tokens(endpoint, answers, rejects)
        write_json(
            folder / "statistics.json",
            {
                "model": endpoint.model,
                "texts": _count(questions.values()),
                "rejected_texts": _count(questions[name] for name in rejected),
                "written_by": {"model": len(keys) - len(rejected), "template": len(rejected)},
                **asdict(asked),
                "this_start": _priced(config, after - before),
                "all_starts": _priced(config, after),
            },
        )
        if rejected and config.on_reject == "fail":
            first = " ".join(map(str, questions[rejected[0]].subject.values()))
            raise GreamError(
                f"{rejects.path}: no usable answer to {len(rejected)} of {len(keys)} texts in {ASKS} asks (first: "
                f"{first}: {rejects.rows[keys[rejected[0]]]['reason']}); delete the file to ask again, "
                "or pass teacher.on_reject=template to have the template teacher write them"
            )
        usable = {name: answers.rows[key]["answer"] for name, key in keys.items() if key not in rejects.rows}
    print(
        f"[{stage}] {endpoint.model}: {len(usable)} texts ({asked.questions - asked.found} asked for, "
        f"{asked.found} found), {(after - before).total()} tokens; template teacher: {len(rejected)} texts",
        flush=True,
    )
    return Settled(usable, rejected)


def _questions(material: Material, reviews: Mapping[tuple[int, int], str]) -> dict[Subject, Question]:
    of_item: dict[int, list[str]] = defaultdict(list)
    for user, sequence in material.sequences.items():
        # By the sequences and not by the file: reviews of reserved targets are not told either.
        for number in sequence:
            if (user, number) in reviews:
                of_item[number].append(reviews[user, number])
    questions: dict[Subject, Question] = {}

    def add(subject: Subject, messages: list[Message], read: Callable[[str], dict[str, str]]) -> None:
        questions[subject] = Question(subject._asdict(), messages, read)

    for number, item in enumerate(material.catalogue):
        add(Subject("description", number), ask_description(item, of_item[number]), description_reader(item))
    for user in material.users:
        wanted = material.wanted(user)
        add(Subject("preference", user), ask_preference(material.history(user)), read_preference)
        review = reviews.get((user, material.sequences[user][-1]), "")
        add(Subject("intention", user), ask_intention(wanted, review), intention_reader(wanted))
    return questions


def _count(questions: Iterable[Question]) -> dict[str, int]:
    return dict(Counter(str(question.subject["kind"]) for question in questions))


def _tokens(endpoint: Endpoint, *journals: Journal) -> Counter[str]:
    """Tokens of all that the model was asked, as the endpoint counted them."""
    tokens: Counter[str] = Counter()
    for journal in journals:
        for row in journal.rows.values():
            if row["model"] == endpoint.model:
                tokens.update({name: row[name] for name in ("prompt_tokens", "completion_tokens")})
    return tokens


def _priced(config: TeacherConfig, tokens: Counter[str]) -> dict[str, float]:
    prompt, completion = tokens["prompt_tokens"], tokens["completion_tokens"]
    cost = (prompt * config.prompt_price + completion * config.completion_price) / 1e6
    return {"prompt_tokens": prompt, "completion_tokens": completion, **({"cost": cost} if cost else {})}
