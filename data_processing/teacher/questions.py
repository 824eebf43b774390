"""Ask a language model many questions at once, and never the same one again.

Nothing here knows what is asked: a `Question` brings its conversation and a function that reads the answer or says why
it cannot be used. What is answered, and what was given up, stands in two journals under the content hash of prompt,
model and sampling; a later start asks only what neither holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gream.dialogue import Message
from gream.errors import GreamError
from gream.journal import Journal
from gream.progress import progress_bar
from tqdm import tqdm

from ..config import TeacherConfig
from .client import ChatClient, Endpoint

# How often a question is put until its answer can be used.
ASKS = 3
# So many rejects before the first answer, and the model or its settings are at fault, not the questions.
HOPELESS = 50


class UnusableAnswerError(Exception):
    """Why an answer cannot be used, as the reject file says it."""

    def __init__(self, reason: str, ask: str = "") -> None:
        """Take both texts.

        Args:
            reason: For people.
            ask: For the model, when it is asked once more. Small models repeat what they are told: it names no fault.
        """
        super().__init__(reason)
        self.ask = ask


@dataclass(frozen=True)
class Question:
    """What to ask.

    Attributes:
        subject: What it is about, for people who read the journals.
        messages: The conversation.
        read: Named texts of an answer; raises `UnusableAnswerError`.
    """

    subject: Mapping[str, Any]
    messages: Sequence[Message]
    read: Callable[[str], Mapping[str, str]]


@dataclass(frozen=True)
class Asked:
    """What one start did.

    Attributes:
        questions: Distinct ones, those that earlier starts had settled included.
        found: Settled by earlier starts.
        retries: Further tries, by cause.
        seconds: Wall time.
    """

    questions: int
    found: int
    retries: dict[str, int]
    seconds: float


def question_key(question: Question, endpoint: Endpoint, config: TeacherConfig) -> str:
    """Content hash of prompt, model and sampling."""
    content = [endpoint.model, config.sampling(), list(question.messages)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def ask_questions(
    config: TeacherConfig,
    endpoint: Endpoint,
    questions: Mapping[str, Question],
    answers: Journal,
    rejects: Journal,
) -> Asked:
    """Ask what neither journal holds; each answer or reject is in its journal as soon as it is there.

    Args:
        config: See `TeacherConfig`.
        endpoint: Where to ask.
        questions: By `question_key`.
        answers: Rows of ``subject``, ``model``, ``answer`` (named texts), ``prompt_tokens``, ``completion_tokens``.
        rejects: Rows of ``subject``, ``model``, ``reason``, ``last_answer`` and tokens.

    Raises:
        GreamError: See `ChatClient.complete`; or the model answers nothing that can be used.
    """
    new = {key: asked for key, asked in questions.items() if key not in answers.rows and key not in rejects.rows}
    client = ChatClient(config, endpoint)
    began = time.monotonic()
    found = len(questions) - len(new)
    if new:
        with progress_bar(len(questions), "texts", done=found) as progress:
            pool = _Pool(
                client=client,
                config=config,
                endpoint=endpoint,
                answers=answers,
                rejects=rejects,
                progress=progress,
            )
            asyncio.run(pool.run(new))
    return Asked(len(questions), found, dict(client.retries), time.monotonic() - began)


@dataclass(kw_only=True)
class _Pool:
    """As many workers as requests may be in flight; each takes the next question when it is done with one."""

    client: ChatClient
    config: TeacherConfig
    endpoint: Endpoint
    answers: Journal
    rejects: Journal
    progress: tqdm
    tokens: int = 0
    answered: int = 0
    rejected: int = 0

    async def run(self, questions: Mapping[str, Question]) -> None:
        todo = iter(questions.items())
        try:
            async with self.client, asyncio.TaskGroup() as workers:
                for _ in range(min(self.config.concurrency, len(questions))):
                    workers.create_task(self._work(todo))
        except ExceptionGroup as group:
            # The first failure stops all workers, and it alone is what happened.
            raise group.exceptions[0] from None

    async def _work(self, todo: Iterator[tuple[str, Question]]) -> None:
        for key, question in todo:
            await self._ask(key, question)
            self.progress.set_postfix(tokens=f"{self.tokens:,}", rejected=self.rejected, refresh=False)
            self.progress.update()

    async def _ask(self, key: str, question: Question) -> None:
        messages = list(question.messages)
        row: dict[str, Any] = {"subject": question.subject, "model": self.endpoint.model}
        row |= {"prompt_tokens": 0, "completion_tokens": 0}
        for _ in range(ASKS):
            completion = await self.client.complete(messages)
            row["prompt_tokens"] += completion.prompt_tokens
            row["completion_tokens"] += completion.completion_tokens
            self.tokens += completion.prompt_tokens + completion.completion_tokens
            try:
                if completion.cut:
                    raise UnusableAnswerError(f"it is not finished after {self.config.max_tokens} tokens", "Be brief.")
                answer = dict(question.read(completion.text))
            except UnusableAnswerError as error:
                reason, last = str(error), completion.text
                self.client.retries["unusable answer"] += 1
                messages = _asked_again(question.messages, error.ask)
                continue
            self.answers.add(key, {**row, "answer": answer})
            self.answered += 1
            return
        self.rejects.add(key, {**row, "reason": reason, "last_answer": last})
        self.rejected += 1
        if self.rejected == HOPELESS and not self.answered:
            raise GreamError(
                f"{self.rejects.path}: the first {HOPELESS} texts asked for were all rejected (the last: {reason}); "
                "choose another --model, or correct the recipe's teacher section"
            )


def _asked_again(messages: Sequence[Message], ask: str) -> list[Message]:
    """The same question under a longer system turn.

    The answer that could not be used is not shown: a model that sees it goes on in its words.
    """
    system, *question = messages
    return [{**system, "content": f"{system['content']} {ask or 'Answer as the question says.'}"}, *question]
