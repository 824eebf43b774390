"""The entry point: verl imports this module in each of its processes, and SRPO is registered by that import alone.

verl finds it through the entry-point group ``verl.plugins`` or the variable ``VERL_USE_EXTERNAL_MODULES``. It swallows
what an entry point raises, so a plugin that cannot load says why and ends the process.
"""

from __future__ import annotations

import os
import sys

from gream.seams import check_seams, loading, untested

NAME = "srpo"
TRAINER_NAME = "srpo_sync"


def registered() -> dict[str, bool]:
    """Whether this process's verl knows the reward manager, the advantage estimator and the trainer."""
    from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    return {
        "reward manager": NAME in REWARD_MANAGER,
        "advantage estimator": NAME in ADV_ESTIMATOR_REGISTRY,
        "trainer": TRAINER_NAME in TRAINER_REGISTRY,
    }


def _register() -> None:
    import verl

    from verl_srpo.seams import ALGORITHM_SEAMS, CPU_SEAMS

    on_cpu = os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
    if on_cpu:
        # The platform before anything else, since verl's modules ask for it while they are imported; the network before
        # verl's workers, which take its function by name.
        import verl_srpo.cpu.platform

        check_seams(CPU_SEAMS, package="verl", version=verl.__version__)
        import verl_srpo.cpu.network
    check_seams(ALGORITHM_SEAMS, package="verl", version=verl.__version__)
    if warning := untested("verl", verl.__version__):
        print(f"warning: {warning}", file=sys.stderr, flush=True)

    from verl.trainer.ppo.core_algos import register_adv_est

    import verl_srpo.reward_manager
    import verl_srpo.trainer
    from verl_srpo.advantage import srpo_advantage

    register_adv_est(NAME)(srpo_advantage)
    if on_cpu:
        import verl_srpo.cpu.agent_loop
        import verl_srpo.cpu.engine
        import verl_srpo.cpu.rollout
        import verl_srpo.cpu.vllm_package  # noqa: F401
    else:
        from verl_srpo.engine import register_for_gpus

        register_for_gpus()


with loading("verl_srpo", "verl"):
    _register()
