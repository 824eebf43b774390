"""The residual-sensitive reward as verl's reward manager ``srpo``: one sample in, its score and its parts out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gream.semantic_ids.catalog import Catalog
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from verl_srpo.dataset import ground_truth_of
from verl_srpo.reward import ResidualReward
from verl_srpo.settings import read_settings


@register("srpo")
class SrpoRewardManager(RewardManagerBase):
    """Scores responses against the catalogue named by ``algorithm.srpo.catalog``."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, **_: Any) -> None:
        """Load the catalogue.

        Args:
            config: verl's whole configuration.
            tokenizer: The policy's tokenizer.
            compute_score: verl's own scoring function, which this reward replaces.

        Raises:
            GreamError: The section ``algorithm.srpo`` or its catalogue is missing or wrong.
        """
        super().__init__(config, tokenizer, compute_score)
        settings = read_settings(config.algorithm)
        self._reward = ResidualReward(
            Catalog.load(Path(settings.catalog)), settings.reward_table, near_miss=settings.near_miss
        )

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Score one response.

        Args:
            data: One sample; of a sample with several sequences, the last one counts.

        Returns:
            ``reward_score`` and ``reward_extra_info``, the latter with the same numeric keys for every sample.

        Raises:
            GreamError: The sample has no ground truth, or one that is no item.
        """
        sample = data[-1:][0]
        responses = sample.batch["responses"]
        length = int(sample.batch["attention_mask"][-responses.shape[-1] :].sum())
        # Special tokens are kept: a tokenizer may count <think> among them.
        text = self.tokenizer.decode(responses[:length], skip_special_tokens=False)
        row = sample.non_tensor_batch
        source = f"RL row with extra_info {row.get('extra_info')}"
        truth = ground_truth_of(row, source=source)
        self._reward.check_truth(truth, source=source)
        rewards = self._reward([text], [truth])
        return {
            "reward_score": float(rewards.reward[0]),
            "reward_extra_info": {
                "match_level": int(rewards.match_level[0]),
                "exact": int(rewards.exact[0]),
                "format_ok": int(rewards.format_ok[0]),
                "invalid_id": int(rewards.invalid_id[0]),
            },
        }
