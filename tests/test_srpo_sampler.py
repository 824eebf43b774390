"""Sampling on the CPU: what is drawn is what the model says, and depends on nothing but prompt and random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from srpo_support import tiny_model, tiny_tokenizer
from verl_srpo.cpu.sampler import Request, SamplingParameters, _candidates, load_sampling_model, sample_responses

PLAIN = SamplingParameters(temperature=1.0, top_p=1.0, top_k=0, max_tokens=12)
GREEDY = SamplingParameters(temperature=0.0, top_p=1.0, top_k=0, max_tokens=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    tiny_model(tiny_tokenizer()).save_pretrained(folder)
    return load_sampling_model(str(folder))


@pytest.fixture(scope="module")
def plain_model(model: Any) -> Any:
    """The same weights behind transformers' own attention."""
    plain = tiny_model(tiny_tokenizer()).double().eval()
    plain.load_state_dict(model.state_dict())
    return plain


def requests_for(*prompts: tuple[int, ...], seed: int = 0, length: int = 12) -> list[Request]:
    random = np.random.default_rng(seed)
    return [Request(prompt, random.random(length)) for prompt in prompts]


def log_prob_of(model: Any, prompt: tuple[int, ...], response: list[int], temperature: float = 1.0) -> list[float]:
    """One forward pass over the whole sequence, without cache, padding or batch."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1] / temperature
    return torch.log_softmax(logits, dim=-1)[range(len(response)), response].tolist()


def test_log_probs_are_the_models(model: Any, plain_model: Any) -> None:
    requests = requests_for((5, 6, 7), (8,), (5, 6, 7), (9, 10, 11, 12, 13, 14))
    for temperature in (1.0, 0.6):
        parameters = SamplingParameters(temperature, 1.0, 0, 12)
        for request, response in zip(
            requests, sample_responses(model, requests, parameters, end_token=None), strict=True
        ):
            assert len(response.token_ids) == 12
            expected = log_prob_of(plain_model, request.prompt, response.token_ids, temperature)
            assert response.log_probs == pytest.approx(expected, abs=1e-6)


def test_greedy_agrees_with_transformers(model: Any, plain_model: Any) -> None:
    prompt = (20, 21, 22, 23)
    response = sample_responses(model, requests_for(prompt, (4,)), GREEDY, end_token=None)[0]
    expected = plain_model.generate(
        torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, 4:]
    assert response.token_ids == expected.tolist()


def test_tokens_are_drawn_with_their_probability(model: Any) -> None:
    """Evenly spread random numbers give each token its share of draws, to within one draw."""
    draws = 2000
    requests = [Request((5, 6, 7), np.array([(number + 0.5) / draws])) for number in range(draws)]
    parameters = SamplingParameters(1.0, 1.0, 0, 1)
    responses = sample_responses(model, requests, parameters, end_token=None)
    counts = np.bincount([response.token_ids[0] for response in responses], minlength=model.config.vocab_size)
    with torch.inference_mode():
        probs = torch.softmax(model(torch.tensor([[5, 6, 7]])).logits[0, -1], dim=-1).numpy()
    assert np.abs(counts - draws * probs).max() <= 1.0 + 1e-6


@settings(max_examples=15)
@given(data=st.data())
def test_company_and_order_change_nothing(model: Any, data: st.DataObject) -> None:
    prompts = data.draw(
        st.lists(st.lists(st.integers(3, 200), min_size=1, max_size=9).map(tuple), min_size=2, max_size=6)
    )
    requests = requests_for(*prompts, seed=data.draw(st.integers(0, 99)))
    # An end that one of them draws early, so that rows finish and are dropped while others go on.
    full = sample_responses(model, requests, PLAIN, end_token=None)
    end = full[data.draw(st.integers(0, len(full) - 1))].token_ids[data.draw(st.integers(0, 5))]
    together = sample_responses(model, requests, PLAIN, end_token=end)
    order = data.draw(st.permutations(range(len(requests))))
    shuffled = sample_responses(model, [requests[row] for row in order], PLAIN, end_token=end)
    for place, row in enumerate(order):
        alone = sample_responses(model, [requests[row]], PLAIN, end_token=end)[0]
        assert together[row].token_ids == shuffled[place].token_ids == alone.token_ids
        assert together[row].log_probs == pytest.approx(alone.log_probs, abs=1e-7)


def test_end_token_ends_a_response_and_the_others_go_on(model: Any) -> None:
    # Cold enough for tokens to come again: a response must end at the first of them.
    cold = SamplingParameters(temperature=0.25, top_p=1.0, top_k=0, max_tokens=12)
    requests = requests_for(*[(5, number) for number in range(30, 46)])
    full = sample_responses(model, requests, cold, end_token=None)
    end = next(token for response in full for token in response.token_ids[1:4] if response.token_ids.count(token) > 1)
    ended = sample_responses(model, requests, cold, end_token=end)
    for before, after in zip(full, ended, strict=True):
        stop = before.token_ids.index(end) + 1 if end in before.token_ids else 12
        assert after.token_ids == before.token_ids[:stop]
        assert len(after.log_probs) == stop
    assert min(len(response.token_ids) for response in ended) < 12 == max(len(r.token_ids) for r in ended)


@settings(max_examples=100)
@given(
    weights=st.lists(st.floats(0.001, 1.0), min_size=2, max_size=12, unique=True),
    top_p=st.floats(0.05, 1.0),
    top_k=st.integers(0, 14),
)
def test_candidates_are_the_smallest_set_that_holds_the_share(weights: list[float], top_p: float, top_k: int) -> None:
    probs = torch.tensor([weights], dtype=torch.float64)
    probs /= probs.sum()
    ordered = sorted(probs[0].tolist(), reverse=True)
    before = [sum(ordered[:rank]) for rank in range(len(ordered))]
    # Where a sum meets the share to the last bit, either answer is right.
    assume(all(abs(share - top_p) > 1e-9 for share in before))
    kept = _candidates(probs, SamplingParameters(1.0, top_p, top_k, 1))[0]
    chosen = [probability for probability, share in zip(ordered, before, strict=True) if share < top_p]
    # Values, not places: of tokens equally likely any may be the last one in.
    assert sorted(kept[kept > 0].tolist(), reverse=True) == chosen[: top_k or None]
    assert torch.equal(kept[kept > 0], probs[0][kept > 0])


@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.9999])
def test_a_wide_nucleus_is_found_whole(top_p: float) -> None:
    flat = torch.linspace(1.0, 2.0, 700, dtype=torch.float64)
    peaked = torch.linspace(-40.0, 0.0, 700, dtype=torch.float64).exp()
    probs = torch.stack([flat / flat.sum(), peaked / peaked.sum()])
    kept = _candidates(probs, SamplingParameters(1.0, top_p, 0, 1))
    for row, before in zip(kept, probs, strict=True):
        size = int((row > 0).sum())
        assert row.sum() >= top_p > row.sum() - before[700 - size]
        assert torch.equal(row[700 - size :], before[700 - size :])


def test_top_k_of_one_is_greedy(model: Any) -> None:
    # A random number of exactly 0 must not fall on a token that is no candidate.
    requests = [*requests_for((5, 6, 7), (9,)), Request((5, 6, 7), np.zeros(12))]
    only_best = SamplingParameters(1.0, 1.0, 1, 12)
    assert [r.token_ids for r in sample_responses(model, requests, only_best, end_token=None)] == [
        r.token_ids for r in sample_responses(model, requests, GREEDY, end_token=None)
    ]


# Answers that only items can be.


@pytest.fixture(scope="module")
def constraint() -> Any:
    from gream.decoding.answer import AnswerConstraint

    # Ids of two lengths: the shorter one is no beginning of the longer ones.
    return AnswerConstraint([encode("<|a_1|><|b_2|>"), encode("<|a_2|><|b_2|><|c_1|>")], tiny_tokenizer())


def encode(text: str) -> list[int]:
    ids: list[int] = tiny_tokenizer().encode(text, add_special_tokens=False)
    return ids


def test_constrained_answers_are_items_and_their_probabilities_the_models_among_what_is_allowed(
    model: Any, plain_model: Any, constraint: Any
) -> None:
    from gream.dialogue import extract_answer
    from verl_srpo.support import Choices

    prompt = tuple(encode("<think>\nso\n</think>\n"))
    opening = encode("<answer>")
    parameters = SamplingParameters(0.8, 1.0, 0, 20)

    class Opening:
        """The model, made to begin with an answer: one of random weights never would."""

        config = model.config

        def __call__(self, **named: Any) -> Any:
            output = model(**named)
            said = named["attention_mask"].shape[1] - len(prompt)
            if said < len(opening):
                output.logits[..., opening[said]] = 1e4
            return output

    requests = requests_for(*[prompt] * 40, length=20)
    answers = set()
    for response in sample_responses(Opening(), requests, parameters, end_token=None, constraint=constraint):
        assert response.token_ids[: len(opening)] == opening
        answers.add(extract_answer("<think></think>" + tiny_tokenizer().decode(response.token_ids)))
        # As actor and reference see it: the whole sequence at once.
        tokens = [*prompt, *response.token_ids]
        with torch.inference_mode():
            logits = plain_model(torch.tensor([tokens])).logits[0] / 0.8
        rows = list(constraint.restrictions(tokens))
        choices = Choices.of([(at,) for at, _ in rows], [allowed for _, allowed in rows], "cpu")
        expected = torch.log_softmax(choices.restrict(logits), dim=-1)
        assert len(rows) >= 3
        for position in range(len(prompt) + len(opening) - 1, len(tokens) - 1):
            told = response.log_probs[position + 1 - len(prompt)]
            assert told == pytest.approx(float(expected[position, tokens[position + 1]]), abs=1e-5)
    assert answers == {"<|a_1|><|b_2|>", "<|a_2|><|b_2|><|c_1|>"}


def test_forbidden_tokens_take_no_part_in_entropy_or_gradient() -> None:
    from verl.utils.torch_functional import entropy_from_logits
    from verl_srpo.support import Choices

    logits = torch.tensor([[[0.3, 1.0, -2.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    restricted = Choices.of([(0, 1)], [np.array([0, 2])], "cpu").restrict(logits)
    entropy = entropy_from_logits(restricted)
    assert entropy[0, 1].item() == pytest.approx(np.log(2))
    torch.log_softmax(restricted, dim=-1)[0, 1, 0].backward()
    assert logits.grad is not None
    assert logits.grad[0, 1].tolist() == pytest.approx([0.5, 0.0, -0.5])
