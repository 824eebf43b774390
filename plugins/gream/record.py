"""What a stage was made of, as it is recorded beside its outputs, and how that differs from what is wanted now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

import gream
from gream.config import Config
from gream.errors import GreamError, shown
from gream.files import write_json
from gream.provenance import commit


class Identity(Config):
    """What determines a stage's outputs.

    Attributes:
        config: Configuration, as it comes back from JSON.
        inputs: SHA-256 of each input, by its role.
        code: Hash of each module, or version of each framework, by its name.
    """

    config: dict[str, Any]
    inputs: dict[str, str]
    code: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """What `write` wrote; None where there is none.

        Raises:
            GreamError: It is torn, or of something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise GreamError(
                f"{path}: no record of a stage as this version writes it; run again with --overwrite"
            ) from None

    def write(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    def changed_config(self, wanted: Identity) -> list[str]:
        """Each setting that differs, with both values."""
        return _changes(self.config, wanted.config)

    def changed_inputs(self, wanted: Identity) -> list[str]:
        """Roles whose content differs."""
        return _changed_keys(self.inputs, wanted.inputs)

    def changed_code(self, wanted: Identity) -> list[str]:
        """Modules and frameworks that differ."""
        return _changed_keys(self.code, wanted.code)


class Made(Config):
    """By which state of this package: its version, its commit, and the code that differed where outputs were kept."""

    version: str = gream.__version__
    commit: str | None = None
    code: dict[str, str] | None = None

    @staticmethod
    def now(code: dict[str, str] | None = None) -> Made:
        """By this one."""
        return Made(commit=commit(), code=code)


class Record(Identity):
    """``.stages/NAME.json``.

    Attributes:
        stage: Its name.
        outputs: SHA-256 of each output.
        seconds: Wall time of the run that made them.
        summary: See `gream.stage.Summary`.
        made: What made them.
        kept: States of the package that the outputs were accepted for with ``--keep``, though their code differed.
    """

    stage: str
    outputs: dict[str, str]
    seconds: float
    summary: dict[str, Any] | None = None
    made: Made
    kept: tuple[Made, ...] = ()


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` through JSON and back, so that tuples and lists compare equal to what was recorded."""
    value: dict[str, Any] = json.loads(json.dumps(dict(config)))
    return value


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    changes: list[str] = []
    for key in _changed_keys(old, new):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += _changes(before, after, f"{prefix}{key}.")
        else:
            changes.append(f"{prefix}{key}: {shown(before)} -> {shown(after)}")
    return changes


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
