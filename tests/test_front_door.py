"""``gream`` from any folder, installed as a wheel: every command answers, works, and shadows nobody's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from data_support import ROOT
from eval_support import make_run
from gream.cli import COMMANDS
from gream.errors import GreamError
from gream.recipes import describe_recipes, find_recipe
from verl_srpo.cli import environment

# What takes a second or more to import, and so must not be imported for help.
HEAVY = {"torch", "transformers", "polars", "numpy", "pydantic", "llamafactory", "verl", "ray", "sklearn", "fastapi"}


@dataclass(frozen=True)
class Installed:
    """The wheel, and an environment of its own in which nothing else of this project is installed."""

    wheel: Path
    bin: Path

    def call(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run an installed program from a folder that has nothing to do with the repository."""
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]], cwd="/", env=own, capture_output=True, text=True, timeout=300
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    source, environment = folder / "source", folder / "environment"
    source.mkdir()
    for name in ("plugins", "data_processing", "eval", "serving", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-index", "--no-deps"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", folder, source], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    subprocess.run([*pip, "--python", environment / "bin" / "python", "install", *offline, wheel], check=True)
    # Everything but this project from where it is; .pth files there, editable installs among them, are not read.
    [packages] = environment.glob("lib/python3*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(wheel, environment / "bin")


def test_the_wheel_takes_no_general_names_and_lacks_nothing(installed: Installed) -> None:
    files = set(zipfile.ZipFile(installed.wheel).namelist())
    packages = {name.split("/")[0] for name in files if ".dist-info/" not in name}
    ours = {"gream", "gream_data", "gream_eval", "gream_recipes", "gream_serving"}
    ours |= {"llamafactory_gream", "verl_srpo", "sglang_gream", "vllm_gream"}
    assert packages == ours
    folders = {"data_processing": "gream_data", "eval": "gream_eval", "serving": "gream_serving"}
    folders |= {"recipes": "gream_recipes", **{f"plugins/{name}": name for name in ours}}
    tracked = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in tracked.splitlines():
        folder = next(folder for folder in folders if path.startswith(f"{folder}/"))
        assert folders[folder] + path.removeprefix(folder) in files, path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(installed: Installed, name: str) -> None:
    done = installed.call("gream", name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Usage: gream {name}" in done.stdout


def test_help_names_every_command_and_imports_no_framework(installed: Installed) -> None:
    code = (
        "import sys; from gream.cli import main; sys.argv = ['gream', '--help']\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = installed.call("python", "-c", code)
    assert all(name in done.stdout for name in COMMANDS)
    assert not set(done.stderr.split()) & HEAVY


def test_commands_work_from_any_folder(installed: Installed, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    done = installed.call("gream", "eval", "baselines", "--run", str(run))
    assert done.returncode == 0, done.stderr
    table = installed.call("gream", "eval", "table", "--run", str(run))
    assert table.returncode == 0, table.stderr
    assert "popularity" in table.stdout
    assert f'"command":"gream eval baselines --run {run}"' in (
        (run / "eval" / "popularity" / "metrics.json").read_text().replace('": "', '":"')
    )
    # A recipe by its name, where no folder of recipes is.
    shop = ["--run", str(tmp_path / "shop"), "synthesize.users=50", "synthesize.items=64"]
    done = installed.call("gream", "data", "synthesize", "--config", "quickstart", *shop)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shop" / "raw" / "reviews.json.gz").exists()


def test_serving_needs_no_folder_of_the_repository(installed: Installed, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for command in (["recommend"], ["eval", "recommend"]):
        done = installed.call("gream", *command, "--run", str(run), "--checkpoint", "nowhere", "--item", "B00001")
        assert done.returncode == 2
        # Past every import: the model is what is missing.
        assert done.stderr.startswith("error: nowhere: no config.json; "), done.stderr


def test_a_wrong_command_or_recipe_is_named(installed: Installed, tmp_path: Path) -> None:
    done = installed.call("gream", "evaluate")
    assert done.returncode == 2
    assert "No such command 'evaluate'" in done.stderr
    done = installed.call("gream", "data", "synthesize", "--config", "fast", "--run", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        "error: fast: no such file, and no recipe by that name; "
        "there are beauty_scratch, paper, quickstart, smollm2, tiny\n"
    )


def test_what_a_bare_wheel_lacks_is_one_line(tmp_path: Path) -> None:
    code = "import sys; sys.modules['yaml'] = None; from gream.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "synthesize", "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: yaml is not installed: ")
    assert len(done.stderr.splitlines()) == 1


def test_recipes_are_copied_whole_and_never_over_others(installed: Installed, tmp_path: Path) -> None:
    done = installed.call("gream", "recipes", str(tmp_path / "mine"))
    assert done.returncode == 0, done.stderr
    made = {path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine").glob("*/*")}
    assert made == {
        path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").glob("*/*.*") if path.suffix != ".pyc"
    }
    done = installed.call("gream", "recipes", str(tmp_path / "mine"))
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {tmp_path}/mine: exists already; name a folder that does not\n",
    )
    assert "quickstart_reasoning" in installed.call("gream", "recipes").stdout


@pytest.mark.parametrize(
    ("name", "overrides", "folder", "cpu"),
    [
        ("quickstart", [], "runs/quickstart/checkpoints/srpo", True),
        ("quickstart_vllm", [], "runs/quickstart/checkpoints/srpo_vllm", True),
        ("paper", ["run_folder=runs/x", "+ray_kwargs.ray_init.num_cpus=4", "--cfg"], "runs/x/checkpoints/srpo", False),
        ("quickstart", ["trainer.device=cuda", "trainer.default_local_dir=out"], "out", False),
    ],
)
def test_rl_sets_what_verl_reads_before_its_configuration(
    name: str, overrides: list[str], folder: str, cpu: bool
) -> None:
    variables = environment(find_recipe("rl", name), overrides)
    assert variables == {
        "VERL_USE_EXTERNAL_MODULES": "verl_srpo.plugin",
        "VERL_FILE_LOGGER_PATH": f"{folder}/metrics.jsonl",
        **({"VERL_PLATFORM": "cpu"} if cpu else {}),
    }


def test_rl_runs_verls_own_program_on_the_recipe(installed: Installed, tmp_path: Path) -> None:
    """With a stand-in for verl that says how it was called; test_srpo_recipes composes the recipes themselves."""
    (tmp_path / "verl" / "trainer").mkdir(parents=True)
    (tmp_path / "verl" / "__init__.py").touch()
    (tmp_path / "verl" / "trainer" / "__init__.py").touch()
    said = "import os, sys; print(*sys.argv[1:], os.environ['VERL_PLATFORM'], os.environ['VERL_FILE_LOGGER_PATH'])"
    (tmp_path / "verl" / "trainer" / "main_ppo.py").write_text(said)
    call = ("gream", "rl", "quickstart", "data.train_batch_size=4", "--cfg", "job")
    done = installed.call(*call, PYTHONPATH=str(tmp_path), VERL_FILE_LOGGER_PATH="mine.jsonl")
    assert done.returncode == 0, done.stderr
    recipes = installed.call("python", "-c", "import gream_recipes; print(*gream_recipes.__path__)").stdout.strip()
    assert done.stdout.split() == [
        *("--config-dir", f"{recipes}/rl", "--config-name", "quickstart"),
        *("data.train_batch_size=4", "--cfg", "job", "cpu", "mine.jsonl"),
    ]


def test_a_recipe_is_a_path_or_the_name_of_its_kind(tmp_path: Path) -> None:
    assert find_recipe("rl", "quickstart") == ROOT / "recipes" / "rl" / "quickstart.yaml"
    (tmp_path / "own.yaml").write_text("{}")
    assert find_recipe("sft", tmp_path / "own.yaml") == tmp_path / "own.yaml"
    with pytest.raises(GreamError, match="quickstart_alignment: no such file"):
        find_recipe("rl", "quickstart_alignment")


@pytest.mark.slow
def test_doctor_finds_both_frameworks_and_both_plugins(installed: Installed) -> None:
    done = installed.call("gream", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("registered") == 2


def test_recipes_are_listed_by_a_whole_sentence() -> None:
    for _, name, said in describe_recipes():
        assert said.endswith(".") and "\n" not in said and len(said) < 250, (name, said)
