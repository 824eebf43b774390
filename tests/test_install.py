"""``scripts/install.sh``: one set per folder, a stamp that packages must bear out, and a line for what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALL = ROOT / "scripts" / "install.sh"

# In place of Python: makes an "environment" of itself, and says of pip what SAYS and STATUS ask for.
PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    "-m venv"*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; touch "$4/pyvenv.cfg" ;;
    *"pip"*" install "*) echo "Collecting things"; echo "$SAYS"; exit "${STATUS:-0}" ;;
    *installed.py*) exit "${LACKS:-0}" ;;
    *torch.version*) exit 0 ;;
    --version) echo "Python 3.11.0" ;;
esac
"""


class Machine:
    """Runs the script with a Python that only pretends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.python = folder / "python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def install(self, *options: str, venv: str = "venv", **said: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        own = {"PYTHON": str(self.python), "VENV": str(self.folder / venv), "CALLS": str(self.calls)}
        return subprocess.run(
            ["bash", str(INSTALL), *options],
            env={**os.environ, "PATH": "/usr/bin:/bin", **own, "SAYS": "", **said},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def installs(self) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if " install " in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_everything_but_torch_comes_with_hashes_and_a_second_time_nothing_comes(machine: Machine) -> None:
    done = machine.install("--dev")
    assert done.returncode == 0, done.stderr
    pins = [line for line in machine.installs if "-r requirements" in line]
    assert [line.split()[-1] for line in pins] == ["requirements/cpu.txt", "requirements/dev.txt"]
    assert all("--no-deps" in line and "--require-hashes" in line for line in pins)
    assert [line.split()[-1] for line in machine.installs if "torch==" in line] == ["torch==2.13.0"]
    assert (machine.install("--dev").returncode, machine.installs) == (0, [])
    # The longer list holds the shorter one.
    assert (machine.install().returncode, machine.installs) == (0, [])


def test_gpus_have_a_torch_with_hashes(machine: Machine) -> None:
    assert machine.install("--gpu").returncode == 0
    assert "requirements/gpu.txt" in machine.installs[0]
    assert not any("torch==" in line for line in machine.installs)
    assert any(line.startswith("torch==2.13.0") for line in (ROOT / "requirements" / "gpu.txt").open())


def test_sglang_gets_a_stand_in_for_its_kernels_where_there_is_no_gpu(machine: Machine) -> None:
    assert machine.install("--sglang").returncode == 0
    assert "requirements/sglang-cpu.txt" in machine.installs[0]
    assert [line.split()[-1] for line in machine.installs[1:]] == ["torch==2.13.0", "./tests/sglang_cpu", "."]
    driver = machine.folder / "nvidia-smi"
    driver.write_text("#!/bin/sh\n")
    driver.chmod(0o755)
    assert machine.install("--sglang", venv="other", PATH=f"{machine.folder}:/usr/bin:/bin").returncode == 0
    assert "requirements/sglang.txt" in machine.installs[0]
    assert not any("torch==" in line or "sglang_cpu" in line for line in machine.installs)


@pytest.mark.parametrize(("first", "second"), [("", "--gpu"), ("--gpu", "")])
def test_a_folder_holds_one_set(machine: Machine, first: str, second: str) -> None:
    # Interrupted at its first package, it is that set's already.
    assert machine.install(*filter(None, [first]), SAYS="killed", STATUS="1").returncode == 2
    refused = machine.install(*filter(None, [second]))
    assert refused.returncode == 2 and machine.installs == []
    held, wanted = ("gpu", "cpu") if first else ("cpu", "gpu")
    assert f"holds the set '{held}': name another folder for '{wanted}', VENV=FOLDER" in refused.stderr


def test_an_environment_of_before_is_the_cpus(machine: Machine) -> None:
    assert machine.install().returncode == 0
    stamp = machine.folder / "venv" / ".gream-installed"
    stamp.write_text("0" * 64 + "\n")
    assert "holds the set 'cpu'" in machine.install("--gpu").stderr
    assert machine.install().returncode == 0


def test_a_folder_of_something_else_is_left_alone(machine: Machine) -> None:
    (machine.folder / "venv").mkdir()
    (machine.folder / "venv" / "thesis.tex").write_text("chapter")
    refused = machine.install()
    assert refused.returncode == 2 and "is no virtual environment" in refused.stderr
    assert (machine.folder / "venv" / "thesis.tex").read_text() == "chapter"


def test_a_stamp_is_not_believed_where_packages_are_gone(machine: Machine) -> None:
    assert machine.install().returncode == 0
    # They stay gone, whatever pip says: there is no success without them.
    again = machine.install(LACKS="1")
    assert len(machine.installs) > 1
    assert again.returncode == 2


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full: 3 GB are needed"),
        ("NewConnectionError: Temporary failure in name resolution", "no package index answered: connect to a network"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "not the one that was pinned"),
        ("error: command 'gcc' failed", "failed, see above; mend it and run this again, or start anew: rm -r"),
    ],
)
def test_what_goes_wrong_is_one_line_with_its_remedy(machine: Machine, said: str, remedy: str) -> None:
    failed = machine.install(SAYS=said, STATUS="1")
    assert failed.returncode == 2
    *shown, error = failed.stderr.splitlines()
    assert error.startswith("error: ") and remedy in error
    assert shown[-1] == f"  | {said}"
    # Mended, it goes on in the same folder.
    assert machine.install().returncode == 0
    assert "-m venv" not in machine.calls.read_text()


def check(site: Path, pins: Path) -> str:
    """What ``scripts/installed.py`` says of packages in a folder."""
    code = f"import sys; sys.path[:] = [{str(site)!r}, *(p for p in sys.path if 'site-packages' not in p)]; "
    code += f"sys.argv = ['installed.py', {str(pins)!r}]; "
    code += f"exec(compile(open({str(ROOT / 'scripts' / 'installed.py')!r}).read(), 'installed.py', 'exec'))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stderr.strip()


def test_packages_are_looked_for_by_version_and_by_what_they_installed(tmp_path: Path) -> None:
    site, pins = tmp_path / "site", tmp_path / "pins.txt"
    info = site / "Some_Pack.age-1.5.dist-info"
    (site / "somepackage").mkdir(parents=True)
    (site / "somepackage" / "__init__.py").touch()
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Some_Pack.age\nVersion: 1.5\n")
    (info / "RECORD").write_text(
        f"somepackage/__init__.py,,\n../../../bin/some,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n"
    )
    hashes = " \\\n    --hash=sha256:00\n"
    pins.write_text(f"# by a tool\nsome-pack-age==1.5{hashes}")
    assert check(site, pins) == ""
    pins.write_text(f"some-pack-age==1.6{hashes}")
    assert check(site, pins) == "some-pack-age==1.6: 1.5 is installed"
    pins.write_text(f"some-pack-age==1.5{hashes}other==1{hashes}")
    assert check(site, pins) == "other==1: not installed"
    pins.write_text(f"some-pack-age==1.5{hashes}")
    (site / "somepackage" / "__init__.py").unlink()
    (site / "somepackage").rmdir()
    assert check(site, pins) == "some-pack-age==1.5: its somepackage is gone"


def test_what_markers_leave_out_is_not_looked_for() -> None:
    pins = ROOT / "requirements" / "cpu.txt"
    assert any(line.startswith("colorama==") and "win32" in line for line in pins.open())
    command = [sys.executable, "-I", str(ROOT / "scripts" / "installed.py"), str(pins)]
    assert "colorama" not in subprocess.run(command, capture_output=True, text=True, timeout=60).stderr


@pytest.mark.parametrize("name", ["cpu", "dev", "docs", "gpu", "sglang", "sglang-cpu", "vllm-cpu"])
def test_every_pin_has_its_hashes_and_names_no_index(name: str) -> None:
    short = (ROOT / "requirements" / f"{name}.in").read_text()
    assert "==" in short
    entries = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ").splitlines()
    pins = [line for line in entries if line and line[0] not in "# "]
    assert pins and all("==" in pin and "--hash=sha256:" in pin for pin in pins)
    assert not any("://" in line or line.startswith("--") for line in entries)


def test_pins_of_an_unknown_set_are_refused() -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "pins.sh"), "tpu"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "unknown set 'tpu': cpu dev docs gpu sglang sglang-cpu vllm-cpu" in done.stderr
