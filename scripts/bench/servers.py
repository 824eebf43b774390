"""What the service and the evaluation over servers carry, each beside the same model in this process.

    PYTHONPATH=. python -P scripts/bench/servers.py service --run RUN --checkpoint FOLDER [--clients 1,8] [--seconds 10]
    PYTHONPATH=. python -P scripts/bench/servers.py remote  --run RUN --checkpoint FOLDER --engine vllm --endpoint URL

``service`` starts ``python -m eval serve`` on the loopback and asks it with some clients that each wait for their
answer, then asks with more than it lets wait. ``remote`` evaluates a sample of users over servers that run already;
over SGLang that holds the catalogue, by its own beam search and by the one over here.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
import numpy as np
from gream.decoding.choices import ServerEngine
from gream.decoding.server_client import ServerSettings
from gream.engine.engine import Answer, Engine
from gream.engine.local import LocalModel
from gream.engine.model import Model
from gream.engine.remote import ServedDecoder, ServedModel
from gream.engine.settings import Device, Mode, Settings
from gream.protocol import Cases, held_out, read_interactions

from serving.items import Items
from serving.recommend import Recommender

CHAIN_TOKENS = 256


def main() -> None:
    """Read the arguments and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["service", "remote"])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--engine", type=ServerEngine, choices=list(ServerEngine), default=ServerEngine.vllm)
    parser.add_argument("--endpoint", action="append", default=[])
    parser.add_argument("--in-flight", default="16,256")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--modes", default=",".join(Mode))
    parser.add_argument("--stepwise-users", type=int, default=None, help="fewer for the beam search over here")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    service(arguments) if arguments.what == "service" else remote(arguments)


def cases_of(run: Path, users: int) -> Cases:
    """A sample of the test users."""
    cases = held_out(read_interactions(run / "interactions.parquet"), "test")
    return cases.sample(min(users, len(cases.users)), seed=0)


def service(arguments: argparse.Namespace) -> None:
    """Load the service."""
    items = Items.load(arguments.run)
    cases = cases_of(arguments.run, 200)
    settings = Settings(chain_tokens=CHAIN_TOKENS)
    model = Recommender(arguments.checkpoint, items, settings, device=Device.cpu, batch_size=1)
    alone = {}
    for mode in Mode:
        model.recommend(mode, [cases.histories[0]], 10)
        began, count = time.monotonic(), 0
        for history in itertools.cycle(cases.histories):
            model.recommend(mode, [history], 10)
            count += 1
            if time.monotonic() - began > arguments.seconds:
                break
        alone[mode] = count / (time.monotonic() - began)
        print(f"in process, one at a time   {mode:9s} {alone[mode]:7.1f} /s")
    bodies = {mode: [body_of(items, history, mode) for history in cases.histories] for mode in Mode}
    for mode in Mode:
        for clients in map(int, arguments.clients.split(",")):
            report = with_service(arguments, 64, bodies[mode], clients)
            ratio = report.rate / alone[mode]
            print(f"service, {clients:3d} clients        {mode:9s} {report}; {ratio:.2f} x in process")
    report = with_service(arguments, 4, bodies[Mode.direct], 64)
    print(f"service, 64 clients, 4 may wait direct {report}")


def body_of(items: Items, history: tuple[int, ...], mode: Mode) -> dict[str, object]:
    """A request for ten items."""
    return {"history": [items[item].item_id for item in history], "mode": mode, "k": 10}


class Report:
    """Answers by status, and the seconds that good ones took."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.taken: list[float] = []
        self.seconds = 0.0

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return len(self.taken) / self.seconds

    def __str__(self) -> str:
        middle, late = np.percentile(self.taken, [50, 95])
        others = {status: count for status, count in self.statuses.items() if status != 200}
        return f"{self.rate:7.1f} /s, p50 {middle * 1000:.0f} ms, p95 {late * 1000:.0f} ms, others {others or 'none'}"


def with_service(arguments: argparse.Namespace, waiting: int, bodies: list[dict[str, object]], clients: int) -> Report:
    """Start the service, load it and stop it."""
    command = [sys.executable, "-m", "eval", "serve", "--run", str(arguments.run)]
    command += ["--checkpoint", str(arguments.checkpoint), "--port", "0", "--waiting", str(waiting)]
    process = subprocess.Popen([*command, "--chain-tokens", str(CHAIN_TOKENS)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None  # noqa: S101 - asked for above
        return asyncio.run(load(process.stdout.readline().split()[-1], bodies, clients, arguments.seconds))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def load(url: str, bodies: list[dict[str, object]], clients: int, seconds: float) -> Report:
    """Let ``clients`` ask, each as soon as it has its answer; who is refused waits a tenth of a second."""
    report = Report()
    source = itertools.cycle(bodies)
    end = 0.0

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            async with session.post(f"{url}/recommend", json=next(source)) as response:
                await response.read()
                report.statuses[response.status] += 1
                if response.status == 200:
                    report.taken.append(time.monotonic() - began)
                else:
                    await asyncio.sleep(0.1)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async with session.post(f"{url}/recommend", json=bodies[0]) as response:
            response.raise_for_status()
        began = time.monotonic()
        end = began + seconds
        await asyncio.gather(*(client(session) for _ in range(clients)))
        report.seconds = time.monotonic() - began
    return report


def remote(arguments: argparse.Namespace) -> None:
    """Evaluate over running servers."""
    cases = cases_of(arguments.run, arguments.users)

    def asked(model: Model, mode: Mode, users: int) -> tuple[Engine, list[Answer], float]:
        settings = Settings(chain_tokens=CHAIN_TOKENS if mode is Mode.reasoning else None)
        engine = Engine.open(model, arguments.checkpoint, arguments.run / "index.json", settings)
        queries = engine.queries(cases.histories[:users])
        began = time.monotonic()
        return engine, engine.answer(queries), time.monotonic() - began

    local = LocalModel.load(arguments.checkpoint, "cpu", 32)
    searches = (True, False) if arguments.engine == ServerEngine.sglang else (False,)
    for mode in map(Mode, arguments.modes.split(",")):
        _, expected, seconds = asked(local, mode, len(cases.users))
        alone = len(expected) / seconds
        print(f"in process, batch 32       {mode:9s} {alone:7.1f} users/s, {len(expected)} users", flush=True)
        for in_flight, native in itertools.product(map(int, arguments.in_flight.split(",")), searches):
            with tempfile.TemporaryDirectory() as folder:
                servers = ServerSettings(tuple(arguments.endpoint), in_flight=in_flight)
                journal = Path(folder) / "journal.jsonl"
                model = ServedModel(arguments.checkpoint, arguments.engine, servers, journal, native=native)
                users = len(expected) if native else arguments.stepwise_users or len(expected)
                engine, found, seconds = asked(model, mode, users)
            assert isinstance(engine.decoder, ServedDecoder)  # noqa: S101 - the model's
            assert engine.decoder.native == native  # noqa: S101 - a server without the catalogue is no comparison
            pairs = list(zip(found, expected[:users], strict=True))
            same = sum(ours.items == theirs.items for ours, theirs in pairs)
            chains = sum(ours.chain == theirs.chain for ours, theirs in pairs)
            apart = max(
                abs(score - there)
                for ours, theirs in pairs
                for score, there in zip(sorted(ours.scores), sorted(theirs.scores), strict=True)
            )
            print(
                f"{arguments.engine}, {'native' if native else 'stepwise'}, {in_flight:3d} in flight {mode:9s} "
                f"{users / seconds:7.1f} users/s, {engine.decoder.requests / seconds:.1f} requests/s, "
                f"{engine.decoder.requests / users:.1f} requests per user, {users / seconds / alone:.2f} x in process; "
                f"{same} of {users} lists and {chains} chains equal, scores differ by at most {apart:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
