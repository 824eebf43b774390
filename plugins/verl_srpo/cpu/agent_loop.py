"""verl's single-turn agent loop, telling the rollout server which draw a request is."""

from __future__ import annotations

from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

NAME = "hf_cpu"


@register(NAME)
class NumberedAgentLoop(SingleTurnAgentLoop):
    """Chosen by ``actor_rollout_ref.rollout.agent.default_agent_loop=hf_cpu``."""

    async def run(
        self, sampling_params: dict[str, Any], *, session_id: int, first_draw: int | None = None, **kwargs: Any
    ) -> AgentLoopOutput:
        """Answer one prompt.

        Args:
            sampling_params: verl's.
            session_id: Number of the rollout among those of its prompt.
            first_draw: See `verl_srpo.dispatch`; missing under another trainer, which the server refuses.
            **kwargs: Further fields of the prompt.
        """
        if first_draw is not None:
            sampling_params = {**sampling_params, "draw": first_draw + session_id}
        return await super().run(sampling_params, **kwargs)
