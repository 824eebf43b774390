"""Who works in a run folder: one writer at a time, and no process of a stage outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from data_support import call
from gream.errors import GreamError
from gream.stage import run_stage
from loopback import PATIENCE

# A framework: its child, and a grandchild in a session of its own, do not listen to SIGTERM; all write until they die.
FRAMEWORK = """
import os, signal, subprocess, sys, time
depth, mark = int(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if depth:
    subprocess.Popen([sys.executable, __file__, str(depth - 1), mark], start_new_session=depth == 1)
open(f"{mark}.{os.getpid()}", "w").close()
if sys.argv[3:4] == ["leave"]:
    while len([n for n in os.listdir(os.path.dirname(mark)) if n.startswith("mark.")]) < 3:
        time.sleep(0.05)
    os.makedirs(sys.argv[4] + "/x")
    sys.exit()
time.sleep(600)
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.05)


def alive(folder: Path) -> list[int]:
    """Processes of the stand-in that are not yet gone."""
    pids = [int(path.suffix[1:]) for path in folder.glob("mark.*")]
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def framework(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "framework.py"
    path.write_text(FRAMEWORK)
    yield path
    for pid in alive(tmp_path):
        os.kill(pid, signal.SIGKILL)


def stage(run: Path, *command: str) -> list[str]:
    return [sys.executable, "-m", "gream", "stage", "s", f"--run={run}", "--output=x", "--", *command]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("victim", ["stage", "supervisor"])
def test_no_process_of_the_framework_outlives_the_stage(
    framework: Path, tmp_path: Path, number: signal.Signals, victim: str
) -> None:
    command = stage(tmp_path / "run", sys.executable, str(framework), "2", str(tmp_path / "mark"))
    parent = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(alive(tmp_path)) == 3)
    supervisor = parent.children()[0]
    (parent if victim == "stage" else supervisor).send_signal(number)
    until(lambda: not alive(tmp_path) and not supervisor.is_running())
    assert parent.wait(30) != 0


def test_what_a_command_leaves_running_ends_with_it(framework: Path, tmp_path: Path) -> None:
    command = stage(tmp_path / "run", sys.executable, str(framework), "2", str(tmp_path / "mark"), "leave", "{out}")
    done = call(command)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("mark.*"))) == 3
    assert alive(tmp_path) == []


def test_the_second_start_says_who_is_at_work(tmp_path: Path) -> None:
    command = stage(tmp_path / "run", "bash", "-c", f"touch {tmp_path}/there; sleep 60")
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until((tmp_path / "there").exists)
        second = call(command)
        assert second.returncode == 2
        line = second.stderr.splitlines()
        assert len(line) == 1
        assert f"stage 's' is at work there: process {first.pid} on " in line[0]
        assert " since 2" in line[0]
    finally:
        first.kill()
        first.wait()
    # The lock went with the process that held it.
    until(lambda: "at work" not in call(stage(tmp_path / "run", "bash", "-c", "mkdir {out}/x")).stderr)
    assert (tmp_path / "run" / "x").exists()


def test_nobody_replaces_what_another_stage_reads_nor_reads_what_it_replaces(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "rows").write_text("1")

    def go(name: str, inputs: dict[str, Path], output: str, inside: Callable[[], object] = lambda: None) -> None:
        def build(out: Path) -> None:
            inside()
            (out / output).mkdir(parents=True)

        run_stage(tmp_path, name, config={}, inputs=inputs, outputs=[output], code={}, build=build)

    def other(name: str, inputs: dict[str, Path], output: str) -> Callable[[], None]:
        def refused() -> None:
            with pytest.raises(GreamError, match="stage 'first' is at work there"):
                go(name, inputs, output)

        return refused

    rows = {"rows": tmp_path / "sft" / "rows"}
    go("first", rows, "model", other("second", {}, "sft"))  # it replaces the folder of what is read
    go("first", {}, "sft", other("third", {"sft": tmp_path / "sft"}, "other"))  # it reads what is replaced
    go("first", {}, "a/b", other("fourth", {}, "a"))  # both write
    go("first", {"sft": tmp_path / "sft"}, "c", lambda: go("fifth", {"sft": tmp_path / "sft"}, "d"))  # both read


def test_two_starts_with_other_settings_never_leave_a_mixture(tmp_path: Path) -> None:
    """Rounds of two writers of two files: whoever comes second is told, and the files are of one of them."""
    code = "import sys, time; [(open(f'{sys.argv[1]}/{n}', 'w').write(sys.argv[2]), time.sleep(0.05)) for n in 'ab']"

    def start(run: Path, setting: str) -> subprocess.Popen[str]:
        outputs = ["--output=a", "--output=b", "--overwrite"]
        arguments = [sys.executable, "-m", "gream", "stage", "s", f"--run={run}", *outputs, "--"]
        command = [*arguments, sys.executable, "-c", code, "{out}", setting]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    for number in range(3):
        run = tmp_path / str(number)
        both = [start(run, "1"), start(run, "2")]
        said = [one.communicate(timeout=PATIENCE)[1] for one in both]
        assert (run / "a").read_text() == (run / "b").read_text()
        for one, text in zip(both, said, strict=True):
            assert (one.returncode, "Traceback" in text) in ((0, False), (2, False)), text


def test_a_line_of_megabytes_stops_nothing(tmp_path: Path) -> None:
    for number, letter in enumerate("x1[|"):
        done = call(stage(tmp_path / str(number), sys.executable, "-c", f"print({letter!r} * 2_000_000)"))
        assert "ended without writing" in done.stderr, done.stderr[-1000:]


def test_the_bar_is_followed_whatever_stands_behind_it(tmp_path: Path) -> None:
    """As where verl logs some thousand characters of metrics in the same breath as its bar."""
    code = "print('Loading: 100%|#| 35/35 [0:1<0:0]\\rTraining: 14%|# | 3/22 [00:51<05:27]' + 'm' * 9000, flush=True)"
    command = stage(tmp_path / "run", sys.executable, "-c", f"{code}; import time; time.sleep(1.5)")
    screen, terminal = os.openpty()
    with os.fdopen(screen, "rb", buffering=0) as shown:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal)
        os.close(terminal)
        text = b""
        try:
            while chunk := shown.read(4096):
                text += chunk
        except OSError:
            pass  # how a terminal says that nobody writes to it any more
        process.wait(PATIENCE)
    assert "training 3/22" in text.decode()
