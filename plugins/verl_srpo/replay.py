"""verl's replay buffer for synchronous training, made to repeat, to fail loudly, and to keep what a step leaves over.

- A batch has an order that does not depend on which rollout was finished first.
- A rollout that fails ends the run, where verl would fill its place with padding; so does a process that dies.
- With ``algorithm.filter_groups`` on, groups that do not differ are replaced (`verl_srpo.groups`). verl's own buffer
  asks for more as rollouts come in, and discards the surplus. This one waits for each generation to end, so that what
  it asks for does not depend on the clock, and leaves the surplus in the TransferQueue for the next step.
"""

from __future__ import annotations

from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from verl_srpo.groups import GenerationTally, GroupSelection
from verl_srpo.liveness import Liveness
from verl_srpo.rollouts import canonical_order, group_of, reward_parts

# verl looks every 2 s whether the rollouts are there, which on a small model would be most of a step.
POLL_SECONDS = 0.05

_TRAIN = "train"


class SrpoReplayBuffer(ReplayBuffer):
    """See the module."""

    def __init__(self, *, selection: GroupSelection | None, train_batch_size: int, **verl: Any) -> None:
        """Build an empty buffer.

        Args:
            selection: Which groups are kept; None for all.
            train_batch_size: Prompts of a step.
            **verl: Arguments of verl's buffer.
        """
        super().__init__(poll_interval=POLL_SECONDS, **verl)
        self._selection = selection
        self._batch_size = train_batch_size
        self._liveness: Liveness | None = None

    def watch(self, liveness: Liveness) -> None:
        """Look after the processes that make the rollouts while waiting for them."""
        self._liveness = liveness

    def sample(self, *, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """The next batch.

        Args:
            global_steps: Training step.
            partition_id: "train" or "val".
            batch_size: Groups.

        Raises:
            RuntimeError: A rollout or its reward failed, or a process that makes them died.
            GreamError: Too few groups differ.
        """
        if self._liveness is not None:
            self._liveness.start()
        if partition_id == _TRAIN and self._selection is not None:
            batch, metrics = self._sample_differing(self._selection, global_steps, batch_size)
        else:
            batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        data = tq.kv_batch_get(keys=batch.keys, partition_id=partition_id, select_fields=["prompts", "responses"])
        batch.reorder(canonical_order(data["prompts"].unbind(), data["responses"].unbind(), batch.keys))
        return batch, metrics

    def _sync_metadata_from_transfer_queue(self) -> None:
        super()._sync_metadata_from_transfer_queue()
        # As soon as it is known: the others would only be waited for.
        for partition, failed in self.failure_keys.items():
            if failed:
                raise RuntimeError(
                    f"generation or reward failed for {len(failed)} prompts of '{partition}'; "
                    "the agent loop worker's first error, printed above, is the cause"
                )

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        if self._liveness is not None:
            self._liveness.check((len(self.finished_keys[partition_id]), len(self.partitions[partition_id])))
        return super()._wait_for_next_poll(partition_id, last_debug_time)

    def _sample_differing(
        self, selection: GroupSelection, step: int, wanted: int
    ) -> tuple[KVBatchMeta, dict[str, float]]:
        self._sync_metadata_from_transfer_queue()
        # Whatever is there now is what the step before left.
        kept = carried = set(self.finished_keys[_TRAIN])
        tally = GenerationTally()
        while len(kept) < wanted:
            if tally.generations == selection.max_num_gen_batches:
                raise tally.shortage(selection.metric, step=step, groups=len(kept), wanted=wanted)
            largest = selection.max_inflight_gen_batches * self._batch_size
            self.refill_fn(tally.next_size(wanted - len(kept), largest))
            tally.generations += 1
            self._wait_for_all()
            kept = kept | self._keep_differing(self.finished_keys[_TRAIN] - kept, selection.metric, tally)
        # Names of groups sort by age.
        chosen = sorted(kept)[:wanted]
        batch = self._materialize_batch(_TRAIN, chosen, dict(self.partitions[_TRAIN]))
        return batch, tally.metrics(surplus=len(kept) - wanted, carried=len(carried.intersection(chosen)))

    def _wait_for_all(self) -> None:
        last_debug_time = 0.0
        while True:
            self._sync_metadata_from_transfer_queue()
            if not self.pending_keys[_TRAIN] and not self.running_keys[_TRAIN]:
                return
            last_debug_time = self._wait_for_next_poll(_TRAIN, last_debug_time)

    def _keep_differing(self, groups: set[str], metric: str, tally: GenerationTally) -> set[str]:
        members: dict[str, list[str]] = {group: [] for group in sorted(groups)}
        for key in sorted(self.partitions[_TRAIN]):
            if group_of(key) in members:
                members[group_of(key)].append(key)
        keys = [key for rollouts in members.values() for key in rollouts]
        data = tq.kv_batch_get(keys=keys, partition_id=_TRAIN, select_fields=["rm_scores", "extra_fields"])
        rewards = dict(zip(keys, (float(scores.sum()) for scores in data["rm_scores"].unbind()), strict=True))
        parts = dict(zip(keys, reward_parts(data.pop("extra_fields").tolist()), strict=True))
        kept = {
            group
            for group, rollouts in members.items()
            if tally.add(metric, [rewards[key] for key in rollouts], [parts[key] for key in rollouts])
        }
        self._clear_groups(_TRAIN, groups - kept)
        return kept
