"""The LLaMA-Factory plugin: compact records give the rows that the exported messages give."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from data_support import ROOT, call, kill_when, synthetic_run
from gream.stage import sha256_of

RECIPE = ROOT / "recipes" / "sft" / "quickstart_alignment.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run(tmp_path_factory.mktemp("sft"))


def aligned_rows(run: Path, dataset: str) -> list[dict[str, Any]]:
    """A dataset as LLaMA-Factory's own loader aligns it, rendered by its own template."""
    code = f"""
import json, sys
from llamafactory_gream.registration import register
register()
from llamafactory.data.converter import align_dataset
from llamafactory.data.loader import _load_single_dataset
from llamafactory.data.parser import get_dataset_list
from llamafactory.hparams import get_train_args
model, data, training, _, _ = get_train_args(dict(
    model_name_or_path={str(run / "model")!r}, stage="sft", do_train=True, finetuning_type="full", use_cpu=True,
    dataset_dir={str(run / "sft")!r}, dataset={dataset!r}, template="gream", bf16=False,
    output_dir={str(run / "none")!r},
))
for attributes in get_dataset_list(data.dataset, data.dataset_dir):
    for row in _load_single_dataset(attributes, model, data, training):
        print("ROW" + json.dumps([row["_system"], row["_prompt"], row["_response"]]))
"""
    done = call([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line[3:]) for line in done.stdout.splitlines() if line.startswith("ROW")]


def test_records_and_messages_give_the_same_rows(run: Path) -> None:
    rows = aligned_rows(run, "alignment")
    assert len(rows) == len((run / "sft" / "alignment.jsonl").read_text().splitlines()) > 500
    assert aligned_rows(run, "alignment_records") == rows


def train(program: str, run: Path, output: Path, *more: str) -> list[str]:
    """Command line of a few steps of the shipped alignment recipe."""
    return [
        str(Path(sys.executable).with_name(program)),
        "train",
        str(RECIPE),
        f"model_name_or_path={run / 'model'}",
        f"dataset_dir={run / 'sft'}",
        f"output_dir={output}",
        "logging_steps=1",
        "plot_loss=false",
        *more,
    ]


def losses(output: Path) -> list[float]:
    rows = [json.loads(line) for line in (output / "trainer_log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.e2e
def test_both_programs_train_alike(run: Path, tmp_path: Path) -> None:
    """Plain CLI on messages, plugin CLI on records with its own template: the same rows, the same losses."""
    commands = {
        "plain": train("llamafactory-cli", run, tmp_path / "plain", "max_steps=3"),
        "plugin": train(
            "llamafactory-gream",
            run,
            tmp_path / "plugin",
            "max_steps=3",
            "dataset=alignment_records",
            "template=gream",
        ),
    }
    for arguments in commands.values():
        done = call(arguments)
        assert done.returncode == 0, done.stderr[-3000:]
    plain = losses(tmp_path / "plain")
    assert len(plain) == 3
    assert losses(tmp_path / "plugin") == pytest.approx(plain, abs=1e-4)


@pytest.mark.e2e
def test_killed_training_resumes_to_the_same_weights(run: Path, tmp_path: Path) -> None:
    """SIGKILL after a checkpoint; the stage started again ends with the weights of an undisturbed run, bit for bit."""

    def stage(folder: Path) -> list[str]:
        inputs = [f"--input={run / 'model'}", f"--input={run / 'sft'}"]
        settings = ["max_steps=12", "save_steps=4", "per_device_train_batch_size=4"]
        trainer = train("llamafactory-cli", run, Path("{out}/trained"), *settings)
        gream = [sys.executable, "-m", "gream", "stage", "s"]
        return [*gream, f"--run={folder}", *inputs, "--output=trained", "--", *trainer]

    undisturbed = tmp_path / "undisturbed"
    done = call(stage(undisturbed))
    assert done.returncode == 0, done.stderr[-3000:]

    killed = tmp_path / "killed"
    assert kill_when(stage(killed), killed / ".partial" / "s" / "trained" / "checkpoint-4" / "trainer_state.json")
    assert not (killed / "trained").exists()
    done = call(stage(killed))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Resuming training from" in (killed / "logs" / "s.log").read_text()
    weights = "trained/model.safetensors"
    assert sha256_of(killed / weights) == sha256_of(undisturbed / weights)


def test_every_recipe_is_understood_by_llamafactory(run: Path) -> None:
    code = """
import sys, yaml
from llamafactory.hparams import get_train_args
recipe, model = sys.argv[1:]
get_train_args({**yaml.safe_load(open(recipe)), "model_name_or_path": model})
"""
    for recipe in sorted((ROOT / "recipes" / "sft").glob("*.yaml")):
        arguments = [sys.executable, "-c", code, str(recipe), str(run / "model")]
        done = call(arguments)
        assert done.returncode == 0, f"{recipe.name}: {done.stderr[-2000:]}"
        assert yaml.safe_load(recipe.read_text())["template"] == "qwen3_nothink"


def test_failing_command_names_its_log(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "gream", "stage", "s", f"--run={tmp_path}", "--output=x", "--"]
    done = call([*arguments, "bash", "-c", "echo why it failed; exit 3"])
    assert done.returncode == 2
    assert "why it failed" in done.stderr
    assert "ended with status 3" in done.stderr.splitlines()[-1]
    assert str(tmp_path / "logs" / "s.log") in done.stderr.splitlines()[-1]
    assert not (tmp_path / "x").exists()
