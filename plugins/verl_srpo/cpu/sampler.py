"""Samples responses from a small transformers model, each from its own random numbers.

A response depends on the weights, its prompt and its random numbers, and on nothing else: not on which requests share
its batch, nor on their order. To that end the model runs in float64, where what a batch's shape does to the order of
summation (1e-15) is too small to tip a draw. Weights, and so probabilities, are those of the float32 policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gream.decoding.answer import AnswerConstraint
from gream.decoding.cache import growing_cache
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.masking_utils import sdpa_mask

from verl_srpo.support import Choices

_ATTENTION = "grouped_sdpa"

# Finished rows are dropped when this share of the rows at work has finished: dropping copies the cache.
_DROP_SHARE = 0.25

# Tokens among which a nucleus (top-p) is looked for first.
_NUCLEUS = 64


@dataclass(frozen=True)
class SamplingParameters:
    """How tokens are drawn.

    Attributes:
        temperature: Logits are divided by it; 0 takes the likeliest token.
        top_p: Share of probability that the candidates hold together; 1 for all.
        top_k: Number of candidates; 0 for all.
        max_tokens: Length at which a response ends unfinished.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


@dataclass(frozen=True)
class Request:
    """One response to sample.

    Attributes:
        prompt: Token ids.
        uniforms: float64 ``[max_tokens]`` in [0, 1), one per token.
    """

    prompt: tuple[int, ...]
    uniforms: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Response:
    """What was sampled.

    Attributes:
        token_ids: Up to and with the end token, or ``max_tokens`` of them.
        log_probs: Of each token under the temperature, before top-p and top-k: what verl's actor computes.
    """

    token_ids: list[int]
    log_probs: list[float]


def load_sampling_model(path: str) -> Any:
    """The model in the folder ``path``, ready for `sample_responses`."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, attn_implementation=_ATTENTION).eval()


def _grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    # The kernel lets the query heads of a group share keys and values; transformers' "sdpa", given a mask, would copy
    # them out for each head and token, which takes longer than the attention.
    output = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
        is_causal=attention_mask is None and query.shape[2] > 1,
        enable_gqa=True,
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _grouped_attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


@torch.inference_mode()
def sample_responses(
    model: Any,
    requests: Sequence[Request],
    parameters: SamplingParameters,
    *,
    end_token: int | None,
    constraint: AnswerConstraint | None = None,
) -> list[Response]:
    """Sample one response to each request.

    Args:
        model: From `load_sampling_model`.
        requests: In any order; equal prompts are read once.
        parameters: For all requests.
        end_token: Ends a response; None for responses of full length.
        constraint: What answers may be; None for anything.
    """
    prompts = sorted({request.prompt for request in requests})
    place = {prompt: row for row, prompt in enumerate(prompts)}
    length = max(map(len, prompts))
    ids = torch.zeros(len(prompts), length, dtype=torch.long)  # [P, L]
    mask = torch.zeros(len(prompts), length + parameters.max_tokens, dtype=torch.long)  # [P, L + T]
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    cache = growing_cache()
    positions = (mask[:, :length].cumsum(dim=-1) - 1).clamp(min=0)
    logits = model(
        input_ids=ids,
        attention_mask=mask[:, :length],
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]  # [P, V]

    # From here on one row per request, and fewer as they finish.
    working = torch.arange(len(requests))
    source = torch.tensor([place[request.prompt] for request in requests])
    cache.batch_select_indices(source)
    logits, mask, position = logits[source], mask[source], positions[source, -1]
    uniforms = torch.from_numpy(np.stack([request.uniforms for request in requests]))  # [B, T]
    tokens = torch.zeros(len(requests), parameters.max_tokens, dtype=torch.long)
    log_probs = torch.zeros(len(requests), parameters.max_tokens, dtype=torch.float64)
    lengths = torch.full((len(requests),), parameters.max_tokens)
    finished = torch.zeros(len(requests), dtype=torch.bool)
    states = [AnswerConstraint.START] * len(requests)
    for step in range(parameters.max_tokens):
        if constraint is not None:
            logits = _confined(logits, [constraint.allowed(states[row]) for row in working.tolist()])
        drawn, log_prob = _draw(logits, uniforms[working, step], parameters)
        if constraint is not None:
            for row, token in zip(working.tolist(), drawn.tolist(), strict=True):
                states[row] = constraint.after(states[row], token)
        tokens[working, step], log_probs[working, step] = drawn, log_prob
        if end_token is not None:
            ends = (drawn == end_token) & ~finished
            lengths[working[ends]] = step + 1
            finished |= ends
        if bool(finished.all()) or step == parameters.max_tokens - 1:
            break
        if float(finished.double().mean()) >= _DROP_SHARE:
            keep = torch.nonzero(~finished).squeeze(-1)
            cache.batch_select_indices(keep)
            working, drawn, mask, position = working[keep], drawn[keep], mask[keep], position[keep]
            finished = finished[keep]
        position = position + 1
        logits = model(
            input_ids=drawn[:, None],
            attention_mask=mask[:, : length + step + 1],
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return [
        Response(tokens[row, :end].tolist(), log_probs[row, :end].tolist()) for row, end in enumerate(lengths.tolist())
    ]


def _confined(logits: torch.Tensor, allowed: Sequence[npt.NDArray[np.int64] | None]) -> torch.Tensor:
    """Logits ``[B, V]`` without the tokens that each row does not allow; None allows all."""
    some = {row: tokens for row, tokens in enumerate(allowed) if tokens is not None}
    return Choices.of([(row,) for row in some], list(some.values()), "cpu").restrict(logits) if some else logits


def _draw(
    logits: torch.Tensor, uniform: torch.Tensor, parameters: SamplingParameters
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row and its log-probability, from logits ``[B, V]`` and uniform numbers ``[B]``."""
    if parameters.temperature > 0:
        logits = logits / parameters.temperature
    log_probs = torch.log_softmax(logits, dim=-1)
    if parameters.temperature == 0:
        drawn = log_probs.argmax(dim=-1)
    else:
        probs = _candidates(log_probs.exp(), parameters)
        # Inverse of the distribution function: the first token whose cumulated probability exceeds the number.
        cumulated = probs.cumsum(dim=-1)
        threshold = uniform[:, None] * cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, threshold, right=True).squeeze(-1)
    return drawn, log_probs.gather(-1, drawn[:, None]).squeeze(-1)


def _candidates(probs: torch.Tensor, parameters: SamplingParameters) -> torch.Tensor:
    """``probs`` ``[B, V]`` with every token outside top-k and top-p set to 0."""
    if parameters.top_p >= 1 and parameters.top_k <= 0:
        return probs
    # The nucleus is small, and to sort a whole vocabulary takes as long as the model does.
    width = min(parameters.top_k or _NUCLEUS, probs.shape[-1])
    ordered, order = probs.topk(width, dim=-1)
    while not parameters.top_k and width < probs.shape[-1] and bool((ordered.sum(dim=-1) < parameters.top_p).any()):
        width = min(4 * width, probs.shape[-1])
        ordered, order = probs.topk(width, dim=-1)
    # A token is in the nucleus while those before it do not fill the share yet; the first one always is.
    keep = ordered.cumsum(dim=-1) - ordered < parameters.top_p
    return torch.zeros_like(probs).scatter(-1, order, ordered * keep)
