"""Configuration errors name key and remedy; stages skip, rebuild, refuse and never leave half a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from gream.config import Config, load_config
from gream.errors import GreamError
from gream.hashing import sha256_of
from gream.stage import Summary, run_stage


class Inner(Config):
    depth: int = 1


class Outer(Config):
    name: str
    inner: Inner = Inner()


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_config_is_read_and_overridden(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "name: a\ninner: {depth: 3}\n")
    assert load_config(Outer, path) == Outer(name="a", inner=Inner(depth=3))
    assert load_config(Outer, path, ["inner.depth=7"]).inner.depth == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\ninner: {dept: 3}\n", r"unknown key 'inner\.dept'; did you mean 'depth'\?"),
        ("nane: a\n", "key 'name'|unknown key 'nane'; did you mean 'name'"),
        ("name: a\ninner: {depth: x}\n", r"key 'inner\.depth'.*integer"),
        ("- a\n", "a mapping of keys"),
        ("name: [a\n", "r.yaml:2: not valid YAML"),
        ("name: a\nname: b\n", r"r\.yaml:2: not valid YAML \(the key 'name' stands twice; keep one\)"),
        ("name: a\ninner: {depth: 1, depth: 2}\n", "the key 'depth' stands twice"),
    ],
)
def test_config_errors_name_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(GreamError, match=said):
        load_config(Outer, write(tmp_path / "r.yaml", text))


def test_config_file_missing(tmp_path: Path) -> None:
    with pytest.raises(GreamError, match=r"none\.yaml: cannot be read"):
        load_config(Outer, tmp_path / "none.yaml")


class Recorder:
    """Builds ``out.txt`` from ``in.txt`` and counts how often."""

    def __init__(self, run: Path, source: Path) -> None:
        self.run, self.source, self.built = run, source, 0

    def build(self, out: Path) -> None:
        self.built += 1
        (out / "out.txt").write_text(self.source.read_text() + "!")

    def __call__(self, depth: int = 1, *, overwrite: bool = False) -> bool:
        result = run_stage(
            self.run,
            "s",
            config={"depth": depth, "shape": (1, 2)},
            inputs={"text": self.source},
            outputs=["out.txt"],
            code={},
            build=self.build,
            overwrite=overwrite,
        )
        return result.ran


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "run", write(tmp_path / "in.txt", "one"))


def test_unchanged_stage_does_nothing(recorder: Recorder) -> None:
    assert recorder() is True
    assert recorder() is False
    assert recorder.built == 1


def test_changed_input_rebuilds(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    recorder()
    recorder.source.write_text("two")
    assert recorder() is True
    assert "input text changed" in capsys.readouterr().out
    assert (recorder.run / "out.txt").read_text() == "two!"


def test_damaged_output_is_rebuilt(recorder: Recorder) -> None:
    recorder()
    (recorder.run / "out.txt").write_text("scribble")
    assert recorder() is True
    assert (recorder.run / "out.txt").read_text() == "one!"


def test_other_configuration_is_refused_and_leaves_outputs(recorder: Recorder) -> None:
    recorder()
    before = sha256_of(recorder.run / "out.txt"), sha256_of(recorder.run / ".stages" / "s.json")
    with pytest.raises(GreamError, match=r"another configuration \(depth: 1 -> 2\)"):
        recorder(depth=2)
    assert (sha256_of(recorder.run / "out.txt"), sha256_of(recorder.run / ".stages" / "s.json")) == before
    assert recorder(depth=2, overwrite=True) is True


def test_failed_stage_leaves_earlier_outputs(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder()

    def fail(out: Path) -> None:
        (out / "out.txt").write_text("half")
        raise GreamError("broken")

    monkeypatch.setattr(recorder, "build", fail)
    recorder.source.write_text("two")
    with pytest.raises(GreamError, match="broken"):
        recorder()
    assert (recorder.run / "out.txt").read_text() == "one!"


def test_missing_input_names_it(recorder: Recorder) -> None:
    recorder.source.unlink()
    with pytest.raises(GreamError, match=r"in\.txt: missing input of stage 's'"):
        recorder()
    assert not recorder.run.exists()


def test_partial_work_is_kept_only_for_the_same_work(tmp_path: Path) -> None:
    source = write(tmp_path / "in.txt", "one")

    def go(depth: int, build: object, *, overwrite: bool = False) -> None:
        run_stage(
            tmp_path / "run",
            "s",
            config={"depth": depth},
            inputs={"text": source},
            outputs=["out.txt"],
            code={},
            build=build,  # type: ignore[arg-type]
            keep_partial=True,
            overwrite=overwrite,
        )

    def killed(out: Path) -> None:
        (out / "progress").write_text("half way")
        raise KeyboardInterrupt

    seen: list[bool] = []

    def finish(out: Path) -> None:
        seen.append((out / "progress").exists())
        (out / "out.txt").write_text("x")

    with pytest.raises(KeyboardInterrupt):
        go(1, killed)
    go(1, finish)
    source.write_text("two")
    with pytest.raises(KeyboardInterrupt):
        go(1, killed)
    source.write_text("three")
    go(1, finish)
    assert seen == [True, False]
    record = json.loads((tmp_path / "run" / ".stages" / "s.json").read_text())
    assert list(record["outputs"]) == ["out.txt"]


def test_stage_says_what_it_made_and_warns_also_when_up_to_date(tmp_path: Path) -> None:
    def build(out: Path) -> Summary:
        (out / "rows.jsonl").write_text("")
        return Summary("0 rows", ("no row; take more items",))

    def run() -> str:
        return str(run_stage(tmp_path, "rows", config={}, inputs={}, outputs=["rows.jsonl"], code={}, build=build))

    first, again = run(), run()
    assert re.fullmatch(r"rows: \d+\.\d s, 0 rows -> rows\.jsonl\nwarning: rows: no row; take more items", first)
    assert again == "rows: up to date, 0 rows -> rows.jsonl\nwarning: rows: no row; take more items"
