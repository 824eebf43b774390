"""Says that a server runs on the stand-in, and lets ``--enable-deterministic-inference`` start with ``torch_native``.

Torch's attention reads one sequence at a time, so its results do not depend on the batch; the batch-invariant matrix
products of SGLang are GPU kernels and stay off, so that products over batches of other sizes may differ by rounding.
"""

import logging


def register() -> None:
    """What SGLang calls in each of its processes."""
    from sglang.srt import server_args
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    logging.getLogger(__name__).warning("SGLang runs on this project's CPU stand-in for sglang-kernel: for tests only")
    if "torch_native" not in server_args.DETERMINISTIC_ATTENTION_BACKEND_CHOICES:
        server_args.DETERMINISTIC_ATTENTION_BACKEND_CHOICES.append("torch_native")
    HookRegistry.register(
        "sglang.srt.batch_invariant_ops.enable_batch_invariant_mode", lambda *_, **__: None, HookType.REPLACE
    )
