"""Requests per second of the teacher's client against a local server, beside a sequential loop.

    PYTHONPATH=. python scripts/bench/teacher.py [--requests 4000] [--concurrency 64] [--delay 0.02]

The server answers every request after ``delay`` seconds from a process of its own. The first line is what ``enrich``
does: keys, journals and reading of the answers included. The sequential loop is the same with one request in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from gream.journal import Journal

from data_processing.config import TeacherConfig
from data_processing.tables import Item
from data_processing.teacher.client import Endpoint
from data_processing.teacher.prompts import ask_description, read_description
from data_processing.teacher.questions import Question, ask_questions, question_key

MODEL = "bench"
TEXT = "A kettle of brushed steel that boils a litre in three minutes and suits small kitchens. " * 4


def serve(delay: float, port: Connection) -> None:
    """Answer chat completions on a free port until killed."""
    message = {"role": "assistant", "content": TEXT}
    body = json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 300, "completion_tokens": 80, "total_tokens": 380},
        }
    ).encode()
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length:")[2].split(None, 1)[0]))
                await asyncio.sleep(delay)
                writer.write(raw)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def questions(count: int) -> list[Question]:
    """Descriptions to ask for, each with eight reviews."""
    reviews = [
        f"Review {number}: does what it says, boils quickly, the lid is a little stiff. " * 4 for number in range(8)
    ]
    return [
        Question(
            {"kind": "description", "number": number},
            ask_description(Item(f"Kettle {number}", "", "Arbor", "Kettles", ("Kitchen", "Kettles")), reviews),
            read_description,
        )
        for number in range(count)
    ]


def ours(url: str, count: int, concurrency: int) -> float:
    """Seconds of `ask_questions`."""
    config = TeacherConfig(concurrency=concurrency)
    endpoint = Endpoint.parse(url, MODEL, {})
    asked = questions(count)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        by_key = {question_key(question, endpoint, config): question for question in asked}
        with Journal(Path(folder) / "answers.jsonl") as answers, Journal(Path(folder) / "rejects.jsonl") as rejects:
            ask_questions(config, endpoint, by_key, answers, rejects)
            if len(answers.rows) != count:
                raise SystemExit(f"error: {len(answers.rows)} answers to {count} questions")
        return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds that the server takes to answer")
    options = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"

    receive, send = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.Process(target=serve, args=(options.delay, send), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{receive.recv()}/v1"
    count, parallel = options.requests, options.concurrency
    # The slow one is measured on fewer requests.
    few = max(1, count // 20)
    try:
        rates = {
            f"enrich, {parallel} in flight": count / ours(url, count, parallel),
            "enrich, 1 in flight (sequential loop)": few / ours(url, few, 1),
        }
    finally:
        server.terminate()
    first = next(iter(rates.values()))
    print(f"server: {options.delay * 1000:g} ms per answer, so at most {parallel / options.delay:.0f} requests/s")
    for name, rate in rates.items():
        print(f"{name:42} {rate:8.0f} requests/s   enrich is {first / rate:5.1f} x as fast")


if __name__ == "__main__":
    main()
