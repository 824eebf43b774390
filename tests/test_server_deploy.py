"""``scripts/deploy.sh`` with a fake engine in the place of the real ones: start, health, failure, shutdown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import PATIENCE, kept_ports

ROOT = Path(__file__).resolve().parent.parent

# Takes the place of the engine's interpreter. As an engine it answers /health after a moment, starts a worker that only
# its group's signal ends, and writes down how it was called; as a plain interpreter it runs what it is given.
FAKE_ENGINE = """#!/usr/bin/env bash
[ "$1" = -m ] || exec python3 "$@"
while [ $# -gt 0 ]; do [ "$1" = --port ] && port=$2; shift; done
sleep 600 &
echo "$! $CUDA_VISIBLE_DEVICES" > "$FAKE_FOLDER/$port.half"
mv "$FAKE_FOLDER/$port.half" "$FAKE_FOLDER/$port.worker"
echo "fake engine on $port"
if [ "$port" = "${FAKE_BROKEN:-}" ]; then
    until [ -e "$FAKE_FOLDER/$((port - 1)).worker" ]; do sleep 0.05; done
    echo "out of memory"
    exit 3
fi
[ -z "${FAKE_DEAF:-}" ] || trap "" TERM
python3 -c '
import http.server, sys, time
time.sleep(0.3)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
class Server(http.server.HTTPServer):
    allow_reuse_port = True  # the test holds it meanwhile
Server(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()' "$port"
"""


class Deployment:
    """A folder to deploy from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        engine = folder / "engine"
        engine.write_text(FAKE_ENGINE)
        engine.chmod(0o755)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        python = ["--python", str(self.folder / "engine")]
        return subprocess.Popen(
            ["bash", str(ROOT / "scripts" / "deploy.sh"), *python, *arguments],
            cwd=self.folder,
            env=os.environ | {"FAKE_FOLDER": str(self.folder)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def worker(self, port: int) -> tuple[int, str]:
        """Process id of a server's worker, and the devices it was given."""
        pid, devices = (self.folder / f"{port}.worker").read_text().split()
        return int(pid), devices


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has collected yet has."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


@pytest.fixture
def port() -> Iterator[int]:
    """This one and the next are free."""
    with kept_ports(2) as first:
        yield first


@pytest.mark.parametrize(("engine", "flag"), [("sglang", "--tp-size 2"), ("vllm", "--max-logprobs 128")])
def test_one_server_per_group_until_a_signal(deployment: Deployment, port: int, engine: str, flag: str) -> None:
    process = deployment.start(
        "model", "beauty", "0,1,4,5", "--tp", "2", "--port", str(port), "--engine", engine, "--", "--dtype", "float32"
    )
    assert process.stdout is not None
    first, second, ready = (process.stdout.readline() for _ in range(3))
    assert first.startswith("$ CUDA_VISIBLE_DEVICES=0,1 ") and flag in first and " --dtype float32 >" in first
    assert second.startswith("$ CUDA_VISIBLE_DEVICES=4,5 ") and f"--port {port + 1}" in second
    endpoints = f"--endpoint http://127.0.0.1:{port} --endpoint http://127.0.0.1:{port + 1}"
    assert ready == f"ready: {endpoints} --engine {engine}\n"
    workers = [deployment.worker(port), deployment.worker(port + 1)]
    assert [devices for _, devices in workers] == ["0,1", "4,5"] and not any(gone(pid) for pid, _ in workers)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and errors == "stopped\n"
    until(lambda: all(gone(pid) for pid, _ in workers))
    log = deployment.folder / "logs" / "deploy" / f"beauty-{port}.log"
    assert log.read_text().startswith(f"fake engine on {port}\n")


def test_catalogues_and_the_flags_of_a_machine_without_gpus_reach_the_engine(deployment: Deployment, port: int) -> None:
    index = deployment.folder / "index.json"
    index.write_text("{}")
    engine = deployment.folder / "engine"
    engine.write_text(engine.read_text().replace("sleep 600 &", 'echo "$GREAM_CATALOGUES"; sleep 600 &'))
    more = ["--port", str(port), "--catalogue", "shop=index.json", "--catalogue", "part=index.json"]
    process = deployment.start("model", "x", "cpu", *more)
    assert process.stdout is not None
    command, ready = process.stdout.readline(), process.stdout.readline()
    assert " --device cpu " in command and " --max-total-tokens 65536 " in command and ready.startswith("ready: ")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    log = (deployment.folder / "logs" / "deploy" / f"x-{port}.log").read_text()
    assert log.startswith(f"shop={index}:part={index}\n")


def test_vllm_is_started_with_the_processor_and_the_catalogue(deployment: Deployment, port: int) -> None:
    index = deployment.folder / "index.json"
    index.write_text("{}")
    process = deployment.start(
        "model", "x", "cpu", "--engine", "vllm", "--port", str(port), "--catalogue", f"x={index}"
    )
    assert process.stdout is not None
    command, ready = process.stdout.readline(), process.stdout.readline()
    named = json.dumps({"gream": {"catalogue": str(index)}})
    assert f" --logits-processors vllm_gream.processor:AnswerProcessor --additional-config {named} " in command
    assert ready.startswith("ready: ")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)


def test_a_server_that_does_not_listen_to_the_signal_is_killed(deployment: Deployment, port: int) -> None:
    arguments = ["model", "x", "0", "--port", str(port)]
    process = deployment.start(*arguments, FAKE_DEAF="1", GREAM_DEPLOY_GRACE="1")
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline().startswith("ready: ")
    pid, _ = deployment.worker(port)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    until(lambda: gone(pid))


def test_when_one_fails_to_start_all_stop_and_its_log_is_shown(deployment: Deployment, port: int) -> None:
    process = deployment.start("model", "x", "0,1", "--port", str(port), FAKE_BROKEN=str(port + 1))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "  | out of memory\n" in errors
    assert errors.endswith(
        f"error: the server on port {port + 1} ended before it was healthy; whole log: logs/deploy/x-{port + 1}.log\n"
    )
    until(lambda: gone(deployment.worker(port)[0]))


def test_when_one_dies_later_all_stop(deployment: Deployment, port: int) -> None:
    process = deployment.start("model", "x", "0,1", "--port", str(port))
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)][2].startswith("ready: ")
    # The group of the second server, which its worker belongs to.
    os.killpg(os.getpgid(deployment.worker(port + 1)[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and f"error: the server on port {port + 1} ended; whole log: " in errors
    until(lambda: gone(deployment.worker(port)[0]))


def test_one_that_never_becomes_healthy_is_given_up(deployment: Deployment, port: int) -> None:
    engine = deployment.folder / "engine"
    engine.write_text('#!/usr/bin/env bash\n[ "$1" = -m ] || exec python3 "$@"\nsleep 600\n')
    process = deployment.start("model", "x", "0", "--port", str(port), GREAM_DEPLOY_PATIENCE="1")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "is not healthy after 1 s" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "x"], "usage: bash scripts/deploy.sh MODEL NAME GPUS"),
        (["nowhere", "x", "0"], "nowhere: no config.json"),
        (["model", "../x", "0"], "NAME '../x': letters, digits"),
        (["model", "x", "0,a"], "GPUS '0,a': device numbers and commas"),
        (["model", "x", "0,1,2", "--tp", "2"], "3 GPUs cannot be divided into groups of 2"),
        (["model", "x", "0", "--catalogue", "shop"], "--catalogue 'shop': NAME=INDEX expected"),
        (["model", "x", "0", "--catalogue", "shop=gone.json"], "--catalogue shop=gone.json: gone.json is not there"),
        (
            ["model", "x", "0", "--engine", "vllm", *["--catalogue", "shop=model/config.json"] * 2],
            "--catalogue: a vLLM server keeps to one",
        ),
        (["model", "x", "0", "--engine", "other"], "--engine other: sglang or vllm"),
        (["model", "x", "0", "--gpus", "1"], "unknown option '--gpus'"),
        (["model", "x", "0", "--tp", "two"], "--tp two: a number of GPUs"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_starts(deployment: Deployment, arguments: list[str], message: str) -> None:
    process = deployment.start(*arguments)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and output == "" and errors.count("\n") == 1
    assert errors.startswith(f"error: {message}")
