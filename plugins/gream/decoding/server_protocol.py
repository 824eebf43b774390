"""What is asked of an inference server, in the words of SGLang and of vLLM: next-token log-probabilities, and chains.

SGLang 0.5.23, ``POST /generate``: ``max_new_tokens: 0`` only reads the prompt; ``token_ids_logprob`` names the tokens
whose log-probability behind it is wanted, and ``meta_info.output_token_ids_logprobs[0]`` holds them as
``[log-probability, token, null]``. A request may hold many prompts. Of what a model writes, it reports the
log-probabilities after temperature (``meta_info.output_token_logprobs``). Where that is not 1, those at 1 take a second
request, which reads prompt and chain again: ``logprob_start_len`` names the last token of the prompt,
``meta_info.input_token_logprobs`` begins with a null for it. What is aborted has status 200 and ``finish_reason.type``
"abort". ``GET /server_info`` tells the flags of the start, and what the plugin sglang_gream adds.

vLLM 0.27.1, ``POST /inference/v1/generate`` (tokens in, tokens out): ``logprob_token_ids`` names at most 128 tokens,
``logprobs`` must be their number, and the server must be started with ``--max-logprobs 128``. One prompt per request,
and one token has to be drawn. The answer lists the drawn token first and no more than ``logprobs`` in all, each once:
where the drawn token is none of those named, the last of these is missing. So the first is named twice, which makes
room. Confining the draw by ``allowed_token_ids`` would as well, but such a confinement leaks into other requests of the
batch (vLLM issue 43894, open): chains written meanwhile come out wrong. Log-probabilities are those before temperature
and the like (``--logprobs-mode raw_logprobs``, the default); with ``logprobs: 1`` a chain comes with its tokens'.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gream.decoding.choices import ServerEngine
from gream.decoding.server_client import ServerClient
from gream.dialogue import ANSWER_OPEN
from gream.errors import GreamError

Logs = npt.NDArray[np.float32]

_BROKEN = "the server computes probabilities that are not numbers; the checkpoint is broken"
_NOT_HELD = (
    "the server's answer does not hold the log-probabilities that were asked for; is it the --engine named, at a "
    "version that gream.decoding.server_protocol knows?"
)

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


@dataclass(frozen=True)
class Written:
    """What a model wrote.

    Attributes:
        tokens: All of it.
        logs: Log-probability of each token at temperature 1; None where it was not asked for.
    """

    tokens: list[int]
    logs: list[float] | None


@dataclass(frozen=True)
class Abilities:
    """What servers can do.

    Attributes:
        seeded: Whether a seed decides what is drawn, whatever else is asked for meanwhile.
        catalogues: Digests of the ids that all of them can keep a beam search to.
    """

    seeded: bool = True
    catalogues: frozenset[str] = frozenset()


class ServerProtocol(Protocol):
    """What is asked for, whatever the server."""

    async def abilities(self, client: ServerClient) -> Abilities:
        """What all of the servers can do.

        Raises:
            GreamError: One does not answer.
        """

    async def next_logs(
        self, client: ServerClient, prefixes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[Logs]:
        """Log-probability, under the whole vocabulary, of each of ``tokens[i]`` behind ``prefixes[i]``.

        Raises:
            GreamError: See `ServerClient.post`; or the answer does not hold what was asked for.
        """

    async def write(
        self, client: ServerClient, prompt: Sequence[int], budget: int, end: int, draw: Draw, *, scored: bool
    ) -> Written:
        """What the model writes behind ``prompt``: up to ``<answer>``, the token ``end`` or the budget.

        Args:
            client: The servers.
            prompt: Token ids.
            budget: Most tokens.
            end: Token that ends a turn.
            draw: How.
            scored: Whether log-probabilities are wanted.

        Raises:
            GreamError: As above.
        """


def aborted(answer: Any) -> str | None:
    """Why SGLang's answer, to one prompt or to several, is none."""
    for each in answer if isinstance(answer, list) else [answer]:
        meta = each.get("meta_info") if isinstance(each, dict) else None
        reason = meta.get("finish_reason") if isinstance(meta, dict) else None
        if isinstance(reason, dict) and reason.get("type") == "abort":
            return f"aborted ({' '.join(str(reason.get('message')).split())[:160]})"
    return None


class SGLangProtocol:
    """SGLang's native interface."""

    async def abilities(self, client: ServerClient) -> Abilities:
        """See `ServerProtocol.abilities`."""
        told = [each if isinstance(each, dict) else {} for each in await client.each("/server_info")]
        held = [each.get("gream") for each in told]
        digests = [frozenset(each.values()) if isinstance(each, dict) else frozenset() for each in held]
        return Abilities(
            seeded=all(each.get("enable_deterministic_inference") for each in told),
            catalogues=frozenset.intersection(*digests),
        )

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
            aborted,
        )
        try:
            rows = [answer["meta_info"]["output_token_ids_logprobs"][0] for answer in answers]
            pairs = [[(int(token), float(log)) for log, token, *_ in row] for row in rows]
        except (TypeError, KeyError, IndexError, ValueError):
            pairs = []
        return _checked(pairs, tokens)

    async def write(
        self, client: ServerClient, prompt: Sequence[int], budget: int, end: int, draw: Draw, *, scored: bool
    ) -> Written:
        """See `ServerProtocol.write`; one request, or two where scored and drawn at another temperature than 1."""
        at_once = scored and draw.temperature == 1
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
                **({"return_logprob": True} if at_once else {}),
            },
            aborted,
        )
        tokens = _tokens(answer, "output_ids")
        if at_once:
            return Written(tokens, _checked_logs(_reported(answer, "output_token_logprobs"), tokens))
        return Written(tokens, await self._logs_of(client, prompt, tokens) if scored else None)

    async def _logs_of(self, client: ServerClient, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
        answer = await client.post(
            "/generate",
            {
                "input_ids": [*prompt, *tokens],
                "sampling_params": {"max_new_tokens": 0, "temperature": 1.0},
                "return_logprob": True,
                "logprob_start_len": len(prompt) - 1,
            },
            aborted,
        )
        return _checked_logs(_reported(answer, "input_token_logprobs")[1:], tokens)


class VLLMProtocol:
    """vLLM's interface of tokens in, tokens out."""

    async def abilities(self, client: ServerClient) -> Abilities:
        """See `ServerProtocol.abilities`."""
        return Abilities()

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

    async def write(
        self, client: ServerClient, prompt: Sequence[int], budget: int, end: int, draw: Draw, *, scored: bool
    ) -> Written:
        """See `ServerProtocol.write`; one request."""
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
                    **({"logprobs": 1} if scored else {}),
                },
            },
        )
        choices = answer.get("choices") if isinstance(answer, dict) else None
        choice: Any = choices[0] if isinstance(choices, list) and choices else None
        tokens = _tokens(choice, "token_ids")
        if not scored:
            return Written(tokens, None)
        try:
            logs = [part["logprob"] for part in choice["logprobs"]["content"]]
        except (TypeError, KeyError):
            logs = []
        return Written(tokens, _checked_logs(logs, tokens))


PROTOCOLS: dict[ServerEngine, type[ServerProtocol]] = {
    ServerEngine.sglang: SGLangProtocol,
    ServerEngine.vllm: VLLMProtocol,
}


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
                raise GreamError(_BROKEN)
            return logs
    raise GreamError(_NOT_HELD)


def _reported(answer: Any, name: str) -> list[Any]:
    """SGLang's log-probabilities of tokens; none where the answer holds none."""
    try:
        return [log for log, *_ in answer["meta_info"][name]]
    except (TypeError, KeyError, ValueError):
        return []


def _checked_logs(logs: Sequence[Any], tokens: Sequence[int]) -> list[float]:
    """A log-probability for each of ``tokens``."""
    # vLLM writes its least value, -9999, for a token that it knows none of.
    if len(logs) != len(tokens) or not all(isinstance(log, float | int) and not log <= -9999 for log in logs):
        raise GreamError(_NOT_HELD)
    if any(math.isnan(log) for log in logs):
        raise GreamError(_BROKEN)
    return [float(log) for log in logs]


def _tokens(answer: Any, name: str) -> list[int]:
    tokens = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise GreamError(f"the server's answer holds no '{name}'; is it the --engine named?")
    return tokens
