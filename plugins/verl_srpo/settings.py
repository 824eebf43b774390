"""What SRPO is configured by: the section ``algorithm.srpo`` of verl's configuration, typed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from gream.config import Config, parse_config
from gream.errors import GreamError
from pydantic import Field

SECTION = "algorithm.srpo"

# Reward where all levels are right and only the disambiguation token is wrong (paper section 3.4).
NEAR_MISS = 0.95


class SrpoSettings(Config):
    """SRPO hyper-parameters (paper section 3.4).

    Attributes:
        catalog: Path of the ``index.json`` whose items are the possible answers.
        reward_table: Rewards of 1, 2, ... H-1 matching levels; by default sqrt(L / H) for L of H levels.
        near_miss: Reward where all levels are right and only the disambiguation token is wrong.
        pass_at: K of the pass@K bonus.
        bonus_weight: Factor of the pass@K bonus; 0 leaves plain GRPO.
        epsilon: Added to every standard deviation that is divided by.
        rollout_timeout: Seconds without a new rollout after which the run ends.
        logged_groups: Groups of each step that are written to ``trainer.rollout_data_dir``, if that is set.
    """

    catalog: str
    reward_table: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...] | None = None
    near_miss: float = Field(default=NEAR_MISS, ge=0.0, le=1.0)
    pass_at: int = Field(default=4, ge=1)
    bonus_weight: float = Field(default=1.0, ge=0.0)
    epsilon: float = Field(default=1e-6, gt=0.0)
    rollout_timeout: float = Field(default=1800.0, gt=0.0)
    logged_groups: int = Field(default=8, ge=1)


def read_settings(algorithm: Mapping[str, Any]) -> SrpoSettings:
    """The SRPO settings inside verl's ``algorithm`` section.

    Args:
        algorithm: verl's ``config.algorithm`` (a DictConfig, or any mapping).

    Raises:
        GreamError: The section ``algorithm.srpo`` is missing or wrong.
    """
    section = algorithm.get("srpo")
    if section is None:
        raise GreamError(f"{SECTION} is missing; it needs at least catalog, the path of an index.json")
    return parse_config(SrpoSettings, {str(key): section[key] for key in section}, source=SECTION)
