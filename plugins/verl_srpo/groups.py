"""Variance-guided dynamic sampling (paper section 3.4): which groups are worth a step, and how many more to ask for.

A group whose rollouts are all rewarded alike has no advantage and teaches nothing. With ``algorithm.filter_groups`` on,
such groups are replaced by others, generation after generation, until the batch is full. What is kept beyond the batch
opens the next one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gream.config import Config, parse_config
from gream.errors import GreamError
from pydantic import Field

SECTION = "algorithm.filter_groups"


class GroupSelection(Config):
    """verl's section ``algorithm.filter_groups``, as this plugin reads it.

    Attributes:
        enable: Whether groups that do not differ are replaced.
        metric: What must differ inside a group: "reward", or the name of a part of the reward.
        max_num_gen_batches: Generations that a step may take; the paper's code allows 10.
        max_inflight_gen_batches: Largest generation, in batches.
    """

    enable: bool = False
    metric: str = "reward"
    max_num_gen_batches: int = Field(default=0, ge=0)
    max_inflight_gen_batches: int = Field(default=1, ge=1)


def read_selection(algorithm: Mapping[str, Any]) -> GroupSelection | None:
    """How groups are selected; None where all of them are taken.

    Args:
        algorithm: verl's ``config.algorithm``.

    Raises:
        GreamError: The section is wrong, or leaves the number of generations without a bound.
    """
    section = algorithm.get("filter_groups") or {}
    selection = parse_config(
        GroupSelection, {str(key): section[key] for key in section if key != "_target_"}, source=SECTION
    )
    if not selection.enable:
        return None
    if not selection.max_num_gen_batches:
        raise GreamError(
            f"{SECTION}.max_num_gen_batches is 0, no bound: where no group differs, a step would generate for ever; "
            "set it (the paper's code: 10)"
        )
    return selection


@dataclass
class GenerationTally:
    """What the generations of one step brought.

    Attributes:
        generations: Number of them.
        kept: Groups that differ.
        flat: Groups that do not, by the value their rollouts share.
        rollouts: Rollouts in all of these groups.
        sums: Sums over these rollouts: the reward, and each of its parts.
    """

    generations: int = 0
    kept: int = 0
    flat: Counter[float] = field(default_factory=Counter)
    rollouts: int = 0
    sums: Counter[str] = field(default_factory=Counter)

    @property
    def replaced(self) -> int:
        """Groups that do not differ."""
        return sum(self.flat.values())

    def add(self, metric: str, rewards: Sequence[float], parts: Sequence[Mapping[str, float]]) -> bool:
        """Count a group.

        Args:
            metric: See `GroupSelection`.
            rewards: Of its rollouts.
            parts: Of its rollouts.

        Returns:
            Whether the group is kept.

        Raises:
            GreamError: The reward has no such part.
        """
        if metric != "reward" and metric not in parts[0]:
            raise GreamError(
                f"{SECTION}.metric: '{metric}' is no part of the reward; parts: reward, {', '.join(parts[0])}"
            )
        self.rollouts += len(rewards)
        for reward, part in zip(rewards, parts, strict=True):
            self.sums["reward"] += reward  # type: ignore[assignment]
            self.sums.update(part)  # type: ignore[arg-type]
        values = list(rewards) if metric == "reward" else [part[metric] for part in parts]
        if min(values) < max(values):
            self.kept += 1
            return True
        self.flat[values[0]] += 1
        return False

    def next_size(self, missing: int, largest: int) -> int:
        """Prompts to ask for next: as many as should fill the batch at the rate of this step, ``largest`` at most."""
        seen = self.kept + self.replaced
        return min(math.ceil(missing * seen / max(self.kept, 1)) if seen else missing, largest)

    def metrics(self, *, surplus: int, carried: int) -> dict[str, float]:
        """As verl logs them.

        Args:
            surplus: Groups left for the next step.
            carried: Groups of the batch that an earlier step left.
        """
        return {
            "srpo/groups/generations": float(self.generations),
            "srpo/groups/generated": float(self.kept + self.replaced),
            "srpo/groups/kept": float(self.kept),
            "srpo/groups/replaced": float(self.replaced),
            "srpo/groups/carried": float(carried),
            "srpo/groups/surplus": float(surplus),
            # The batch's own reward is that of the groups that were kept.
            "srpo/groups/reward_generated": self.sums["reward"] / self.rollouts if self.rollouts else 0.0,
        }

    def shortage(self, metric: str, *, step: int, groups: int, wanted: int) -> GreamError:
        """The end of a run whose generations do not fill a batch.

        Args:
            metric: See `GroupSelection`.
            step: Training step.
            groups: Groups at hand, those of the step before included.
            wanted: Groups of a batch.
        """
        shared = ", ".join(f"{count} at {value:.4g}" for value, count in self.flat.most_common(5))
        means = ", ".join(f"{name} {total / self.rollouts:.4g}" for name, total in self.sums.items())
        return GreamError(
            f"step {step}: {self.generations} generations of {self.kept + self.replaced} groups gave {groups} of "
            f"{wanted} groups whose {metric} differs; {self.replaced} did not differ ({shared}); means of all "
            f"{self.rollouts} rollouts: {means}. Raise {SECTION}.max_num_gen_batches, "
            f"actor_rollout_ref.rollout.n or .temperature, or set {SECTION}.enable=false; "
            "the last checkpoint can be resumed with either"
        )
