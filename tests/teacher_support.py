"""A chat completions server on the loopback that misbehaves on demand, and run folders to teach."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from data_support import RECIPE, ROOT
from loopback import PATIENCE, LoopbackServer

from data_processing.__main__ import main
from data_processing.plans import Stage


@dataclass(frozen=True)
class Reply:
    """How the server reacts to one request.

    Attributes:
        text: What the model says.
        status: HTTP status; any other than 200 carries an error message instead of the text.
        headers: Further headers.
        body: Whole body, instead of one made of the above.
        crowd: As many requests must have been in flight at once before anything is sent.
        delay: Seconds after that.
        cut: Share of the bytes after which the connection is closed; 0 closes it without an answer.
        finish: Reason for which the model stopped.
        usable: Whether the text is a good answer.
    """

    text: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    crowd: int = 0
    delay: float = 0.0
    cut: float = 1.0
    finish: str = "stop"
    usable: bool = True

    @property
    def good(self) -> bool:
        """Whether a client receives an answer that it can use."""
        return self.usable and self.status == 200 and self.body is None and self.cut == 1.0

    def raw(self) -> bytes:
        body = self.body
        if body is None:
            message = {"role": "assistant", "content": self.text}
            answer: dict[str, Any] = {
                "choices": [{"index": 0, "message": message, "finish_reason": self.finish}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 20},
            }
            body = json.dumps(answer if self.status == 200 else {"error": {"message": "no"}}).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **self.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} Reason\r\n{head}\r\n".encode() + body


@dataclass(frozen=True)
class Request:
    """What the server received, in order of arrival."""

    time: float
    prompt: str  # the user's first turn
    body: dict[str, Any]
    headers: str
    reply: Reply


SETTINGS = ("teacher.backoff=0.01", "rl.reserved=0")
Behaviour = Callable[[str, int], Reply]


class ChatServer(LoopbackServer):
    """Chat completions; ``behaviour`` gets the prompt and how often it came before."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__()
        self.behaviour = behaviour
        self.requests: list[Request] = []
        self.answered: Counter[str] = Counter()  # prompts for which a good answer was sent
        self.most_in_flight = 0
        self._in_flight = 0
        self._seen: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
                body = json.loads(await reader.readexactly(int(length.partition(":")[2])))
                arrived = time.monotonic()
                prompt = body["messages"][1]["content"]
                reply = self.behaviour(prompt, self._seen[prompt])
                self._seen[prompt] += 1
                if not head.startswith("POST /v1/chat/completions "):
                    reply = Reply(status=404)
                self.requests.append(Request(arrived, prompt, body, head, reply))
                self._in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self._in_flight)
                try:
                    while self.most_in_flight < reply.crowd:
                        await asyncio.sleep(0.001)
                    await asyncio.sleep(reply.delay)
                finally:
                    self._in_flight -= 1
                raw = reply.raw()
                writer.write(raw[: int(reply.cut * len(raw))])
                await writer.drain()
                if reply.good:
                    self.answered[prompt] += 1
                if reply.cut < 1:
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client is gone, or the test is over
        finally:
            writer.close()


def good_answer(prompt: str) -> str:
    """An answer that can be used and that only this prompt gets."""
    mark = mark_of(prompt)
    if "JSON object" in prompt:
        keys = ("general", "long_term", "short_term")
        return f"```json\n{json.dumps({key: f'Likes {key} {mark}.' for key in keys})}\n```"
    return f"Arbor made {mark}."


def mark_of(prompt: str) -> str:
    """A word that belongs to a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def well_behaved(prompt: str, _: int) -> Reply:
    return Reply(good_answer(prompt))


def teach(run: Path, url: str, *overrides: str, model: str = "small-model", overwrite: bool = False) -> None:
    """``enrich`` with a language model, in this process."""
    main(Stage.enrich, RECIPE, run, [*SETTINGS, *overrides], base_url=url, model=model, overwrite=overwrite)


def good_chain(prompt: str) -> str:
    """A chain that passes every filter, keeps the first and the last product, and that only this prompt gets."""
    last = max(int(number) for number in re.findall(r"^\[(\d+)\]", prompt, re.MULTILINE))
    return (
        f"Evidence: [{last}] came last, and [1] came before it.\nPreference: things of {mark_of(prompt)} kind.\n"
        f"Intent: more of them.\nRecommendation: one more.\nHistory: [1] [{last}]\nAnswer: [next]"
    )


def well_reasoned(prompt: str, _: int) -> Reply:
    return Reply(good_chain(prompt))


def teach_chains(run: Path, url: str, *overrides: str, overwrite: bool = False) -> None:
    """``chains`` in this process."""
    settings = [*SETTINGS, "sft.reasoning_min_history=2", *overrides]
    main(Stage.chains, RECIPE, run, settings, base_url=url, model="small-model", overwrite=overwrite)


def command(run: Path, url: str, *overrides: str) -> list[str]:
    """The same as a command line."""
    return [
        *(sys.executable, "-m", "data_processing", "enrich", "--config", str(RECIPE), "--run", str(run)),
        *("--base-url", url, "--model", "small-model", *SETTINGS, *overrides),
    ]


def kill_after(arguments: Sequence[str], enough: Callable[[], bool]) -> None:
    """Start a command and kill it with SIGKILL as soon as ``enough`` says so."""
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE
    while not enough() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    ended = process.poll() is not None
    process.kill()
    process.wait()
    assert enough() and not ended, "it ended, or took too long, before it was to be killed"


def made_run(run: Path, *, users: int, items: int, length: int = 7) -> Path:
    """What ``enrich`` reads, made without the earlier stages; every item and every review carries a word of its own.

    User u's sequence is items (3 u + p) % items, p = 0 ... length - 1; the last is test, the one before it valid.
    Every review is in the file, also the held-out ones, which the stage must not tell.
    """
    run.mkdir(parents=True)
    splits = ["train"] * (length - 2) + ["valid", "test"]
    rows = [
        {"user": user, "item": (user * 3 + place) % items, "timestamp": place, "position": place, "split": split}
        for user in range(users)
        for place, split in enumerate(splits)
    ]
    interactions = pl.DataFrame(rows, schema_overrides={"user": pl.Int32, "item": pl.Int32, "position": pl.Int32})
    interactions.write_parquet(run / "interactions.parquet")
    texts = pl.format("review{}x{}{} is a word of its own", "user", "item", "split").alias("text")
    interactions.select("user", "item", texts).write_parquet(run / "reviews.parquet")
    pl.DataFrame(
        {
            "item": range(items),
            "item_id": [f"I{number}" for number in range(items)],
            "title": [f"title{number}z" for number in range(items)],
            "description": [f"Made of stuff {number}." for number in range(items)],
            "brand": ["Arbor"] * items,
            "categories": [["Kitchen", f"Kind {number % 7}"] for number in range(items)],
        },
        schema_overrides={"item": pl.Int32},
    ).write_parquet(run / "items.parquet")
    return run


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
