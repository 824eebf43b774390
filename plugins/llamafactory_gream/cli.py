"""``llamafactory-gream ARGS``: ``llamafactory-cli ARGS`` with the plugin registered, in every rank.

``llamafactory-gream order OUTPUT_DIR FILE`` says whether a run consumed the rows of FILE in their order.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gream.errors import GreamError, exit_with_error_line


def main() -> None:
    """Register the plugin and hand over to LLaMA-Factory's launcher."""
    exit_with_error_line(_order if sys.argv[1:2] == ["order"] else _launch)


def _launch() -> None:
    from llamafactory_gream import worker
    from llamafactory_gream.registration import register

    register()
    from llamafactory import launcher
    from llamafactory.train import tuner

    # The launcher starts torchrun on its own file; our worker registers the plugin in each rank first.
    launcher.__file__ = worker.__file__
    # Without torchrun it imports this function and calls it.
    tuner.run_exp = worker.with_callbacks(tuner.run_exp)
    launcher.launch()


def _order() -> None:
    from llamafactory_gream.order import compare_order, file_order, read_order

    if len(sys.argv) != 4:
        raise GreamError("usage: llamafactory-gream order OUTPUT_DIR FILE.jsonl")
    print(compare_order(read_order(Path(sys.argv[2])), file_order(Path(sys.argv[3]))))
