"""What a stage is made of: inputs by role and whole content, and the code behind it; no difference is passed over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from data_support import ROOT, SMALL, call, command, stage
from gream.command_stage import named_inputs
from gream.errors import GreamError
from gream.hashing import Hashes, sha256_of
from gream.provenance import code_of
from gream.record import Record
from gream.stage import run_stage


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


class Work:
    """A stage that joins its inputs, and counts how often."""

    def __init__(self, run: Path) -> None:
        self.run, self.built = run, 0

    def __call__(
        self,
        inputs: dict[str, Path],
        code: dict[str, str] | None = None,
        *,
        overwrite: bool = False,
        keep: bool = False,
    ) -> bool:
        def build(out: Path) -> None:
            self.built += 1
            (out / "out.txt").write_text("".join(path.read_text() for path in inputs.values()))

        return run_stage(
            self.run,
            "s",
            config={},
            inputs=inputs,
            outputs=["out.txt"],
            code=code or {},
            build=build,
            overwrite=overwrite,
            keep=keep,
        ).ran


def test_inputs_of_one_name_in_two_folders_are_two_inputs(tmp_path: Path) -> None:
    """Both are ``data.csv``: a change of the first is seen, although the second is what it was."""
    inputs = {"reviews": write(tmp_path / "inter/data.csv", "a"), "metadata": write(tmp_path / "items/data.csv", "b")}
    work = Work(tmp_path / "run")
    assert work(inputs) and not work(inputs)
    write(inputs["reviews"], "c")
    assert work(inputs)
    assert (tmp_path / "run" / "out.txt").read_text() == "cb"
    assert set(Record.model_validate_json((tmp_path / "run/.stages/s.json").read_text()).inputs) == {
        "reviews",
        "metadata",
    }


def test_interactions_see_a_change_of_reviews_beside_metadata_of_the_same_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    rows = [f"u{user},i{item},{user + item}" for user in range(60) for item in range(10)]
    reviews = write(tmp_path / "inter/data.csv", "\n".join(["user_id,item_id,timestamp", *rows]))
    metadata = write(
        tmp_path / "items/data.csv", "\n".join(["item_id,title", *(f"i{item},t{item}" for item in range(10))])
    )
    arguments = ["--reviews", str(reviews), "--metadata", str(metadata), "interactions.format=table"]
    stage("interactions", run, *arguments)
    before = sha256_of(run / "interactions.parquet")
    write(reviews, "\n".join(["user_id,item_id,timestamp", *rows[:-10]]))
    stage("interactions", run, *arguments)
    assert sha256_of(run / "interactions.parquet") != before


def test_equal_roles_on_the_command_line_are_refused(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a/data.csv", "1"), write(tmp_path / "b/data.csv", "2")
    assert named_inputs(tmp_path / "run", [f"x={one}", f"y={two}"]) == {"x": one, "y": two}
    assert set(named_inputs(tmp_path, [str(one), str(two)])) == {"a/data.csv", "b/data.csv"}
    with pytest.raises(GreamError, match=r"has the role 'data\.csv' already; write --input ROLE="):
        named_inputs(tmp_path / "run", [str(one), str(two)])
    with pytest.raises(GreamError, match="has the role 'x' already"):
        named_inputs(tmp_path / "run", [f"x={one}", f"x={two}"])


def test_other_code_is_named_and_accepted_or_replaced(tmp_path: Path) -> None:
    work, inputs = Work(tmp_path / "run"), {"text": write(tmp_path / "in.txt", "a")}
    assert work(inputs, {"gream.x": "1", "gream.y": "1"})
    with pytest.raises(
        GreamError, match=r"by other code \(gream\.x\): run again with --overwrite, or --keep to accept"
    ):
        work(inputs, {"gream.x": "2", "gream.y": "1"})
    assert work.built == 1
    assert not work(inputs, {"gream.x": "2", "gream.y": "1"}, keep=True)
    record = Record.model_validate_json((tmp_path / "run/.stages/s.json").read_text())
    assert [kept.code for kept in record.kept] == [{"gream.x": "1", "gream.y": "1"}]
    assert record.made.version and (record.made.commit or "")[:40].isalnum()
    assert not work(inputs, {"gream.x": "2", "gream.y": "1"})
    assert work(inputs, {"gream.x": "3", "gream.y": "1"}, overwrite=True)
    write(inputs["text"], "b")  # what would be made anew in any case is made by the code there is
    assert work(inputs, {"gream.x": "4", "gream.y": "1"})


def test_unfinished_work_of_other_code_is_not_gone_on_with_unless_accepted(tmp_path: Path) -> None:
    def go(code: str, *, keep: bool = False, fail: bool = False) -> bool:
        found = []

        def build(out: Path) -> None:
            found.append((out / "half").exists())
            write(out / "half", "x")
            if fail:
                raise KeyboardInterrupt
            write(out / "out.txt", "x")

        run_stage(
            tmp_path, "s", config={}, inputs={}, outputs=["out.txt"], code={"m": code}, build=build, keep=keep,
            keep_partial=True,
        )  # fmt: skip
        return found[0]

    with pytest.raises(KeyboardInterrupt):
        go("1", fail=True)
    with pytest.raises(GreamError, match=r"left unfinished by other code \(m\)"):
        go("2")
    assert go("2", keep=True)


def test_input_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.txt", "one")

    def build(out: Path) -> None:
        write(out / "out.txt", source.read_text())
        write(source, "two")
        write(source, "one")  # back again: what was read in between is unknown

    with pytest.raises(GreamError, match="input text changed while it was read"):
        run_stage(tmp_path / "r", "s", config={}, inputs={"text": source}, outputs=["out.txt"], code={}, build=build)
    assert not (tmp_path / "r" / "out.txt").exists()


CHANGES: dict[str, tuple[Callable[[str], str], bool]] = {
    "comment": (lambda text: text.replace("return x", "return x  # says nothing"), False),
    "docstring": (lambda text: text.replace('"""One."""', '"""Two."""'), False),
    "layout": (lambda text: text.replace("return x", "return (\n        x\n    )"), False),
    "code": (lambda text: text.replace("return x", "return -x"), True),
    "string": (lambda text: text.replace("'a'", "'b'"), True),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("module", ["part.py", "deep/inner.py", "lazy.py"])
def test_code_is_the_closure_of_imports_in_a_normal_form(tmp_path: Path, change: str, module: str) -> None:
    """Other folder, other name of the package: the same; any change of code in any module that takes part: another."""
    body = '"""One."""\nX = \'a\'\ndef f(x):\n    """One."""\n    return x\n'

    def package(folder: Path, name: str) -> dict[str, str]:
        root = folder / name
        for file in ("part.py", "deep/inner.py", "lazy.py", "unused.py", "typed.py"):
            write(root / file, body)
        for file in ("__init__.py", "deep/__init__.py"):
            write(root / file, '"""Says nothing."""\n')
        write(
            root / "build.py",
            "from typing import TYPE_CHECKING\nfrom .part import f\nfrom .deep import inner\n"
            "if TYPE_CHECKING:\n    from .typed import f as g\n"
            "def build():\n    from . import lazy\n    return lazy.f(f(1))\n",
        )
        return code_of(root / "build.py")

    first = package(tmp_path / "here", "rooms")
    assert set(first) == {".", ".build", ".part", ".deep", ".deep.inner", ".lazy"}
    assert package(tmp_path / "there", "gream_rooms") == first
    edit, differs = CHANGES[change]
    path = tmp_path / "here/rooms" / module
    changed = edit(path.read_text())
    assert changed != path.read_text()
    package_copy = shutil.copytree(tmp_path / "here/rooms", tmp_path / "edited/rooms")
    write(package_copy / module, changed)
    assert (code_of(package_copy / "build.py") != first) == differs


def test_a_mutated_stage_runs_again(tmp_path: Path) -> None:
    """In a copy of the checkout: leave-one-out broken on purpose, and 'interactions' is no longer up to date."""
    run, checkout = tmp_path / "run", tmp_path / "checkout"
    for folder in ("data_processing", "plugins"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {"PYTHONPATH": f"{checkout / 'plugins'}{os.pathsep}{checkout}"}

    def go(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        own = {**os.environ, **environment}
        arguments = command(name, run, *SMALL, *more)
        return subprocess.run(arguments, cwd=checkout, capture_output=True, text=True, timeout=300, env=own)

    for name in ("synthesize", "interactions"):
        done = go(name)
        assert done.returncode == 0, done.stderr
    module = checkout / "data_processing" / "sequences.py"
    text = module.read_text()
    module.write_text(text.replace('"test", "valid", "train"', '"valid", "test", "train"'))
    assert module.read_text() != text
    refused = go("interactions")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith(
        "by other code (.sequences): run again with --overwrite, or --keep to accept"
    )
    before = sha256_of(run / "interactions.parquet")
    assert go("interactions", "--overwrite").returncode == 0
    assert sha256_of(run / "interactions.parquet") != before


def test_hashes_are_remembered_by_size_times_and_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gream import hashing

    file = write(tmp_path / "run/model/weights", "one")
    (tmp_path / "run/.stages").mkdir()
    monkeypatch.setattr(hashing, "_SETTLED_NS", -1)
    hashes = Hashes(tmp_path / "run")
    whole = hashes.of(tmp_path / "run/model")
    hashes.save()
    monkeypatch.setattr(hashing, "sha256_of", lambda path: pytest.fail(f"{path} is read again"))
    assert Hashes(tmp_path / "run").of(tmp_path / "run/model") == whole
    monkeypatch.undo()
    kept = file.stat()
    write(file, "two")
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))  # size and time of change are what they were
    assert Hashes(tmp_path / "run").of(tmp_path / "run/model") != whole


def test_a_build_that_says_what_it_read_reads_no_input_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gream import hashing

    data = write(tmp_path / "r/sft/rows.jsonl", "one").parent
    reads: list[Path] = []
    read = hashing.sha256_of
    monkeypatch.setattr(hashing, "_SETTLED_NS", -1)
    monkeypatch.setattr(hashing, "sha256_of", lambda path: reads.append(path) or read(path))

    def build(out: Path) -> None:
        write(out / "out.txt", Hashes(tmp_path / "r").of(data))

    run_stage(tmp_path / "r", "s", config={}, inputs={"rows": data}, outputs=["out.txt"], code={}, build=build)
    assert reads.count(data / "rows.jsonl") == 1
    assert (tmp_path / "r/out.txt").read_text() == read(data)


def test_what_only_a_resumed_training_reads_is_not_hashed(tmp_path: Path) -> None:
    (tmp_path / ".stages").mkdir()
    model = tmp_path / "checkpoints"
    for name in ("model.safetensors", "checkpoint-4/optimizer.pt", "g/actor/optim_world_size_1_rank_0.pt"):
        write(model / name, "one")
    before = Hashes(tmp_path).of(model)
    write(model / "checkpoint-4/optimizer.pt", "two")
    shutil.rmtree(model / "g")
    assert Hashes(tmp_path).of(model) == before
    write(model / "model.safetensors", "two")
    assert Hashes(tmp_path).of(model) != before


def test_a_start_that_does_nothing_is_quick_beside_a_hundred_gigabytes(tmp_path: Path) -> None:
    """Sparse files stand for checkpoints; the one that later stages read was hashed when it was written."""
    run = tmp_path / "run"
    code = (
        "import os; out = '{out}/checkpoints/'\n"
        "for name, size in (('checkpoint-8/optimizer.pt', 60), ('checkpoint-8/model.safetensors', 20),\n"
        "                   ('global_step_2/actor/optim_world_size_1_rank_0.pt', 19), ('model.safetensors', 1)):\n"
        "    os.makedirs(os.path.dirname(out + name), exist_ok=True)\n"
        "    open(out + name, 'wb').truncate(size << 30)\n"
    )
    arguments = [sys.executable, "-m", "gream", "stage", "s", f"--run={run}", "--output=checkpoints", "--"]
    made = call([*arguments, sys.executable, "-c", code])
    assert made.returncode == 0, made.stderr
    time.sleep(2.1)  # what was written a moment ago is hashed once more
    assert "s: up to date" in call([*arguments, sys.executable, "-c", code]).stdout
    began = os.times()
    again = call([*arguments, sys.executable, "-c", code])
    ended = os.times()
    assert "s: up to date" in again.stdout
    # Of the processor, as the machine may be busy; hashing 1 GB alone takes as long.
    assert ended.children_user + ended.children_system - began.children_user - began.children_system < 2
