"""Typed configuration: one pydantic model per stage, read from YAML; an unknown key is an error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from gream.errors import GreamError, shown


class Config(BaseModel):
    """Base of every configuration: immutable, and without room for keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=Config)


def load_config(model: type[C], path: Path, overrides: Sequence[str] = ()) -> C:
    """Read ``path`` as YAML into ``model``.

    Args:
        model: The configuration class.
        path: YAML file.
        overrides: ``section.key=value`` strings that win over the file; values are parsed as YAML.

    Raises:
        GreamError: The file is missing or no YAML mapping, a key is unknown (the nearest valid key is named),
            or a value has the wrong type.
    """
    raw = read_yaml(path)
    for override in overrides:
        _apply_override(raw, override)
    return parse_config(model, raw, source=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        GreamError: The file is missing or no YAML mapping.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise GreamError(f"{path}: cannot be read ({error.strerror}); name an existing recipe") from None
    except UnicodeDecodeError as error:
        raise GreamError(f"{path}: not UTF-8 (byte {error.start + 1}); name a recipe, or save it as UTF-8") from None
    raw = _parse_yaml(text, source=str(path)) or {}
    if not isinstance(raw, dict):
        raise GreamError(f"{path}: a mapping of keys to values is expected, found {type(raw).__name__}")
    return raw


def parse_config(model: type[C], raw: dict[str, Any], *, source: str) -> C:
    """Validate ``raw`` as ``model``; ``source`` names its origin in the error line.

    Raises:
        GreamError: See `load_config`.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise GreamError(f"{source}: {_describe(model, error)}") from None


class _OnceEach(yaml.SafeLoader):
    """YAML whose keys stand once: of two, PyYAML takes the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See `yaml.SafeLoader`."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):  # refused below, where it cannot be a key
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key '{key.value[:40]}' stands twice; keep one", problem_mark=key.start_mark
                )
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def _parse_yaml(text: str, *, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_OnceEach)  # noqa: S506 - it is a SafeLoader
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or error
        raise GreamError(f"{source}{line}: not valid YAML ({problem})") from None
    # PyYAML lets through what a value makes of its own rules: dates of month 13, numbers of too many digits, keys that
    # cannot be keys, brackets in brackets without end.
    except (ValueError, TypeError, ArithmeticError, AttributeError, LookupError, RecursionError) as error:
        raise GreamError(f"{source}: not valid YAML ({type(error).__name__}: {error})") from None


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise GreamError(f"{shown(override)} is no override; write section.key=value")
    *parents, leaf = key.split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise GreamError(f"{shown(override)}: {shown(parent)} is a value, not a section")
        node = child
    # YAML has uses of its own for marks alone, such as | and ::, and for what starts like %d.%m.%Y.
    literal = re.fullmatch(r"[^\w\[\]{}'\"~]+", value) or value.startswith("%")
    node[leaf] = value if literal else _parse_yaml(value, source=shown(override))


def _describe(model: type[BaseModel], error: ValidationError) -> str:
    """The first problem of ``error`` in one line, with the nearest valid key for an unknown one."""
    first = error.errors()[0]
    location = first["loc"]
    name = ".".join(str(part) for part in location)
    if first["type"] != "extra_forbidden":
        return f"key '{name}': {first['msg'][:500]} (found {shown(first.get('input'))})"
    valid = list(_model_at(model, location[:-1]).model_fields)
    near = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.0)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown key '{name}'{hint} Valid keys: {', '.join(valid)}"


def _model_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        for candidate in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
                break
    return model
