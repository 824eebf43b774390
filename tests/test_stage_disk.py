"""What a file system refuses is one line and status 2."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_support import SMALL, call, command
from gream.errors import GreamError, file_system_errors
from gream.files import write_json
from gream.hashing import sha256_of
from gream.record import Record
from gream.stage import run_stage


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr[-2000:]
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr[-2000:]
    return lines[0]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 kB; only root can make one."""
    place = tmp_path / "full"
    place.mkdir()
    if os.geteuid() or call(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(place)]).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    call(["umount", "-l", str(place)])


def test_a_full_disk_is_one_line(full_disk: Path) -> None:
    assert "No space left on device" in one_line(call(command("synthesize", full_disk / "run", *SMALL)))


def test_what_is_wrong_with_the_run_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Not a directory" in one_line(call(command("synthesize", tmp_path / "file")))
    assert "File name too long" in one_line(call(command("synthesize", tmp_path / ("n" * 300))))
    assert "File name too long" in one_line(call(command("interactions", tmp_path / "r", "--reviews", "n" * 300)))
    assert "no folder can be made there" in one_line(call(command("synthesize", Path("/proc/x"))))


@pytest.mark.parametrize("torn", [b"", b'{"stage": "s", "conf', b"\xff\xfe", b"[]", b'{"config": {}, "inputs": []}'])
def test_a_torn_or_foreign_record_is_named_and_replaced_on_request(tmp_path: Path, torn: bytes) -> None:
    def go(*, overwrite: bool = False) -> bool:
        def build(out: Path) -> None:
            (out / "x").write_text("x")

        return run_stage(
            tmp_path, "s", config={}, inputs={}, outputs=["x"], code={}, build=build, overwrite=overwrite
        ).ran

    assert go()
    record = tmp_path / ".stages" / "s.json"
    record.write_bytes(torn)
    with pytest.raises(GreamError, match=r"s\.json: no record of a stage .* --overwrite"):
        go()
    assert go(overwrite=True) and not go()
    assert Record.read(record) is not None


def test_a_name_is_no_path(tmp_path: Path) -> None:
    for name in ("../x", "a/b", "", "n" * 200):
        with pytest.raises(GreamError, match="a name has up to 100 letters"):
            run_stage(tmp_path / "r", name, config={}, inputs={}, outputs=[], code={}, build=lambda out: None)
    assert not (tmp_path / "r").exists()


OUTPUTS = ([".stages"], ["logs/x"], ["../x"], ["/x"], ["."], [""], ["d", "d"], ["d", "d/x"])


@pytest.mark.parametrize("outputs", OUTPUTS, ids=str)
def test_an_output_takes_the_place_of_nothing_else(tmp_path: Path, outputs: list[str]) -> None:
    with pytest.raises(GreamError, match=r"is no place of its own in the run folder|is named twice, or lies in"):
        run_stage(tmp_path / "r", "s", config={}, inputs={}, outputs=outputs, code={}, build=lambda out: None)
    assert not (tmp_path / "r").exists()


def test_an_output_is_a_file_or_a_folder(tmp_path: Path) -> None:
    def build(out: Path) -> None:
        os.mkfifo(out / "x")

    with pytest.raises(GreamError, match="ended without writing x"):
        run_stage(tmp_path / "r", "s", config={}, inputs={}, outputs=["x"], code={}, build=build)


def test_errors_of_libraries_in_rust_are_understood_and_defects_are_not_hidden() -> None:
    with pytest.raises(GreamError, match="No space left on device, in work; mend that"), file_system_errors("work"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(FileNotFoundError), file_system_errors("work"):
        Path("/nowhere/at/all").read_text()
    with pytest.raises(KeyError), file_system_errors("work"):
        raise KeyError("x")


def test_weights_follow_the_umask(tmp_path: Path) -> None:
    def build(out: Path) -> None:
        write_json(out / "a.json", 1)
        (out / "model").mkdir()
        for name in ("w.safetensors", "model/w.safetensors"):
            (out / name).write_text("")
            (out / name).chmod(0o600)

    run_stage(tmp_path, "s", config={}, inputs={}, outputs=["a.json", "w.safetensors", "model"], code={}, build=build)
    wanted = (tmp_path / "a.json").stat().st_mode
    assert {(tmp_path / name).stat().st_mode for name in ("w.safetensors", "model/w.safetensors")} == {wanted}
    assert sha256_of(tmp_path / "model")
