"""verl's synchronous trainer, plus what SRPO needs: exact hits for the advantage, metrics, and runs that repeat.

Use with ``trainer.v1.trainer_mode=srpo_sync``. It differs from verl's ``sync`` trainer in this:

- the parts of the reward reach the estimator, the metrics (``srpo/...``) and the rollouts written to
  ``trainer.rollout_data_dir``;
- ground truths, tokenizer and settings are checked before anything starts;
- batches repeat, and nothing is waited for that cannot come (`verl_srpo.replay`);
- with ``algorithm.filter_groups`` on, groups without differences are replaced and the surplus opens the next step;
- a resumed run does not validate again before it goes on, and keeps the metrics file of the run it resumes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from gream.engine.contract import read_contract
from gream.errors import GreamError
from gream.files import Row, write_json, write_jsonl
from gream.semantic_ids.catalog import Catalog
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils

from verl_srpo.advantage import exact_hits, group_advantage
from verl_srpo.batches import check_batch_sizes
from verl_srpo.confine import answer_catalog, check_confined, confine_vllm
from verl_srpo.dataset import DATA, check_ground_truths, check_same_data, hashes_of_files
from verl_srpo.dispatch import NumberedDispatch
from verl_srpo.groups import read_selection
from verl_srpo.liveness import Liveness, ending_with, queue_actors
from verl_srpo.metrics import policy_gap, step_metrics
from verl_srpo.replay import SrpoReplayBuffer
from verl_srpo.reward import ResidualReward
from verl_srpo.rollouts import group_of, read_metrics, reward_parts, rollout_rows
from verl_srpo.settings import read_settings

_SURPLUS = "transfer_queue"


@register_trainer("srpo_sync")
class SrpoTrainer(PPOTrainerSync):
    """See the module."""

    def __init__(self, config: Any) -> None:
        """Take verl's whole configuration.

        Raises:
            GreamError: The settings or the catalogue are wrong, settings contradict each other, or the rollout's engine
                is not installed.
        """
        self._settings = read_settings(config.algorithm)
        self._selection = read_selection(config.algorithm)
        _check_settings(config)
        if config.trainer.device == "cpu":
            from verl_srpo.cpu.vllm_package import check_installed

            check_installed(config.actor_rollout_ref.rollout.name)
        self._catalog = Catalog.load(Path(self._settings.catalog))
        self._reward = ResidualReward(self._catalog, self._settings.reward_table, near_miss=self._settings.near_miss)
        confine_vllm(config)
        self._earlier_records: list[dict[str, Any]] = []
        self._fetched = 0, 0  # step, prompts fetched in it
        # Of each rollout of the step, by verl's key; verl itself keeps the advantages.
        self._bonus: dict[str, float] = {}
        # verl compares the mode with "sync" to choose replay buffer and checkpoints; the registry has found us by now.
        config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)

    def _build_replay_buffer(self) -> SrpoReplayBuffer:
        sampler = self.config.trainer.v1.sampler
        return SrpoReplayBuffer(
            selection=self._selection,
            train_batch_size=self.config.data.train_batch_size,
            trainer_mode=self.trainer_mode,
            trainer_config=self.config.trainer.v1.get(self.trainer_mode, {}),
            max_off_policy_threshold=sampler.max_off_policy_threshold,
            max_off_policy_strategy=sampler.max_off_policy_strategy,
            sampler_kwargs=sampler.sampler_kwargs,
            refill_fn=self._add_prompts_to_generate,
        )

    def _init_tokenizer(self) -> None:
        super()._init_tokenizer()
        missing = set(self._catalog.tokens) - self.tokenizer.get_vocab().keys()
        if missing:
            raise GreamError(
                f"{self.config.actor_rollout_ref.model.path}: its tokenizer lacks {len(missing)} of "
                f"{len(self._catalog.tokens)} semantic-id tokens of {self._settings.catalog}, the first of them "
                f"{min(missing)}; train a model that 'python -m data_processing model' made of this catalogue"
            )
        model = Path(self.config.actor_rollout_ref.model.path)
        # One that verl fetches from elsewhere is known by its tokens alone.
        if model.is_dir() and (contract := read_contract(model)):
            contract.check_ids(self._catalog.ids, model, Path(self._settings.catalog))
            if (confined := answer_catalog(self.config)) is not None:
                contract.check_ids(Catalog.load(confined).ids, model, confined)

    def _init_dataloader(self) -> None:
        data = self.config.data
        check_ground_truths([*_paths(data.train_files), *_paths(data.val_files)], self._reward)
        super()._init_dataloader()

    def on_init_end(self) -> None:
        """Go on after a resume without a second look at what was validated before."""
        super().on_init_end()
        if self.global_steps:
            self.config.trainer.val_before_train = False

    def fit(self, agent_loop_manager: Any) -> None:
        """Train; the metrics that a killed run left behind are read before verl opens their file anew."""
        path = os.environ.get("VERL_FILE_LOGGER_PATH")
        if path and "file" in self.config.trainer.logger:
            Path(path).parent.mkdir(parents=True, exist_ok=True)  # verl opens the file and makes no folder for it
            if self.global_steps:
                self._earlier_records = records_up_to(Path(path), self.global_steps)
        actors = [
            *(("an agent loop worker", actor) for actor in agent_loop_manager.agent_loop_workers),
            *(("a rollout server", actor) for actor in self.llm_server_manager.server_handles),
        ]
        self.replay_buffer.watch(Liveness(actors, patience=self._settings.rollout_timeout))
        rollout = self.config.actor_rollout_ref.rollout
        dispatch = NumberedDispatch(agent_loop_manager, rollouts=rollout.n, validation_rollouts=rollout.val_kwargs.n)
        with ending_with(queue_actors()):
            super().fit(dispatch)

    def prepare_step(self) -> dict[str, Any]:
        """Ask for the rollouts of a step; where groups are selected, the replay buffer asks, for it knows how many."""
        return super().prepare_step() if self._selection is None else {}

    def _fetch_one_gen_batch(self) -> TensorDict:
        # verl's random names would put groups of one age in another order each time.
        batch = super()._fetch_one_gen_batch()
        step, first = self._fetched
        if step != self.global_steps:
            step, first = self.global_steps, 0
        names = [f"{step:07d}-{number:06d}" for number in range(first, first + len(batch))]
        tensordict_utils.assign_non_tensor_stack(batch, "uid", names)
        self._fetched = step, first + len(batch)
        return batch

    def _save_checkpoint(self) -> None:
        checkpoints = Path(self.config.trainer.default_local_dir)
        # Before the rest, which ends with the note that this checkpoint is complete.
        folder = checkpoints / f"global_step_{self.global_steps}"
        if self._selection is not None:
            tq.save_checkpoint(folder / _SURPLUS)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DATA, hashes_of_files(_paths(self.config.data.train_files)))
        super()._save_checkpoint()
        for surplus in checkpoints.glob(f"global_step_*/{_SURPLUS}"):
            # verl takes only the weights of old checkpoints away.
            if not (surplus.parent / "actor").exists():
                shutil.rmtree(surplus)

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        trainer = self.config.trainer
        if trainer.resume_mode == "resume_path":
            folder = Path(trainer.resume_from_path)
        else:
            folder = Path(trainer.default_local_dir, f"global_step_{self.global_steps}")
        if self.global_steps:
            check_same_data(folder, _paths(self.config.data.train_files))
        if self.global_steps and self._selection is not None and (folder / _SURPLUS).exists():
            tq.load_checkpoint(folder / _SURPLUS)
            drop_rollouts_without_group()

    def on_train_begin(self) -> None:
        """Write the metrics of the resumed run's steps before those of the first new one."""
        super().on_train_begin()
        for record in self._earlier_records:
            self.logger.log(data=record["data"], step=record["step"], backend=["file"])

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's, but what an earlier step left over is measured against the policy that sampled it.

        verl takes the log-probabilities of the policy as the step begins for those of the sampling policy. For surplus
        groups these are two policies: the ratio of PPO must be to the older one, whose log-probabilities came with the
        rollout.
        """
        result = super()._compute_old_log_prob(batch, metrics)
        if self._selection is None:
            return result
        real = [(key, tag) for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding")]
        older = [key for key, tag in real if tag["max_global_steps"] < self.global_steps - 1]
        fresh = [key for key, tag in real if tag["max_global_steps"] >= self.global_steps - 1]
        fields = ["old_log_probs", "rollout_log_probs"]
        for name, keys in (("fresh", fresh), ("carried", older)):
            metrics[f"srpo/policy_gap/{name}"] = 0.0
            if not keys:
                continue
            data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)
            metrics[f"srpo/policy_gap/{name}"] = policy_gap(*(data[field].values() for field in fields))
            if keys is older:
                data["old_log_probs"] = data.pop("rollout_log_probs")
                tq.kv_batch_put(keys=keys, partition_id=batch.partition_id, fields=data)
        return result

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["rm_scores", "extra_fields"]
        )
        parts = reward_parts(data.pop("extra_fields").tolist())
        exact = np.array([part["exact"] for part in parts], dtype=bool)
        # A padding row carries the parts of the rollout it was copied from.
        real = np.array([not tag.get("is_padding", False) for tag in batch.tags], dtype=bool)
        with exact_hits(exact & real) as exchange:
            result = super()._compute_advantage(batch, metrics)
        rewards = np.array([float(scores.sum()) for scores in data["rm_scores"].unbind()])[real]
        keys = [key for key, is_real in zip(batch.keys, real, strict=True) if is_real]
        advantage = exchange.advantage
        if advantage is None:  # another estimator, which has no bonus and keeps its parts to itself
            settings = self._settings.model_copy(update={"bonus_weight": 0.0})
            advantage = group_advantage(rewards, exact[real], [group_of(key) for key in keys], settings)
        self._bonus = dict(zip(keys, advantage.bonus.tolist(), strict=True))
        metrics.update(
            step_metrics(
                rewards,
                [part for part, is_real in zip(parts, real, strict=True) if is_real],
                advantage,
                levels=self._reward.levels,
                pass_at=self._settings.pass_at,
            )
        )
        return result

    def _log_rollout_data(self, batch: KVBatchMeta, timing_raw: dict[str, Any], rollout_data_dir: str) -> None:
        tags = dict(zip(batch.keys, batch.tags, strict=True))
        groups = sorted({group_of(key) for key in self._bonus})[: self._settings.logged_groups]
        keys = sorted(key for key in self._bonus if group_of(key) in groups)
        fields = ["prompts", "responses", "rm_scores", "advantages", "reward_model", "extra_fields"]
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)
        rows = rollout_rows(
            self.global_steps,
            keys=keys,
            prompts=[self.tokenizer.decode(ids) for ids in data["prompts"].unbind()],
            responses=[self.tokenizer.decode(ids) for ids in data["responses"].unbind()],
            truths=[row["ground_truth"] for row in data.pop("reward_model").tolist()],
            rewards=[float(scores.sum()) for scores in data["rm_scores"].unbind()],
            parts=reward_parts(data.pop("extra_fields").tolist()),
            # The same for every token of a response.
            advantages=[float(tokens[0]) for tokens in data["advantages"].unbind()],
            bonuses=[self._bonus[key] for key in keys],
            policy_steps=[tags[key]["max_global_steps"] for key in keys],
        )
        folder = Path(rollout_data_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / f"{self.global_steps}.jsonl", rows)


def _check_settings(config: Any) -> None:
    """Settings that each are right, but not together."""
    rollout, sampler = config.actor_rollout_ref.rollout, config.trainer.v1.sampler
    if rollout.n < 2:
        raise GreamError(
            f"actor_rollout_ref.rollout.n={rollout.n}: an advantage compares the rollouts of a prompt; set 2 or more "
            "(the paper: 10)"
        )
    check_batch_sizes(config)
    if sampler.custom_sampler.path or sampler.sync_refill_failed_groups:
        raise GreamError(
            "trainer.v1.sampler: trainer_mode=srpo_sync brings its own sampler, which ends the run where a rollout "
            "fails; remove custom_sampler and sync_refill_failed_groups"
        )
    if rollout.agent.default_agent_loop == "hf_cpu" and rollout.name != "hf_cpu":
        raise GreamError(
            f"actor_rollout_ref.rollout.name={rollout.name}: the agent loop hf_cpu numbers requests for the rollout "
            "hf_cpu alone; set actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent, or for vLLM on a "
            "CPU take the recipe quickstart_vllm, which sets the rest as well"
        )
    check_confined(config)
    if config.algorithm.filter_groups.enable and not rollout.calculate_log_probs:
        raise GreamError(
            "actor_rollout_ref.rollout.calculate_log_probs=false: algorithm.filter_groups keeps surplus groups, whose "
            "ratio needs the log-probabilities of their own policy; set it to true"
        )


def drop_rollouts_without_group() -> None:
    """Remove from the training partition what a checkpoint holds beside surplus: the batch that had just been trained.

    verl takes a group's own key away when it puts the group into a batch, and the rollouts' keys after the step.
    """
    partition = "train"
    tags = (tq.kv_list(partition) or {}).get(partition, {})
    groups = {key for key, tag in tags.items() if tag.get("is_prompt")}
    trained = [key for key in tags if key not in groups and group_of(key) not in groups]
    if trained:
        tq.kv_clear(keys=trained, partition_id=partition)


def _paths(files: str | Sequence[str]) -> list[Path]:
    return [Path(files)] if isinstance(files, str) else [Path(file) for file in files]


def records_up_to(path: Path, step: int) -> list[Row]:
    """The records of a metrics file up to ``step``; a run that was killed later wrote more, which will be made again.

    Args:
        path: JSON lines of verl's file logger.
        step: Last step to keep.
    """
    return [record for record in read_metrics(path) if record["step"] <= step] if path.exists() else []
