"""Commands that pages and scripts show: each exists, with its options, its stages and the keys that it overrides."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
from gream.cli import COMMANDS
from pydantic import BaseModel

from data_processing.config import DataRecipe
from data_processing.plans import Stage

ROOT = Path(__file__).parents[1]
# Experiments are left out: they show the commands of their time.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = [path for path in sorted(ROOT.glob("scripts/**/*.sh")) if path.read_text().startswith("#!")]
OURS = ("gream ", "llamafactory-gream ", "bash scripts/", "python -m eval ", "python -m data_processing ")
OURS += ("python -m gream ", "python -m verl_srpo.report ", "python -m verl.trainer.main_ppo ")
# What runs a command that a page shows: the first pattern that fits, with a test file and a text in it as proof; or
# what it needs and no test has, in a word that stands in the same section of the page.
RUN_BY = (
    (r"bash scripts/quickstart.sh --reviews", "dump"),
    (r"bash scripts/quickstart.sh .*--base", "pretrained"),
    (r"bash scripts/quickstart.sh", "test_quickstart.py: quickstart.sh"),
    (r"bash scripts/reproduce_beauty.sh .*(--tiny|--dry-run)", "test_reproduce.py: --tiny"),
    (r"bash scripts/(reproduce_|gpu_proofs)", "GPU"),
    (r"bash scripts/from_nothing.sh", "published"),
    (r"bash scripts/(install|pins).sh", "test_install.py: install.sh"),
    (r"bash scripts/deploy.sh", "test_server_deploy.py: deploy.sh"),
    (r"bash scripts/bench/gpu.sh", "test_gpu_script.py: gpu.sh"),
    (r"bash scripts/test.sh", "test"),  # runs this very test
    (r"gream doctor", 'test_front_door.py: "doctor"'),
    (r"gream (--help|recipes|preflight|rl)", "test_front_door.py: --help"),
    (r"gream data (enrich|chains) .*--base-url", "test_model_teacher.py: --base-url"),
    (r"gream data embed .*language-model", "test_encoders.py: language-model"),
    (r"gream data embed .*--ray", "test_encoders.py: --ray"),
    (r"gream data .*--previous", "test_data_stages.py: --previous"),
    (r"gream data model .*--base", "test_data_stages.py: base="),
    (r"gream model get", 'test_pretrained.py: get_model("smollm2"'),
    (
        r"gream data (quality|export)|gream data interactions .*published",
        "test_published.py: interactions.format=published",
    ),
    (r"gream data sft .*chains=model", "test_reasoning.py: sft.chains=model"),
    (r"gream data", "test_data_stages.py: synthetic_run"),
    (r"(gream|llamafactory-gream) assemble", "test_assembly.py: assemble"),
    (r"(gream|llamafactory-gream) (inspect|check)", 'test_llamafactory_plugin.py: "inspect"'),
    (r"(gream|llamafactory-gream) train", 'test_llamafactory_plugin.py: "train"'),
    (r"gream checkpoint", "test_checkpoints.py: checkpoint"),
    (r"gream stage", "test_stage_processes.py: stage"),
    (r"gream report|gream eval (baselines|table|report|rewards)", 'test_eval_cli.py: "report"'),
    (r"(gream|python -m) eval sasrec", 'test_eval_sasrec.py: "sasrec"'),
    (r"gream eval (direct|reasoning|sampled)", 'test_eval_modes.py: "sampled"'),
    (r"gream eval compare", 'test_eval_compare.py: "compare"'),
    (r"gream eval import", 'test_eval_lists.py: "import"'),
    (r"gream eval remote", 'test_server_evaluate.py: "remote"'),
    (r"gream recommend", 'test_recommend.py: "--user"'),
    (r"gream serve", 'test_service.py: "serve"'),
    (r"gream shop", 'test_shop.py: "--look"'),
    (r"python -m verl.trainer.main_ppo .*(paper|nnodes)", "GPU"),
    (r"python -m verl.trainer.main_ppo", "test_srpo_e2e.py: main_ppo"),
    (r"python -m verl_srpo.report", "test_srpo_report.py: report"),
)
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|\$.+")


def shown_commands(page: str) -> Iterator[list[str]]:
    """Words of each command in a block or in running text, without variables before it and comments behind it.

    ``a|b`` in one word stands for two commands.
    """
    text = re.sub(r"\\\n\s*", "", page)
    lines = re.findall(r"^(?: {4,}|[$] )(.+)$", text, flags=re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    for line in lines:
        command = re.sub(r"^(?:[A-Z_]+=\S* +)*", "", line.strip())
        if not command.startswith(OURS):
            continue
        command = re.split(r" +# | > | [|] | && |; ", command.replace("\\|", "|"))[0]
        words = [word for word in shlex.split(command) if word not in ("...", "URL...")]
        alternatives = next((word for word in words if re.fullmatch(r"[a-z-]+([|][a-z-]+)+", word)), "")
        for one in alternatives.split("|"):
            yield [one if word == alternatives else word for word in words]


def in_repository(module: str) -> str:
    """A module of a folder that goes by another name where it is installed."""
    return module.replace("gream_data", "data_processing").replace("gream_", "")


def app_of(words: list[str]) -> tuple[str, list[str]]:
    """Module of the app that a command runs, and the words that are for it."""
    if words[0] == "llamafactory-gream":
        return "llamafactory_gream.cli", words[1:]
    if words[0] == "gream" or words[:3] == ["python", "-m", "gream"]:
        name, *rest = words[1:] if words[0] == "gream" else words[3:]
        command = COMMANDS[name]
        return in_repository(command.module), rest if command.alone else [name, *rest]
    return f"{words[2]}.__main__" if words[2] in ("eval", "data_processing") else words[2], words[3:]


def insist_on(words: list[str]) -> None:
    """Every subcommand, option and stage is the app's, every override a key of the recipe."""
    if words == ["gream", "--help"]:
        return
    module, rest = app_of(words)
    command: Any = typer.main.get_command(import_module(module).app)
    if hasattr(command, "commands"):
        if not rest or PLACEHOLDER.fullmatch(rest[0]) or rest[0] == "--help":
            return
        name, *rest = rest
        if module == "eval.__main__" and name in ("recommend", "serve"):
            command = typer.main.get_command(import_module("serving.__main__").app)
        command = command.commands[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    own = rest[: rest.index("--")] if "--" in rest else rest
    for word in own:
        assert not word.startswith("-") or word.partition("=")[0] in options | {"--help"}, word
    if module == "data_processing.__main__" and own:
        assert own[0] in set(Stage) or PLACEHOLDER.fullmatch(own[0]), own[0]
        for word in own:
            if re.match(r"[a-z_]+([.]\w+)+=", word):
                insist_on_key(word.partition("=")[0])


def insist_on_key(key: str) -> None:
    """A key of the data recipe."""
    model: Any = DataRecipe
    for part in key.split("."):
        assert part in model.model_fields, key
        annotation = model.model_fields[part].annotation
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        model = next((kind for kind in kinds if issubclass(kind, BaseModel)), None)


@cache
def help_of(script: Path) -> str:
    """What a shell script says of itself."""
    done = subprocess.run(["bash", script, "--help"], cwd="/", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    for words in shown_commands(page.read_text(encoding="utf-8")):
        try:
            if words[0] == "bash":
                if not re.search("NAME|{", words[1]):
                    own = words[: words.index("--")] if "--" in words else words
                    assert {word for word in own if word.startswith("--")} <= set(help_of(ROOT / words[1]).split()) | {
                        "--help"
                    }
            elif words[2:3] == ["verl.trainer.main_ppo"]:
                name = words[words.index("--config-name") + 1]
                assert PLACEHOLDER.fullmatch(name) or (ROOT / "recipes" / "rl" / f"{name}.yaml").exists(), name
            else:
                insist_on(words)
        except (AssertionError, LookupError, ValueError) as error:
            raise AssertionError(f"{page.name}: {shlex.join(words)}: {error!r}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_are_run_by_a_test_or_say_what_they_need(page: Path) -> None:
    for section in re.split(r"^(?=#+ )", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        for words in shown_commands(section):
            command = shlex.join(words).replace("'", "")
            proof = next((proof for pattern, proof in RUN_BY if re.match(pattern, command)), None)
            assert proof, f"{page.name}: {command}: say in RUN_BY what runs it"
            test, _, text = proof.partition(": ")
            shown = (ROOT / "tests" / test).read_text(encoding="utf-8") if text else section
            assert (text or test) in shown, f"{page.name}: {command}: {proof}"


def test_commands_are_found_at_all() -> None:
    """So that another layout of the pages does not leave the test above with nothing to look at."""
    found = [shlex.join(words) for page in PAGES for words in shown_commands(page.read_text(encoding="utf-8"))]
    for program in ("gream eval ", "gream data ", "python -m ", "llamafactory-gream ", "bash scripts/"):
        assert sum(command.startswith(program) for command in found) >= 3, program


@pytest.mark.parametrize(
    "wrong", ["python -m eval dircet --run X", "gream eval table --runs X", "gream nothing", "gream data embedd"]
)
def test_a_wrong_command_is_noticed(wrong: str) -> None:
    with pytest.raises((AssertionError, LookupError)):
        insist_on(wrong.split())


def test_a_wrong_key_is_noticed() -> None:
    insist_on_key("embed.encoder")
    with pytest.raises(AssertionError):
        insist_on_key("embed.encodre")


APPS = {command.module for command in COMMANDS.values()} | {"gream_eval.__main__", "verl_srpo.report"}


@pytest.mark.parametrize("module", sorted(APPS))
def test_every_command_and_option_says_what_it_is(module: str) -> None:
    """Without the option's name beside it: a help text that begins with "Of" needs its neighbours to be understood."""
    module = in_repository(module)
    program: Any = typer.main.get_command(import_module(module).app)
    for command in getattr(program, "commands", {module: program}).values():
        assert command.help, command.name
        for parameter in command.params:
            said = parameter.help or ""
            assert len(said.split()) >= 2 and not said.startswith(("Of ", "Likewise")), (command.name, parameter.name)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_has_help_that_names_its_options(script: Path) -> None:
    said = help_of(script)
    assert re.search(r"^usage: .*bash scripts/", said, flags=re.MULTILINE)
    assert re.search(r"^example: .*bash scripts/", said, flags=re.MULTILINE)
    code = script.read_text() + (script.with_name("reproduce.sh").read_text() if "reproduce_" in script.name else "")
    handled = re.findall(r"^\s+(--[a-z-]+(?: \| --[a-z-]+)*)\)", code, flags=re.MULTILINE)
    for option in {option for alternatives in handled for option in alternatives.split(" | ")}:
        assert option in said, option
