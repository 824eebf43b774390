"""What each torchrun rank runs in place of LLaMA-Factory's own launcher: register, then train with our callbacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gream.errors import exit_with_error_line

from llamafactory_gream.registration import register


def with_callbacks(run_exp: Callable[..., None]) -> Callable[[], None]:
    """LLaMA-Factory's training with the plugin's callbacks.

    Args:
        run_exp: ``llamafactory.train.tuner.run_exp``.
    """
    from llamafactory_gream.added_rows import train_added_rows
    from llamafactory_gream.muon import full_precision_on_cpu
    from llamafactory_gream.order_log import OrderLog
    from llamafactory_gream.resume import DataGuard, stop_where_over

    stop_where_over()
    train_added_rows()
    full_precision_on_cpu()
    # Refused data must not have touched the log of what was trained on.
    callbacks: list[Any] = [DataGuard(), OrderLog()]
    return partial(run_exp, callbacks=callbacks)


if __name__ == "__main__":
    register()
    from llamafactory.train.tuner import run_exp

    exit_with_error_line(with_callbacks(run_exp))
