"""Whatever a recipe or an override holds, it is a configuration or one line of bounded length."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from data_support import ROOT, call, command
from gream.config import load_config
from gream.errors import LONGEST, GreamError, shown
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_processing.config import DataRecipe

RECIPE = ROOT / "recipes" / "data" / "quickstart.yaml"
KEYS = (
    "seed",
    "sft.history",
    "model.layers",
    "embed.model",
    "sft.curriculum.tasks",
    "interactions.columns.user",
    "x.y",
)
# Pieces that YAML gives a meaning to.
PIECES = st.sampled_from(
    (
        *(
            "[",
            "]",
            "{",
            "}",
            "? ",
            ": ",
            "- ",
            "&a ",
            "*a",
            "!!binary ",
            "!!python/x ",
            "!!float ",
            "|",
            ">",
            "%",
            "@",
        ),
        *(
            "\n",
            "\t",
            "'",
            '"',
            "#",
            ",",
            "2001-13-45",
            "1e999",
            ".inf",
            "0x",
            "9" * 5000,
            "0x" + "f" * 5000,
            "~",
            "<<",
        ),
        *("\x00", "\x85", "\ud800", "é", "@", "null", "~", "1_0", "0o9", "1:99", "!!timestamp 9", "!!set ", "!!omap "),
    )
)
VALUES = st.lists(PIECES | st.text(max_size=5), max_size=8).map("".join)
BOMB = "\n".join(["a0: &a0 [x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)])


def refused(path: Path, *overrides: str) -> str:
    """The error line; empty where it is a configuration."""
    try:
        load_config(DataRecipe, path, overrides)
    except GreamError as error:
        said = str(error)
        assert said.isprintable() and 0 < len(said) <= LONGEST
        return said
    return ""


@settings(max_examples=300)
@given(st.sampled_from(KEYS) | VALUES, VALUES)
@example("sft.history", "[")
@example("sft.history", "[" * 5000)
@example("seed", "2001-13-45")
@example("seed", "0x" + "f" * 20000)
@example("seed", "!!timestamp 9")
@example("seed", "x" * 1_000_000)
def test_an_override_is_a_value_or_one_line(key: str, value: str) -> None:
    refused(RECIPE, f"{key}={value}")


@settings(max_examples=200)
@given(content=(VALUES.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40)))
@example(content=b"\xff\xfe")
@example(content=b"\x7fELF\x02\x01\x01\x00")
@example(content=BOMB.encode())
@example(content=("seed: " + BOMB.replace("\n", "\nseed: ")).encode())
@example(content="seed: ä".encode("latin-1"))
def test_a_recipe_is_a_configuration_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content)
    refused(path)


def test_what_is_shown_is_cut_whatever_it_is() -> None:
    nested: object = "x"
    for _ in range(40):
        nested = [nested, nested]
    random.seed(0)
    for value in (nested, 16**5000, "x" * 10**6, {"k" * 1000: nested}, b"x" * 10**6):
        assert len(shown(value)) < 1000
    assert len(str(GreamError("a" * 10**7 + " remedy"))) <= LONGEST
    assert str(GreamError("a" * 10**7 + " remedy")).endswith(" remedy")
    assert str(GreamError("one\ntwo\x1b[31m")) == "one two [31m"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x7fELF\x02\x01\x01\x00" * 100])
def test_the_command_ends_with_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    broken = command("synthesize", tmp_path / "run")
    broken[broken.index("--config") + 1] = str(tmp_path / "r.yaml")
    for arguments in (broken, command("synthesize", tmp_path / "run", "synthesize.users=[")):
        done = call(arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("error: ")
