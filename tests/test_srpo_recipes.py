"""Every shipped RL recipe composes with verl's own configuration, passes its checks, and holds the paper's values."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

RECIPES = Path(__file__).resolve().parent.parent / "recipes" / "rl"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))

# Paper section 4 and the official code's settings.
PAPER = {
    "algorithm.adv_estimator": "srpo",
    "algorithm.srpo.pass_at": 4,
    "algorithm.filter_groups.enable": True,
    "algorithm.filter_groups.max_num_gen_batches": 10,
    "data.train_batch_size": 256,
    "data.max_prompt_length": 768,
    "data.truncation": "left",
    "data.max_response_length": 1560,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 64,
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.clip_ratio_high": 0.2,
    "actor_rollout_ref.actor.clip_ratio_c": 10.0,
    "actor_rollout_ref.actor.loss_agg_mode": "token-mean",
    "actor_rollout_ref.actor.entropy_coeff": 0,
    "actor_rollout_ref.actor.use_kl_loss": True,
    "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
    "actor_rollout_ref.actor.kl_loss_coef": 0.001,
    "actor_rollout_ref.actor.optim.clip_grad": 1.0,
    "actor_rollout_ref.actor.optim.lr": 2e-6,
    "actor_rollout_ref.actor.optim.lr_scheduler_type": "constant",
    "actor_rollout_ref.actor.optim.lr_warmup_steps": 10,
    "actor_rollout_ref.actor.optim.weight_decay": 0.1,
    "actor_rollout_ref.rollout.n": 10,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "actor_rollout_ref.rollout.top_p": 1.0,
    "actor_rollout_ref.rollout.val_kwargs.temperature": 0.6,
    "actor_rollout_ref.rollout.val_kwargs.top_p": 0.8,
    "actor_rollout_ref.rollout.val_kwargs.n": 5,
    "trainer.total_training_steps": 150,
    "trainer.n_gpus_per_node": 8,
}


@cache
def composed(name: str, *overrides: str) -> Any:
    """What ``main_ppo --config-dir recipes/rl --config-name NAME`` would get."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(RECIPES), version_base=None):
        return compose(name, overrides=["hydra.searchpath=[pkg://verl.trainer.config]", *overrides])


def check(config: Any) -> None:
    """What runs before anything starts."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config
    from verl_srpo.groups import read_selection
    from verl_srpo.settings import read_settings
    from verl_srpo.trainer import _check_settings

    OmegaConf.resolve(config)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    read_settings(config.algorithm)
    read_selection(config.algorithm)
    _check_settings(config)
    assert config.trainer.v1.trainer_mode == "srpo_sync"
    assert config.reward.reward_manager.name == "srpo"


def test_all_recipes_are_known() -> None:
    assert set(NAMES) == {"quickstart", "paper", "one_gpu", "quickstart_vllm", "smollm2"}


@pytest.mark.parametrize("name", NAMES)
def test_recipe_composes(name: str) -> None:
    check(composed(name))


@pytest.mark.parametrize("name", ["beauty", "sports", "instruments"])
def test_values_are_the_papers(name: str) -> None:
    from omegaconf import OmegaConf

    config = composed("paper", *([f"run_folder=runs/{name}"] if name != "beauty" else []))
    assert {key: OmegaConf.select(config, key) for key in PAPER} == PAPER
    assert config.algorithm.srpo.catalog == f"runs/{name}/index.json"
    assert config.trainer.rollout_data_dir == f"runs/{name}/checkpoints/srpo/rollouts"


@pytest.mark.parametrize(
    "overrides",
    [
        ("actor_rollout_ref.rollout.name=sglang", "trainer.nnodes=2"),
        # The parts of SRPO switched off.
        (
            "algorithm.filter_groups.enable=false",
            "algorithm.adv_estimator=grpo",
            "algorithm.srpo.bonus_weight=0",
            "algorithm.srpo.reward_table=[0,0,0]",
            "algorithm.srpo.near_miss=0",
        ),
    ],
)
def test_variants_by_override_compose(overrides: tuple[str, ...]) -> None:
    check(composed("paper", *overrides))
