"""The places in LLaMA-Factory that the plugin stands on; it has no plugin interface, so they can move."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from inspect import signature
from typing import Any

from gream.errors import GreamError

TESTED_VERSION = "0.9.5"

_SEAMS = {
    "llamafactory.data.converter": ("DATASET_CONVERTERS", "DatasetConverter", "register_dataset_converter"),
    "llamafactory.data.formatter": ("EmptyFormatter", "StringFormatter"),
    "llamafactory.data.template": ("TEMPLATES", "register_template"),
}
# Loading these two takes seconds and is left to the programs that need them.
_PROGRAM_SEAMS = {
    "llamafactory.launcher": ("launch",),
    "llamafactory.train.tuner": ("run_exp",),
}


def check_seams(*, programs: bool = False) -> None:
    """Make sure that every place the plugin uses is where it was.

    Args:
        programs: Also of launching and training.

    Raises:
        GreamError: One has moved; names it.
    """
    for module, names in (_SEAMS | (_PROGRAM_SEAMS if programs else {})).items():
        for name in names:
            _find(module, name)
    if programs:
        # The launcher starts torchrun on its own file; the plugin's worker takes that file's place.
        if "__file__" not in _find("llamafactory.launcher", "launch").__code__.co_names:
            raise _moved("llamafactory.launcher.launch no longer starts torchrun on __file__")
        if "callbacks" not in signature(_find("llamafactory.train.tuner", "run_exp")).parameters:
            raise _moved("llamafactory.train.tuner.run_exp no longer takes callbacks")


def _find(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise _moved(f"there is no module {error.name}") from None
    except AttributeError:
        raise _moved(f"there is no {module}.{name}") from None


def _moved(what: str) -> GreamError:
    return GreamError(
        f"llamafactory {version('llamafactory')} has moved a place the plugin uses: {what}; "
        f"install llamafactory=={TESTED_VERSION}, the version it is tested with"
    )
