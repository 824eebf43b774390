"""The LLaMA-Factory plugin: compact records give the rows that the exported messages give."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import yaml
from data_support import ROOT, call, kill_when, synthetic_run
from gream.assembly import Assembler
from gream.engine.contract import read_contract
from gream.errors import GreamError
from gream.hashing import sha256_of
from gream.seams import Seam
from gream.tasks import Material, read_records
from gream.templates import Task
from llamafactory_gream import seams, worker
from llamafactory_gream.assemble import assemble
from llamafactory_gream.inspection import check, coloured, warn_of_cuts
from llamafactory_gream.registration import register

RECIPE = ROOT / "recipes" / "sft" / "quickstart_alignment.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run(tmp_path_factory.mktemp("sft"), more=("sft.sequence=true",))


# (dataset, template, cutoff_len) as LLaMA-Factory itself loads, renders, tokenizes and cuts it.
Prepared = tuple[str, str, int]
WAYS: tuple[Prepared, ...] = (
    ("alignment", "qwen3_nothink", 512),
    ("alignment_records", "gream", 512),
    ("alignment", "qwen3_nothink", 60),
)


@pytest.fixture(scope="module")
def prepared(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Prepared, list[tuple[list[int], list[int]]]]:
    """Token ids and labels of every row, by each of `WAYS`, from one process."""
    out = tmp_path_factory.mktemp("prepared")
    code = """
import json, sys
from llamafactory_gream.registration import register
register()
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
run, out, ways = sys.argv[1:]
for number, (dataset, template, cutoff_len) in enumerate(json.loads(ways)):
    model, data, training, _, _ = get_train_args(dict(
        model_name_or_path=run + "/model", stage="sft", do_train=True, finetuning_type="full", use_cpu=True,
        dataset_dir=run + "/sft", dataset=dataset, template=template, cutoff_len=cutoff_len, bf16=False,
        output_dir=run + "/none",
    ))
    parts = load_tokenizer(model)
    made = get_template_and_fix_tokenizer(parts["tokenizer"], data)
    rows = get_dataset(made, model, data, training, stage="sft", **parts)["train_dataset"]
    with open(f"{out}/{number}.json", "w") as stream:
        json.dump([(row["input_ids"], row["labels"]) for row in rows], stream)
"""
    done = call([sys.executable, "-c", code, str(run), str(out), json.dumps(WAYS)])
    assert done.returncode == 0, done.stderr[-3000:]
    read = {way: json.loads((out / f"{number}.json").read_text()) for number, way in enumerate(WAYS)}
    return {way: [(tokens, labels) for tokens, labels in rows] for way, rows in read.items()}


def test_records_and_messages_give_the_same_rows(
    run: Path, prepared: dict[Prepared, list[tuple[list[int], list[int]]]]
) -> None:
    messages, records, _ = (prepared[way] for way in WAYS)
    assert len(messages) == len((run / "sft" / "alignment.jsonl").read_text().splitlines()) > 500
    assert records == messages


def test_assembled_rows_are_those_of_llamafactory(
    run: Path, prepared: dict[Prepared, list[tuple[list[int], list[int]]]], tmp_path: Path
) -> None:
    """Token by token, label by label, also where LLaMA-Factory cuts a row."""
    from transformers import AutoTokenizer

    material, records = Material.load(run / "sft"), read_records(run / "sft" / "alignment_records.jsonl")
    rows = Assembler(AutoTokenizer.from_pretrained(run / "model"), material).assemble(records)
    assert {record["task"] for record in records} == {*get_args(Task), "sequence"}
    for _, _, cutoff_len in WAYS[1:]:
        cut = rows.cut(cutoff_len)
        expected = prepared["alignment", "qwen3_nothink", cutoff_len]
        assert [cut.row(number) for number in range(len(cut))] == expected
    assert (
        max(len(tokens) for tokens, _ in prepared[WAYS[2]]) == 60 < max(len(tokens) for tokens, _ in prepared[WAYS[0]])
    )


def test_assembled_passes_are_read_from_disk(run: Path, prepared: Any) -> None:
    from datasets import load_from_disk

    assert assemble(run, passes=2, cutoff_len=512, train_on_prompt=False, overwrite=False).ran
    rows = load_from_disk(str(run / "assembled"))["train"]
    once = prepared[WAYS[0]]
    assert list(zip(rows["input_ids"][: len(once)], rows["labels"][: len(once)], strict=True)) == once
    again = rows["input_ids"][len(once) :]
    assert len(again) == len(once)
    other = [tokens != before for tokens, (before, _) in zip(again, once, strict=True)]
    assert 0.5 < sum(other) / len(other) < 1  # a sequence has one wording, and a drawn one may be the same
    assert all(set(mask) == {1} for mask in rows["attention_mask"])


def test_rows_made_for_more_than_a_recipe_keeps_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    longest = json.loads((run / "sft" / "statistics.json").read_text())["longest_row"]
    data = f"dataset_dir={run / 'sft'}"
    nowhere = f"dataset_dir={run / 'none'}"
    for enough in (
        [data, f"cutoff_len={longest}"],
        [data, "cutoff_len=60", "tokenized_path=x"],
        [nowhere, "cutoff_len=60"],
    ):
        warn_of_cuts(RECIPE, enough)
    assert capsys.readouterr().err == ""
    warn_of_cuts(RECIPE, [data, f"cutoff_len={longest - 1}"])
    assert f"cutoff_len {longest - 1}, but the rows in {run / 'sft'} were made for {longest}" in capsys.readouterr().err


def test_inspect_shows_a_row_as_the_model_sees_it(
    run: Path, prepared: dict[Prepared, list[tuple[list[int], list[int]]]]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    tokens, labels = prepared[WAYS[0]][3]
    text = coloured(tokenizer, tokens, labels)
    assert text.plain == tokenizer.decode(tokens)
    asked, answered = text.spans
    assert (asked.style, answered.style) == ("dim", "bold green")
    assert text.plain[: asked.end].endswith("<|im_start|>assistant\n")
    assert text.plain[answered.start :] == tokenizer.decode([label for label in labels if label != -100])

    program = str(Path(sys.executable).with_name("llamafactory-gream"))
    settings = [f"model_name_or_path={run / 'model'}", f"dataset_dir={run / 'sft'}", "train_on_prompt=false"]
    done = call([program, "inspect", str(RECIPE), *settings, "--row", "3"])
    assert done.returncode == 0, done.stderr
    trained = sum(label != -100 for label in labels)
    heading, shown = done.stdout.split("\n", 1)
    assert heading.startswith(f"row 3: {len(tokens)} tokens, loss on {trained}")
    assert shown.strip() == text.plain.strip()


def test_a_moved_seam_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later LLaMA-Factory without a place the plugin uses: one line that names it and the tested version."""
    for name in ("llamafactory", "llamafactory.data", "llamafactory.data.converter"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with pytest.raises(GreamError, match=r"llamafactory\.data\.converter:DATASET_CONVERTERS has moved.*==0\.9\.5"):
        register()

    monkeypatch.setattr(seams, "SEAMS", (Seam("llamafactory.elsewhere", "launch"),))
    with pytest.raises(GreamError, match=r"llamafactory\.elsewhere:launch has moved"):
        seams.check_seams()

    monkeypatch.setattr(seams, "SEAMS", ())
    launcher, tuner = ModuleType("llamafactory.launcher"), ModuleType("llamafactory.train.tuner")
    launcher.launch = lambda: None  # type: ignore[attr-defined]
    tuner.run_exp = lambda args=None: None  # type: ignore[attr-defined]
    for module in (launcher, ModuleType("llamafactory.train"), tuner):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(GreamError, match=r"launcher:launch has moved \(it no longer reads __file__\)"):
        seams.check_seams(programs=True)


def test_torchrun_is_found_without_an_activated_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory_gream import cli, registration

    found = []
    package, launcher = ModuleType("llamafactory"), ModuleType("llamafactory.launcher")
    training, tuner = ModuleType("llamafactory.train"), ModuleType("llamafactory.train.tuner")
    launcher.launch = lambda: found.append(shutil.which("torchrun"))  # type: ignore[attr-defined]
    tuner.run_exp = lambda args=None, callbacks=None: None  # type: ignore[attr-defined]
    package.launcher, package.train, training.tuner = launcher, training, tuner  # type: ignore[attr-defined]
    for module in (package, launcher, training, tuner):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registration, "register", lambda: None)
    monkeypatch.setattr(seams, "check_seams", lambda programs: None)
    monkeypatch.setattr(worker, "with_callbacks", lambda run_exp: run_exp)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", ["llamafactory-gream"])
    cli._launch(["train", "recipe.yaml"])
    assert found == [str(Path(sys.executable).with_name("torchrun"))]


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
        "max_samples=200",
        *more,
    ]


def losses(output: Path) -> list[float]:
    rows = [json.loads(line) for line in (output / "trainer_log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.e2e
@pytest.mark.slow
def test_both_programs_train_alike(run: Path, tmp_path: Path) -> None:
    """Plain CLI on messages in one rank; plugin CLI on records, with its own template, in two: the same losses."""
    # Muon's products on a CPU are the plugin's alone to take in float32.
    steps = ["max_steps=3", "use_muon=false"]
    plain = call(train("llamafactory-cli", run, tmp_path / "plain", *steps, "per_device_train_batch_size=8"))
    assert plain.returncode == 0, plain.stderr[-3000:]
    settings = ["dataset=alignment_records", "template=gream", "per_device_train_batch_size=4"]
    ranks = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    plugin = call(train("llamafactory-gream", run, tmp_path / "plugin", *steps, *settings), **ranks)
    assert plugin.returncode == 0, plugin.stderr[-3000:]
    expected = losses(tmp_path / "plain")
    assert len(expected) == 3
    assert losses(tmp_path / "plugin") == pytest.approx(expected, abs=1e-4)
    # What the model says of itself goes along, whichever program trains.
    contract = read_contract(run / "model")
    assert contract is not None
    assert contract == read_contract(tmp_path / "plain") == read_contract(tmp_path / "plugin")


@pytest.mark.parametrize("shape", [(48, 80), (80, 48)])
def test_muon_takes_its_products_in_float32_on_a_cpu(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is Muon's polynomial of the gradient's singular values; LLaMA-Factory's own, in bfloat16, is near it."""
    import torch
    from llamafactory.third_party.muon import Muon, muon
    from llamafactory_gream.muon import full_precision_on_cpu

    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def step() -> torch.Tensor:
        weights = torch.nn.Parameter(torch.zeros(shape))
        weights.grad = gradient.clone()
        Muon(lr=1.0, wd=0.0, momentum=0.0, muon_params=[weights]).step()
        return weights.data / (-0.2 * max(shape) ** 0.5)

    left, values, right = torch.linalg.svd(gradient.double(), full_matrices=False)
    values /= values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = (left * values @ right).float()

    monkeypatch.setattr(muon, "zeropower_via_newtonschulz5", muon.zeropower_via_newtonschulz5)
    errors = [(step() - expected).abs().max()]
    full_precision_on_cpu()
    full_precision_on_cpu()
    errors.append((step() - expected).abs().max())
    assert errors[1] < 1e-5 < 1e-3 < errors[0] < 0.03


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

    # After the first checkpoint; and after the last, when nothing is left but to save.
    killed = tmp_path / "killed"
    for step in (4, 12):
        partial = killed / ".partial" / "s" / "trained"
        assert kill_when(stage(killed), partial / f"checkpoint-{step}" / "trainer_state.json")
        assert not (killed / "trained").exists()
    done = call(stage(killed))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "training is over" in done.stdout
    starts = (killed / "logs" / "s.log").read_text().split("\n$ ")[1:]
    assert ["Resuming training from" in start for start in starts] == [False, True, True]
    weights = "trained/model.safetensors"
    assert sha256_of(killed / weights) == sha256_of(undisturbed / weights)
    assert json.loads((killed / "trained" / "trainer_state.json").read_text())["global_step"] == 12
    # The last start, which only saves, does not say on which data the earlier ones have trained.
    assert not (killed / "trained" / "gream_data.json").exists()


@pytest.mark.e2e
def test_training_is_not_resumed_on_other_data(run: Path, tmp_path: Path) -> None:
    """The plain form run again on other data is refused in one line."""
    data, output = shutil.copytree(run / "sft", tmp_path / "sft"), tmp_path / "trained"
    settings = [f"dataset_dir={data}", "max_steps=2", "save_steps=2", "per_device_train_batch_size=4"]
    command = train("llamafactory-gream", run, output, *settings)
    assert call(command).returncode == 0
    weights = sha256_of(output / "model.safetensors")
    rows = (data / "alignment.jsonl").read_text().splitlines(keepends=True)
    (data / "alignment.jsonl").write_text("".join(rows[1:]))
    refused = call(command)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"error: {output}/checkpoint-2: trained on other data")
    assert sha256_of(output / "model.safetensors") == weights


def test_every_recipe_is_understood_by_llamafactory() -> None:
    """By its own parser, which refuses keys it does not know; what needs a GPU or DeepSpeed to parse is set aside."""
    recipes = sorted((ROOT / "recipes" / "sft").glob("*.yaml"))
    program = str(Path(sys.executable).with_name("llamafactory-gream"))
    done = call([program, "check", *map(str, recipes), "gradient_accumulation_steps=8"])
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-2000:]
    assert done.stdout.count("accepts it") == len(recipes)
    names = {path.stem for path in recipes}
    assert names >= {f"{name}_{stage}" for name in ("quickstart", "paper") for stage in ("alignment", "reasoning")}
    for recipe in recipes:
        settings = yaml.safe_load(recipe.read_text())
        assert settings["template"] == "qwen3_nothink", recipe
        # The curriculum is an order, and so are batches of like length.
        ordered = any(word in recipe.stem for word in ("reasoning", "scratch", "smollm2", "quickstart"))
        assert settings.get("disable_shuffling", False) == ordered, recipe


def test_a_recipe_that_llamafactory_refuses_is_one_line(tmp_path: Path) -> None:
    recipe, settings = tmp_path / "r.yaml", (ROOT / "recipes" / "sft" / "paper_alignment.yaml").read_text()
    for broken, said in (
        (settings.replace("do_train:", "do_trian:"), "do_trian"),
        (settings.replace("finetuning_type: full", "finetuning_type: whole"), "Invalid fine-tuning method"),
        (re.sub(r"deepspeed:(.*\n )+.*", "deepspeed: zero9.json", settings), "zero9.json"),
    ):
        assert broken != settings
        recipe.write_text(broken)
        with pytest.raises(GreamError, match=said):
            check(recipe, [])


def test_failing_command_names_its_log(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "gream", "stage", "s", f"--run={tmp_path}", "--output=x", "--"]
    done = call([*arguments, "bash", "-c", "echo why it failed; exit 3"])
    assert done.returncode == 2
    assert "why it failed" in done.stderr
    assert "ended with status 3" in done.stderr.splitlines()[-1]
    assert str(tmp_path / "logs" / "s.log") in done.stderr.splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_a_full_bar_is_not_shown_for_what_comes_after_it(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "gream", "stage", "s", f"--run={tmp_path}", "--output=x", "--"]
    bars = "Training: 17%|#6 | 3/18 [00:10<00:50", "Loading weights: 100%|##########| 35/35 [00:01<00:00"
    done = call([*arguments, "bash", "-c", 'for bar in "$@"; do echo "$bar"; sleep 6; done; exit 3', "bash", *bars])
    shown = [line.rpartition(",")[0] for line in done.stderr.splitlines() if line.startswith("  s: ")]
    assert "  s: training 3/18" in shown
    assert shown[-1] == "  s: at work"
