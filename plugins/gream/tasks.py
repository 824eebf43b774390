"""The six collaborative-semantic alignment tasks (paper section 3.2): compact records and their dialogue.

A record names its task, its template and its slots; `render_task` turns it into messages. The exporter of SFT files
and the LLaMA-Factory plugin both call it, so a row reads the same by either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gream.dialogue import DIRECT_QUESTION, SYSTEM_PROMPT, Message
from gream.errors import GreamError

Task = Literal["next_item", "id_to_text", "text_to_id", "fused_next", "search", "preference"]


@dataclass(frozen=True)
class Template:
    """One wording of a task.

    Attributes:
        question: What the user says, with slots in braces.
        answer: What the model answers, with slots in braces.
    """

    question: str
    answer: str


TEMPLATES: dict[Task, tuple[Template, ...]] = {
    # The wording that evaluation uses: training and asking differ in nothing.
    "next_item": (Template(DIRECT_QUESTION, "{target}"),),
    "id_to_text": (
        Template("What is {item}?", "{title}"),
        Template("What kind of item is {item}?", "{category} by {brand}"),
        Template("Describe {item} in a few words.", "{description}"),
    ),
    "text_to_id": (
        Template("Which item is called {title}?", "{item}"),
        Template("Find the item: {title}, {category}.", "{item}"),
        Template("This is how an item is described: {description} Which one is it?", "{item}"),
    ),
    "fused_next": (
        Template("The user's items, oldest first: {history}\nWhat is the next item called?", "{title}"),
        Template("The user's items, oldest first: {history}\nWhat is the next item's category?", "{category}"),
        Template("The user bought, oldest first: {titles}\nWhich item comes next?", "{target}"),
    ),
    "search": (
        Template("A user says: {intention} Which item fits?", "{target}"),
        Template("The user's items, oldest first: {history}\nThey ask: {intention} Which item fits?", "{target}"),
    ),
    "preference": (
        Template("The user's items, oldest first: {history}\nWhat does this user like in general?", "{general}"),
        Template("The user's items, oldest first: {history}\nWhat has this user liked lately?", "{short_term}"),
    ),
}


def render_task(task: str, template: int, slots: Mapping[str, str]) -> list[Message]:
    """The conversation of one record, system prompt and answer included.

    Args:
        task: One of the six tasks.
        template: Index into the task's templates.
        slots: A value for every slot that the template names.

    Raises:
        GreamError: Unknown task or template, a slot without a value, or an empty answer.
    """
    wordings = TEMPLATES.get(task)  # type: ignore[call-overload] # task comes from a file
    if wordings is None or not 0 <= template < len(wordings):
        raise GreamError(f"no template {template} of task '{task}'; tasks: {', '.join(TEMPLATES)}")
    wording: Template = wordings[template]
    try:
        question, answer = wording.question.format(**slots), wording.answer.format(**slots)
    except KeyError as error:
        raise GreamError(f"task '{task}', template {template}: slot {error} has no value") from None
    if not answer.strip():
        raise GreamError(f"task '{task}', template {template}: the answer is empty")
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
