"""The rollout ``hf_cpu``: a server that samples with transformers, and its two ends inside verl.

What is sampled repeats: the random numbers of a request come from the configured seed, the number of weight updates,
the prompt, and the number that `verl_srpo.dispatch` gave it. Two runs of one seed draw the same, and so does a run that
resumes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import ray
import torch
from gream.errors import GreamError
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import HFModelConfig
from verl.workers.rollout import base
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

from verl_srpo.cpu.agent_loop import NAME
from verl_srpo.cpu.sampler import Request, Response, SamplingParameters, load_sampling_model, sample_responses
from verl_srpo.cpu.weights import whole_weights
from verl_srpo.support import read_constraint

# Requests of a step arrive one by one; those that come within this time of each other are sampled together.
_GATHER_SECONDS = 0.03


def _server_name(rank: int, suffix: str = "") -> str:
    return f"{NAME}_server_{rank}{suffix}"


def numbered_request(seed: int, update: int, draw: int, prompt: tuple[int, ...], length: int) -> Request:
    """The request whose random numbers follow from what it is and not from when it comes.

    Args:
        seed: Of the run.
        update: Number of the weights.
        draw: Which of the rollouts of ``prompt`` under these weights.
        prompt: Token ids.
        length: Random numbers, one per token.
    """
    digest = hashlib.sha256(repr((seed, update, draw, prompt)).encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    return Request(prompt, generator.random(length))


class SamplingServer:
    """A Ray actor that answers verl's generation requests."""

    def __init__(self, config: Any, model_config: Any) -> None:
        """Load the model.

        Args:
            config: verl's rollout section.
            model_config: verl's model section.
        """
        # Ray grants an actor one thread. Training waits for the responses, so the cores are free for them.
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._config = config
        model: HFModelConfig = omega_conf_to_dataclass(model_config, dataclass_type=HFModelConfig)
        self._model = load_sampling_model(model.local_path)
        self._tied = set(self._model.all_tied_weights_keys)
        self._constraint = read_constraint(model.override_config, model.tokenizer)
        self._end_token = None if config.ignore_eos else model.tokenizer.eos_token_id
        self._update = 0
        self._waiting: asyncio.Queue[tuple[SamplingParameters, Request, asyncio.Future[Response]]] = asyncio.Queue()
        # Weights change between batches, never during one.
        self._at_work = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None

    async def update_weights(self, state: dict[str, torch.Tensor], update: int) -> None:
        """Take the policy's weights.

        Args:
            state: Every parameter by name.
            update: Number of this update.

        Raises:
            RuntimeError: A name is unknown, or a parameter is missing.
        """
        async with self._at_work:
            missing, unexpected = self._model.load_state_dict(state, strict=False)
            wrong = [*unexpected, *(name for name in missing if name not in self._tied)]
            if wrong:
                raise RuntimeError(f"{NAME}: weights do not fit the model, first of {len(wrong)}: {wrong[0]}")
            self._update = update

    async def generate(
        self, request_id: str, *, prompt_ids: Sequence[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        """Sample one response.

        Args:
            request_id: verl's name for the request.
            prompt_ids: Tokens of the prompt.
            sampling_params: verl's sampling parameters, and the number of the draw.

        Raises:
            GreamError: The request has no number.
        """
        if "draw" not in sampling_params:
            raise GreamError(
                f"rollout {NAME} needs actor_rollout_ref.rollout.agent.default_agent_loop={NAME} and "
                "trainer.v1.trainer_mode=srpo_sync"
            )
        if self._loop is None:
            self._loop = asyncio.create_task(self._serve())
        parameters = SamplingParameters(
            temperature=float(sampling_params["temperature"]),
            top_p=float(sampling_params["top_p"]),
            top_k=max(0, int(sampling_params["top_k"])),
            max_tokens=int(self._config.response_length),
        )
        request = numbered_request(
            self._config.seed,
            self._update,
            int(sampling_params["draw"]),
            tuple(map(int, prompt_ids)),
            parameters.max_tokens,
        )
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((parameters, request, answer))
        response = await answer
        return TokenOutput(
            token_ids=response.token_ids,
            log_probs=response.log_probs if sampling_params.get("logprobs") else None,
            stop_reason="completed",
            extra_fields={"global_steps": self._update},
        )

    async def _serve(self) -> None:
        while True:
            gathered = [await self._waiting.get()]
            while True:
                try:
                    gathered.append(await asyncio.wait_for(self._waiting.get(), _GATHER_SECONDS))
                except TimeoutError:
                    break
            # Equal prompts side by side, so that one batch reads them once.
            gathered.sort(key=lambda entry: (repr(entry[0]), entry[1].prompt))
            while gathered:
                parameters = gathered[0][0]
                batch = [entry for entry in gathered[: self._config.max_num_seqs] if entry[0] == parameters]
                gathered = gathered[len(batch) :]
                async with self._at_work:
                    await self._answer(parameters, batch)

    async def _answer(
        self,
        parameters: SamplingParameters,
        batch: Sequence[tuple[SamplingParameters, Request, asyncio.Future[Response]]],
    ) -> None:
        requests = [request for _, request, _ in batch]
        try:
            responses = await asyncio.to_thread(
                sample_responses,
                self._model,
                requests,
                parameters,
                end_token=self._end_token,
                constraint=self._constraint,
            )
        except Exception as error:
            # Whoever waits must learn of it: an error kept here would leave the whole run waiting.
            for _, _, answer in batch:
                answer.set_exception(RuntimeError(f"{NAME}: sampling failed: {error!r}"))
            return
        for (_, _, answer), response in zip(batch, responses, strict=True):
            answer.set_result(response)

    async def sleep(self) -> None:
        """Here is no accelerator memory to free."""

    async def wake_up(self) -> None:
        """See `sleep`."""

    async def clear_kv_cache(self) -> None:
        """No cache outlives its batch."""

    async def start_profile(self, **_: Any) -> None:
        """No profiler."""

    async def stop_profile(self) -> None:
        """No profiler."""


class HfCpuReplica(RolloutReplica):
    """verl's handle on one server."""

    async def launch_servers(self) -> None:
        """Start the actor.

        Raises:
            GreamError: The configuration would split one model over several processes.
        """
        if self.world_size != 1:
            raise GreamError(
                f"actor_rollout_ref.rollout.name={NAME} keeps a model whole; set tensor_model_parallel_size=1, "
                "data_parallel_size=1 and pipeline_model_parallel_size=1"
            )
        server = (
            ray.remote(SamplingServer)
            .options(
                name=_server_name(self.replica_rank, self.name_suffix),
                num_cpus=0,
                max_concurrency=self.max_concurrency,
            )
            .remote(self.config, self.model_config)
        )
        self.servers = [server]
        self._server_handle = server
        self._server_address = _server_name(self.replica_rank, self.name_suffix)


class HfCpuRollout(BaseRollout):
    """verl's handle inside a training worker: passes the policy's weights on to the server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1) -> None:
        """Find the server of this worker; each worker has its own."""
        super().__init__(config, model_config, device_mesh)
        self._rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank

    async def resume(self, tags: list[str]) -> None:
        """No accelerator memory was freed."""

    async def release(self) -> None:
        """No accelerator memory to free."""

    async def update_weights(
        self,
        weights: Iterable[tuple[str, torch.Tensor]],
        wire_format: str = "named_tensors",
        *,
        global_steps: int | None = None,
        **_: Any,
    ) -> None:
        """Send every parameter.

        Args:
            weights: Names and tensors; running through them gathers sharded ones, so every rank does.
            wire_format: verl's name for whole tensors.
            global_steps: Number of this update; verl leaves it out where the weights are those of the last one.

        Raises:
            GreamError: verl would send differences of weights.
        """
        state = whole_weights(NAME, weights, wire_format)
        server = ray.get_actor(_server_name(self._rank))
        await server.update_weights.remote(state, global_steps)


base._ROLLOUT_REGISTRY[NAME, "async"] = f"{__name__}.{HfCpuRollout.__name__}"
RolloutReplicaRegistry.register(NAME, lambda: HfCpuReplica)
