"""verl's synchronous trainer, plus what SRPO needs: exact hits for the advantage, metrics, and runs that repeat.

Use with ``trainer.v1.trainer_mode=srpo_sync``. It differs from verl's ``sync`` trainer in this:

- the parts of the reward reach the estimator and the metrics (``srpo/...``);
- the ground truths of all rows are checked before anything starts;
- a batch has an order that does not depend on which rollout was finished first;
- a rollout that fails ends the run, where verl would fill its place with padding;
- a resumed run does not validate again before it goes on, and keeps the metrics file of the run it resumes.

Which groups make up a batch is left to verl's replay buffer, so its group filter (``algorithm.filter_groups``, with a
part of the reward as metric) works under this trainer as it does under verl's own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import register_trainer
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from verl_srpo.advantage import exact_hits, group_advantage
from verl_srpo.dataset import check_ground_truths
from verl_srpo.metrics import step_metrics
from verl_srpo.reward import ResidualReward
from verl_srpo.settings import read_settings

# verl looks every 2 s whether the rollouts are there, which at this size would be most of a step.
POLL_SECONDS = 0.05


class OrderedReplayBuffer:
    """verl's replay buffer, seen through one method: batches come in canonical order, and none hides a failure."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        """Wrap ``buffer``, which is then asked by no one else."""
        buffer.poll_interval = POLL_SECONDS
        self._buffer = buffer

    def sample(self, *, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """The next batch, as `ReplayBuffer.sample` gives it.

        Raises:
            RuntimeError: A rollout or its reward failed.
        """
        batch, metrics = self._buffer.sample(
            global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
        )
        failed = len(self._buffer.failure_keys[partition_id])
        if failed:
            raise RuntimeError(
                f"generation or reward failed for {failed} of {batch_size} prompts at step {global_steps}; "
                "the agent loop worker's first error, printed above, is the cause"
            )
        data = tq.kv_batch_get(keys=batch.keys, partition_id=partition_id, select_fields=["prompts", "responses"])
        batch.reorder(canonical_order(data["prompts"].unbind(), data["responses"].unbind()))
        return batch, metrics


def canonical_order(prompts: Sequence[Any], responses: Sequence[Any]) -> list[int]:
    """The order of rollouts that their tokens alone determine, rollouts of one prompt side by side.

    Prompts are ordered by a hash and not by their tokens: neighbours share a mini-batch, and should be no more alike
    than chance makes them.

    Args:
        prompts: Token tensors, one of each rollout.
        responses: Token tensors.
    """

    def place(row: int) -> tuple[bytes, list[int]]:
        return hashlib.sha256(np.asarray(prompts[row]).tobytes()).digest(), responses[row].tolist()

    return sorted(range(len(prompts)), key=place)


@register_trainer("srpo_sync")
class SrpoTrainer(PPOTrainerSync):
    """See the module."""

    def __init__(self, config: Any) -> None:
        """Take verl's whole configuration.

        Raises:
            GreamError: The section ``algorithm.srpo`` or its catalogue is missing or wrong.
        """
        self._settings = read_settings(config.algorithm)
        self._reward = ResidualReward(Catalog.load(Path(self._settings.catalog)), self._settings.reward_table)
        self._earlier_records: list[dict[str, Any]] = []
        # verl compares the mode with "sync" to choose replay buffer and checkpoints; the registry has found us by now.
        config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)

    def _build_replay_buffer(self) -> OrderedReplayBuffer:
        return OrderedReplayBuffer(super()._build_replay_buffer())

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
        super().fit(agent_loop_manager)

    def on_train_begin(self) -> None:
        """Write the metrics of the resumed run's steps before those of the first new one."""
        super().on_train_begin()
        for record in self._earlier_records:
            self.logger.log(data=record["data"], step=record["step"], backend=["file"])

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        data = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["uid", "rm_scores", "extra_fields"],
        )
        parts = [_reward_parts(extra) for extra in data.pop("extra_fields").tolist()]
        exact = np.array([part["exact"] for part in parts], dtype=bool)
        # A padding row carries the parts of the rollout it was copied from.
        real = np.array([not tag.get("is_padding", False) for tag in batch.tags], dtype=bool)
        with exact_hits(exact & real):
            result = super()._compute_advantage(batch, metrics)
        rewards = np.array([float(scores.sum()) for scores in data["rm_scores"].unbind()])[real]
        groups = np.array(data.pop("uid").tolist())[real]
        metrics.update(
            step_metrics(
                rewards,
                [part for part, is_real in zip(parts, real, strict=True) if is_real],
                group_advantage(rewards, exact[real], groups, self._settings),
                levels=self._reward.levels,
                pass_at=self._settings.pass_at,
            )
        )
        return result


def _paths(files: str | Sequence[str]) -> list[Path]:
    return [Path(files)] if isinstance(files, str) else [Path(file) for file in files]


def _reward_parts(extra_fields: Mapping[str, Any]) -> Mapping[str, float]:
    parts = extra_fields.get("reward_extra_info")
    if not parts or "exact" not in parts:
        raise GreamError("trainer.v1.trainer_mode=srpo_sync needs reward.reward_manager.name=srpo")
    return parts


def records_up_to(path: Path, step: int) -> list[dict[str, Any]]:
    """The records of a metrics file up to ``step``; a run that was killed later wrote more, which will be made again.

    Args:
        path: JSON lines of verl's file logger.
        step: Last step to keep.
    """
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        # A kill may leave a last line without its end.
        if line.endswith("\n"):
            record = json.loads(line)
            if record["step"] <= step:
                records.append(record)
    return records
