"""``llamafactory-gream ARGS``: ``llamafactory-cli ARGS`` with the plugin registered, in every rank."""

from __future__ import annotations

from gream.errors import exit_with_error_line


def main() -> None:
    """Register the plugin and hand over to LLaMA-Factory's launcher."""
    exit_with_error_line(_launch)


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
