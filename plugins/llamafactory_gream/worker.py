"""What each torchrun rank runs in place of LLaMA-Factory's own launcher: register, then train with our callbacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llamafactory_gream.registration import register


def with_callbacks(run_exp: Callable[..., None]) -> Callable[[], None]:
    """LLaMA-Factory's training with the plugin's callbacks.

    Args:
        run_exp: ``llamafactory.train.tuner.run_exp``.
    """
    from llamafactory_gream.order_log import OrderLog

    callbacks: list[Any] = [OrderLog()]
    return partial(run_exp, callbacks=callbacks)


if __name__ == "__main__":
    register()
    from llamafactory.train.tuner import run_exp

    with_callbacks(run_exp)()
