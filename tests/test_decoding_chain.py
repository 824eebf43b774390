"""Chains against a plain loop of full forward passes, and what becomes of those that never answer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from eval_support import make_model, make_tokenizer
from gream.decoding.beam import TrieBeamSearch
from gream.decoding.chain import ChainWriter, Sampling
from gream.decoding.chain_text import Chain
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.trie import PrefixTrie
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import DynamicCache, PreTrainedTokenizerFast

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
        self.rows: list[list[int]] = []  # all that was read, at last
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
        # Keys are the tokens themselves.
        cache = DynamicCache() if past_key_values is None else past_key_values
        tokens = input_ids[:, None, :, None].float()
        read, _ = cache.update(tokens, tokens, 0)
        mask = torch.ones_like(read[:, 0, :, 0], dtype=torch.bool) if attention_mask is None else attention_mask
        self.rows = [row[keep].long().tolist() for row, keep in zip(read[:, 0, :, 0], mask, strict=True)]
        wanted = [self._next(row) for row in self.rows]
        self.batches.append(len(wanted))
        hidden = torch.tensor(wanted, dtype=torch.float32)[:, None, None].expand(-1, input_ids.shape[1], 1)
        return type("Output", (), {"last_hidden_state": hidden, "past_key_values": cache})

    def _next(self, row: list[int]) -> int:
        written = self.script.get(row[0], ())
        place = len(row) - 2
        return written[place] if 0 <= place < len(written) else 5


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
    writer = ChainWriter(model, tokenizer, budget=12)
    for size in (1, 2, 5):
        written = [writer.write(prompts[start : start + size], keys=range(size)) for start in range(0, 5, size)]
        assert [chain for chains, _ in written for chain in chains] == expected


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
    writer = ChainWriter(model, tokenizer, budget=len(thought) + len(answer))
    model.batches.clear()
    chains, _ = writer.write([[key, 5] for key in script], keys=range(5))
    text = "so <|a_1|><|b_2|>, é\n"
    assert chains[0] == Chain((*thought, *answer), text + "<answer>", True)
    assert chains[1] == Chain((*thought, *answer), text + "<answer>", False)
    assert chains[2].complete is False and len(chains[2].tokens) == len(thought) + 2 * len(answer)
    assert chains[3] == Chain(tuple(answer), "<answer>", True)
    assert chains[4] == Chain(tuple(answer), "<answer>", False)
    # Rows leave the batch when they are done: the last step reads only the ones still written. Then the rest of every
    # chain is read, and no row got another's tokens.
    assert (model.batches[0], model.batches[1], *model.batches[-2:]) == (5, 4, 2, 5)
    assert model.rows == [[key, 5, *chain.tokens] for key, chain in zip(script, chains, strict=True)]


def test_a_token_that_runs_past_the_mark_is_cut_there() -> None:
    wide = make_tokenizer(CATALOG)
    wide.add_tokens([AddedToken("r>!!", normalized=False)])
    script = {10: [*ids_of(wide, "why <answe"), wide.convert_tokens_to_ids("r>!!")]}
    model = Scripted(len(wide), script)
    [chain], _ = ChainWriter(model, wide, budget=20).write([[10, 5]], keys=[0])
    assert chain == Chain(tuple(ids_of(wide, "why <answer>")), "why <answer>", True)
    assert model.rows == [[10, 5, *chain.tokens]]  # as it was cut, and not as it was written


def test_sampled_chains_depend_on_seed_and_key_and_not_on_the_batch(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = make_model(len(tokenizer), seed=2)
    prompts = [[7, 8, 9]] * 4

    def write(seed: int, keys: Sequence[int]) -> list[Chain]:
        writer = ChainWriter(model, tokenizer, budget=8, sampling=Sampling(temperature=1.5, seed=seed))
        return writer.write(prompts[: len(keys)], keys=keys)[0]

    one = write(0, [1, 2, 3, 1])
    assert one[0] == one[3] and one[0] != one[1]
    assert [chain for key in (1, 2, 3, 1) for chain in write(0, [key])] == one
    assert write(1, [1, 2, 3, 1]) != one


def test_several_chains_of_a_prompt_read_once_are_those_of_the_prompt_repeated(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = make_model(len(tokenizer), seed=2)
    prompts = [[7, 8, 9], [5, 6, 7, 8, 9, 10], [11]]

    writer = ChainWriter(model, tokenizer, budget=8, sampling=Sampling(temperature=1.5, seed=0))

    def write(prompts: list[list[int]], keys: Sequence[int], per_prompt: int) -> list[Chain]:
        return writer.write(prompts, keys=keys, per_prompt=per_prompt)[0]

    four = write(prompts, range(3), 4)
    assert len(four) == 12 and len({chain.tokens for chain in four}) > 6
    assert four[::4] == write(prompts, range(3), 1)  # the first chain does not depend on how many follow
    assert [chain for key in range(3) for chain in write([prompts[key]], [key], 4)] == four
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
    writer = ChainWriter(model, tokenizer, budget=1, sampling=Sampling(temperature=0.5, seed=0))
    first = [chain.tokens[0] for chain in writer.write([prompt] * draws, keys=range(draws))[0]]
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
        ChainWriter(model, tokenizer, budget=0)
    with pytest.raises(GreamError, match=r"temperature 0\.0: above 0"):
        Sampling(temperature=0.0, seed=0)
    with pytest.raises(GreamError, match="exceed the model's 512 positions"):
        ChainWriter(model, tokenizer, budget=510).write([[1]], keys=[0])
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?")))
    with pytest.raises(GreamError, match=r"does not know <\|im_end\|>"):
        ChainWriter(model, words, budget=4)


def test_the_search_behind_chains_is_the_one_that_reads_them_again(tokenizer: PreTrainedTokenizerFast) -> None:
    """Unequal prompts, and chains that end of themselves, with their turn and by the budget."""
    random = np.random.default_rng(0)
    ids = [tokenizer.convert_tokens_to_ids(list(tokens)) for tokens in CATALOG.ids]
    trie = PrefixTrie.build([*ids, *([token, token] for token in range(20, 40))])
    ends: set[str] = set()
    for seed in range(3):
        wide = copy.deepcopy(tokenizer)
        # Of a vocabulary whose tokens are likely to write the mark, and to run past it.
        wide.add_tokens([AddedToken(text, normalized=False) for text in ("<answer>", "r>!!", "<answe", "<answer>??")])
        model = make_model(len(wide), seed=seed, spread=0.1)
        with torch.no_grad():
            bias = torch.zeros(len(wide))
            bias[wide.convert_tokens_to_ids(["<answer>", "r>!!", "<answe", "<answer>??", "<|im_end|>"])] = 3.0
            model.lm_head.bias = torch.nn.Parameter(bias)
        prompts = [random.integers(3, len(wide), size=size).tolist() for size in (3, 40, 17, 1, 26)]
        for each, sampling in ((1, None), (1, Sampling(1.5, seed)), (5, Sampling(1.5, seed))):
            writer = ChainWriter(model, wide, budget=9, sampling=sampling)
            search = TrieBeamSearch(model, trie, k=6, beams=8)
            chains, read = writer.write(prompts, keys=range(5), per_prompt=each)
            texts = [[*prompts[at // each], *chain.tokens] for at, chain in enumerate(chains)]
            assert read.lengths.tolist() == list(map(len, texts))
            exclude = [[at % 3] for at in range(len(texts))]
            ours, theirs = search.search(read, exclude), search.search(texts, exclude)
            assert ours.items.tolist() == theirs.items.tolist()
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=2e-5)
            for chain in chains:
                written = len(chain.tokens) - (0 if chain.complete else len(ids_of(wide, "<answer>")))
                ends.add("of itself" if chain.complete else "by the budget" if written == 9 else "with its turn")
    assert len(ends) == 3
