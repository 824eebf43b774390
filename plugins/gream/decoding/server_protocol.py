"""What is asked of an inference server, in the words of SGLang and of vLLM: next-token log-probabilities, and chains.

SGLang 0.5.23, ``POST /generate``: ``max_new_tokens: 0`` only reads the prompt; ``token_ids_logprob`` names the tokens
whose log-probability behind it is wanted, and ``meta_info.output_token_ids_logprobs[0]`` holds them as
``[log-probability, token, null]``. A request may hold many prompts.

vLLM 0.27.1, ``POST /inference/v1/generate`` (tokens in, tokens out): ``logprob_token_ids`` names at most 128 tokens,
``logprobs`` must be their number, and the server must be started with ``--max-logprobs 128``. One prompt per request,
and one token has to be drawn. The answer lists the drawn token first and no more than ``logprobs`` in all, each once:
where the drawn token is none of those named, the last of these is missing. So the first is named twice, which makes
room. Confining the draw by ``allowed_token_ids`` would as well, but such a confinement leaks into other requests of the
batch (vLLM issue 43894, open): chains written meanwhile come out wrong. Log-probabilities are those before temperature
and the like (``--logprobs-mode raw_logprobs``, the default).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from gream.decoding.server_client import ServerClient
from gream.dialogue import ANSWER_OPEN
from gream.errors import GreamError

Engine = Literal["sglang", "vllm"]
ENGINES: tuple[Engine, ...] = get_args(Engine)

Logs = npt.NDArray[np.float32]

# vllm.sampling_params.MAX_LOGPROB_TOKEN_IDS, less one for the token that is named twice.
VLLM_TOKENS_AT_ONCE = 127


@dataclass(frozen=True)
class Draw:
    """How a chain is drawn.

    Attributes:
        temperature: 0 is greedy.
        seed: Of this chain; unused where greedy.
    """

    temperature: float
    seed: int


class ServerProtocol(Protocol):
    """The two requests, whatever the server."""

    async def next_logs(
        self, client: ServerClient, prefixes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[Logs]:
        """Log-probability, under the whole vocabulary, of each of ``tokens[i]`` behind ``prefixes[i]``.

        Raises:
            GreamError: See `ServerClient.post`; or the answer does not hold what was asked for.
        """

    async def write(self, client: ServerClient, prompt: Sequence[int], budget: int, end: int, draw: Draw) -> list[int]:
        """Tokens that the model writes behind ``prompt``: up to ``<answer>``, the token ``end`` or the budget.

        Raises:
            GreamError: As above.
        """


class SGLangProtocol:
    """SGLang's native interface."""

    async def next_logs(
        self, client: ServerClient, prefixes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[Logs]:
        """See `ServerProtocol.next_logs`; one request."""
        answers = await client.post(
            "/generate",
            {
                "input_ids": [list(prefix) for prefix in prefixes],
                "sampling_params": [{"max_new_tokens": 0, "temperature": 1.0}] * len(prefixes),
                "return_logprob": True,
                "token_ids_logprob": [list(part) for part in tokens],
            },
        )
        try:
            rows = [answer["meta_info"]["output_token_ids_logprobs"][0] for answer in answers]
            pairs = [[(int(token), float(log)) for log, token, *_ in row] for row in rows]
        except (TypeError, KeyError, IndexError, ValueError):
            pairs = []
        return _checked(pairs, tokens)

    async def write(self, client: ServerClient, prompt: Sequence[int], budget: int, end: int, draw: Draw) -> list[int]:
        """See `ServerProtocol.write`."""
        answer = await client.post(
            "/generate",
            {
                "input_ids": list(prompt),
                "sampling_params": {
                    "max_new_tokens": budget,
                    "stop": [ANSWER_OPEN],
                    "no_stop_trim": True,
                    "stop_token_ids": [end],
                    "skip_special_tokens": False,
                    # All of it named, so that nothing of a model's generation_config takes part.
                    "temperature": draw.temperature,
                    "top_p": 1.0,
                    "top_k": -1,
                    "min_p": 0.0,
                    "repetition_penalty": 1.0,
                    **({"sampling_seed": draw.seed} if draw.temperature else {}),
                },
            },
        )
        return _tokens(answer, "output_ids")


class VLLMProtocol:
    """vLLM's interface of tokens in, tokens out."""

    async def next_logs(
        self, client: ServerClient, prefixes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[Logs]:
        """See `ServerProtocol.next_logs`; a request for every prefix and 127 tokens."""
        return list(
            await asyncio.gather(
                *(self._logs_behind(client, prefix, part) for prefix, part in zip(prefixes, tokens, strict=True))
            )
        )

    async def _logs_behind(self, client: ServerClient, prefix: Sequence[int], tokens: Sequence[int]) -> Logs:
        step = VLLM_TOKENS_AT_ONCE
        parts = [list(tokens[start : start + step]) for start in range(0, len(tokens), step)]
        return np.concatenate(await asyncio.gather(*(self._some_logs(client, prefix, part) for part in parts)))

    async def _some_logs(self, client: ServerClient, prefix: Sequence[int], tokens: list[int]) -> Logs:
        answer = await client.post(
            "/inference/v1/generate",
            {
                "token_ids": list(prefix),
                "sampling_params": {
                    "max_tokens": 1,
                    "temperature": 0.0,
                    "logprobs": len(tokens) + 1,
                    "logprob_token_ids": [*tokens, tokens[0]],
                    "detokenize": False,
                },
            },
        )
        try:
            row = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            pairs = [[(int(part["token"].removeprefix("token_id:")), float(part["logprob"])) for part in row]]
        except (TypeError, KeyError, IndexError, ValueError, AttributeError):
            pairs = []
        return _checked(pairs, [tokens])[0]

    async def write(self, client: ServerClient, prompt: Sequence[int], budget: int, end: int, draw: Draw) -> list[int]:
        """See `ServerProtocol.write`."""
        answer = await client.post(
            "/inference/v1/generate",
            {
                "token_ids": list(prompt),
                "sampling_params": {
                    "max_tokens": budget,
                    "stop": [ANSWER_OPEN],
                    "include_stop_str_in_output": True,
                    "stop_token_ids": [end],
                    "skip_special_tokens": False,
                    "temperature": draw.temperature,
                    "top_p": 1.0,
                    "top_k": 0,
                    "min_p": 0.0,
                    "repetition_penalty": 1.0,
                    **({"seed": draw.seed} if draw.temperature else {}),
                },
            },
        )
        choices = answer.get("choices") if isinstance(answer, dict) else None
        return _tokens(choices[0] if isinstance(choices, list) and choices else None, "token_ids")


PROTOCOLS: dict[Engine, type[ServerProtocol]] = {"sglang": SGLangProtocol, "vllm": VLLMProtocol}


def _checked(pairs: Sequence[Sequence[tuple[int, float]]], tokens: Sequence[Sequence[int]]) -> list[Logs]:
    """Log-probabilities in the order of ``tokens``, from (token, log-probability) in any order."""
    if len(pairs) == len(tokens):
        found = [dict(row) for row in pairs]
        if all(token in row for row, wanted in zip(found, tokens, strict=True) for token in wanted):
            logs = [
                np.array([row[token] for token in wanted], dtype=np.float32)
                for row, wanted in zip(found, tokens, strict=True)
            ]
            if any(np.isnan(part).any() for part in logs):
                raise GreamError("the server computes probabilities that are not numbers; the checkpoint is broken")
            return logs
    raise GreamError(
        "the server's answer does not hold the log-probabilities that were asked for; is it the --engine named, "
        "at a version that gream.decoding.server_protocol knows?"
    )


def _tokens(answer: Any, name: str) -> list[int]:
    tokens = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise GreamError(f"the server's answer holds no '{name}'; is it the --engine named?")
    return tokens
