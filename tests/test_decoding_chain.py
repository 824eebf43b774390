"""Chains against a plain loop of full forward passes, and what becomes of those that never answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from eval_support import make_model, make_tokenizer
from gream.decoding.chain import ChainWriter, Sampling
from gream.decoding.chain_text import Chain
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

CATALOG = Catalog([["<|a_1|>", "<|b_1|>"], ["<|a_1|>", "<|b_2|>"], ["<|a_2|>", "<|b_1|>"]])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(CATALOG)


class Scripted(torch.nn.Module):
    """Turns a random model into one that writes given continuations, and counts its rows."""

    def __init__(self, vocabulary: int, script: dict[int, Sequence[int]]) -> None:
        """``script`` maps the first token of a prompt to what follows; prompts have two tokens."""
        super().__init__()
        self.inner = make_model(vocabulary)
        self.config, self.base_model = self.inner.config, self._body
        self.script, self.vocabulary = script, vocabulary
        self.batches: list[int] = []
        self.head = torch.nn.Linear(1, 1, bias=False)
        self.head.weight = torch.nn.Parameter(torch.zeros(vocabulary, 1))
        self.eval()

    def get_output_embeddings(self) -> Any:
        return _OneHotHead(self.head.weight)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        hidden = self._body(input_ids, use_cache=use_cache).last_hidden_state
        return type("Output", (), {"logits": self.get_output_embeddings()(hidden)})

    def _body(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> Any:
        cache = past_key_values or _Text()
        cache.read(input_ids, attention_mask)
        wanted = [self._next(row) for row in cache.rows]
        self.batches.append(len(wanted))
        hidden = torch.tensor(wanted, dtype=torch.float32)[:, None, None].expand(-1, input_ids.shape[1], 1)
        return type("Output", (), {"last_hidden_state": hidden, "past_key_values": cache})

    def _next(self, row: list[int]) -> int:
        written = self.script.get(row[0], ())
        place = len(row) - 2
        # What was read back is what was written: no row got another's token.
        assert row[2:] == [*written, *[5] * len(row)][: max(place, 0)]
        return written[place] if 0 <= place < len(written) else 5


class _Text:
    """A cache that holds the tokens themselves."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        if not self.rows:
            real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
            self.rows = [row[keep].tolist() for row, keep in zip(ids, real, strict=True)]
        else:
            for row, new in zip(self.rows, ids.tolist(), strict=True):
                row.extend(new)

    def batch_select_indices(self, rows: torch.Tensor) -> None:
        self.rows = [self.rows[row] for row in rows.tolist()]


class _OneHotHead:
    """Logits that are 1 at the token number which the hidden state holds."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight
        self.bias = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(hidden[..., 0].long(), len(self.weight)).float()


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def naive_greedy(model: Any, tokenizer: Any, prompt: Sequence[int], budget: int) -> Chain:
    """One full forward pass per token, and the whole text looked at each time."""
    written: list[int] = []
    for _ in range(budget):
        with torch.no_grad():
            token = int(model(torch.tensor([[*prompt, *written]])).logits[0, -1].argmax())
        if token == tokenizer.convert_tokens_to_ids("<|im_end|>"):
            break
        written.append(token)
        if "<answer>" in tokenizer.decode(written):
            return Chain(tuple(written), tokenizer.decode(written), True)
    forced = (*written, *ids_of(tokenizer, "<answer>"))
    return Chain(forced, tokenizer.decode(written) + "<answer>", False)


def test_greedy_chains_are_those_of_a_plain_loop_whatever_the_batch(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = make_model(len(tokenizer), seed=2)
    random = np.random.default_rng(0)
    prompts = [random.integers(3, len(tokenizer), size=size).tolist() for size in (5, 17, 2, 9, 11)]
    model.generation_config.update(do_sample=True, temperature=5.0, eos_token_id=[4], max_new_tokens=1)
    expected = [naive_greedy(model, tokenizer, prompt, 12) for prompt in prompts]
    for batch_size in (1, 2, 5):
        writer = ChainWriter(model, tokenizer, budget=12, batch_size=batch_size)
        assert writer.write(prompts, keys=range(5)) == expected


def test_a_chain_ends_at_the_answer_or_is_forced_to(tokenizer: PreTrainedTokenizerFast) -> None:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    answer = ids_of(tokenizer, "<answer>")
    thought = ids_of(tokenizer, "so <|a_1|><|b_2|>, é\n")
    assert len(answer) > 1  # the mark is found although it is written in pieces
    script = {
        10: [*thought, *answer, *thought],
        11: [*thought, end, *answer],
        12: thought * 9,
        13: answer,
        14: [end],
    }
    model = Scripted(len(tokenizer), script)
    writer = ChainWriter(model, tokenizer, budget=len(thought) + len(answer), batch_size=8)
    model.batches.clear()
    chains = writer.write([[key, 5] for key in script], keys=range(5))
    text = "so <|a_1|><|b_2|>, é\n"
    assert chains[0] == Chain((*thought, *answer), text + "<answer>", True)
    assert chains[1] == Chain((*thought, *answer), text + "<answer>", False)
    assert chains[2].complete is False and len(chains[2].tokens) == len(thought) + 2 * len(answer)
    assert chains[3] == Chain(tuple(answer), "<answer>", True)
    assert chains[4] == Chain(tuple(answer), "<answer>", False)
    # Rows leave the batch when they are done: the last step reads only the ones still written.
    assert (model.batches[0], model.batches[1], model.batches[-1]) == (5, 4, 2)


def test_a_token_that_runs_past_the_mark_is_cut_there() -> None:
    wide = make_tokenizer(CATALOG)
    wide.add_tokens([AddedToken("r>!!", normalized=False)])
    script = {10: [*ids_of(wide, "why <answe"), wide.convert_tokens_to_ids("r>!!")]}
    [chain] = ChainWriter(Scripted(len(wide), script), wide, budget=20, batch_size=1).write([[10, 5]], keys=[0])
    assert chain == Chain(tuple(ids_of(wide, "why <answer>")), "why <answer>", True)


def test_sampled_chains_depend_on_seed_and_key_and_not_on_the_batch(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = make_model(len(tokenizer), seed=2)
    prompts = [[7, 8, 9]] * 4

    def write(seed: int, keys: Sequence[int], batch_size: int) -> list[Chain]:
        sampling = Sampling(temperature=1.5, seed=seed)
        writer = ChainWriter(model, tokenizer, budget=8, batch_size=batch_size, sampling=sampling)
        return writer.write(prompts, keys=keys)

    one = write(0, [1, 2, 3, 1], 4)
    assert one[0] == one[3] and one[0] != one[1]
    assert write(0, [1, 2, 3, 1], 1) == one
    assert write(1, [1, 2, 3, 1], 4) != one


def test_several_chains_of_a_prompt_read_once_are_those_of_the_prompt_repeated(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = make_model(len(tokenizer), seed=2)
    prompts = [[7, 8, 9], [5, 6, 7, 8, 9, 10], [11]]

    def write(prompts: list[list[int]], batch_size: int, per_prompt: int) -> list[Chain]:
        sampling = Sampling(temperature=1.5, seed=0)
        writer = ChainWriter(model, tokenizer, budget=8, batch_size=batch_size, sampling=sampling)
        return writer.write(prompts, keys=range(len(prompts)), per_prompt=per_prompt)

    four = write(prompts, 12, 4)
    assert len(four) == 12 and len({chain.tokens for chain in four}) > 6
    assert four[::4] == write(prompts, 3, 1)  # the first chain does not depend on how many follow
    assert write(prompts, 1, 4) == four
    for prompt, chain in zip([prompt for prompt in prompts for _ in range(4)], four, strict=True):
        with torch.no_grad():
            logs = model(torch.tensor([[*prompt, *chain.tokens]])).logits[0].double().log_softmax(1)
        written = chain.tokens if chain.complete else chain.tokens[: -len(ids_of(tokenizer, "<answer>"))]
        exact = sum(float(logs[len(prompt) - 1 + at, token]) for at, token in enumerate(written))
        if len(written) == 8:  # no end of turn, which counts too
            assert chain.score == pytest.approx(exact, abs=1e-3)
        else:
            assert chain.score < exact


def test_sampled_tokens_follow_the_tempered_distribution(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(len(tokenizer), seed=4, spread=0.08)
    prompt = [7, 8, 9]
    draws = 3000
    writer = ChainWriter(model, tokenizer, budget=1, batch_size=draws, sampling=Sampling(temperature=0.5, seed=0))
    first = [chain.tokens[0] for chain in writer.write([prompt] * draws, keys=range(draws))]
    with torch.no_grad():
        expected = (model(torch.tensor([prompt])).logits[0, -1].double() / 0.5).softmax(0).numpy()
    counts = np.bincount(first, minlength=len(tokenizer))
    # Pearson's statistic over tokens expected five times or more stays within five deviations of its mean.
    common = expected * draws >= 5
    statistic = ((counts - expected * draws) ** 2 / (expected * draws))[common].sum()
    assert common.sum() > 20
    assert abs(statistic - common.sum()) < 5 * np.sqrt(2 * common.sum())


def test_impossible_settings_are_named(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(len(tokenizer))
    with pytest.raises(GreamError, match="a chain of 0 tokens"):
        ChainWriter(model, tokenizer, budget=0, batch_size=1)
    with pytest.raises(GreamError, match="batch size 0"):
        ChainWriter(model, tokenizer, budget=4, batch_size=0).write([[1]], keys=[0])
    with pytest.raises(GreamError, match=r"temperature 0\.0: above 0"):
        Sampling(temperature=0.0, seed=0)
    with pytest.raises(GreamError, match="exceed the model's 512 positions"):
        ChainWriter(model, tokenizer, budget=510, batch_size=1).write([[1]], keys=[0])
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?")))
    with pytest.raises(GreamError, match=r"does not know <\|im_end\|>"):
        ChainWriter(model, words, budget=4, batch_size=1)
