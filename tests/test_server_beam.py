"""Item search over a server: the lists and scores of the search in process, whatever the protocol."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from eval_support import make_catalog, make_checkpoint, make_model, make_run, make_tokenizer
from gream.decoding.beam import TrieBeamSearch
from gream.decoding.chain import ChainWriter
from gream.decoding.chain_text import ChainText
from gream.decoding.choices import Score, ServerEngine
from gream.decoding.server_beam import ServerBeamSearch
from gream.decoding.server_client import ServerClient, ServerSettings
from gream.decoding.server_protocol import PROTOCOLS, Draw
from gream.dialogue import ANSWER_OPEN
from gream.errors import GreamError
from gream.semantic_ids.trie import PrefixTrie
from hypothesis import given, settings
from hypothesis import strategies as st
from server_support import StubModel, StubServer
from sglang_gream.search import EMPTY, DeviceTrie, Search
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = make_model(64)
PIECES = ["<answer>", "<an", "swer>", "x", "<think>", " é", "<|im_end|>"]
TOKENIZER = make_tokenizer(make_catalog(4))


async def logs_of_model(prefixes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]) -> list[Any]:
    """Each prefix read by a plain forward pass of its own."""
    logs = []
    for prefix, wanted in zip(prefixes, tokens, strict=True):
        with torch.no_grad():
            row = MODEL(torch.tensor([list(prefix)])).logits[0, -1].double().log_softmax(0)
        logs.append(row[list(wanted)].float().numpy())
    return logs


IDS = st.sets(st.lists(st.integers(0, 63), min_size=1, max_size=4).map(tuple), min_size=1, max_size=25)
PROMPTS = st.lists(st.integers(0, 63), min_size=1, max_size=6)
EXCLUDED = st.sets(st.integers(0, 23), max_size=12)


@settings(max_examples=25)
@given(IDS, PROMPTS, st.integers(1, 12), st.sampled_from(list(Score)), EXCLUDED)
def test_the_search_is_the_one_in_process(
    ids: set[tuple[int, ...]], prompt: list[int], beams: int, score: Any, excluded: set[int]
) -> None:
    trie = PrefixTrie.build(sorted(ids))
    k = min(beams, 5)
    exclude = excluded & set(range(len(ids) - 1))  # the last item is left
    here = TrieBeamSearch(MODEL, trie, k=k, beams=beams, score=score).search([prompt], [exclude])
    items, scores = asyncio.run(ServerBeamSearch(trie, k, beams, score).search(prompt, logs_of_model, exclude))
    # The scores of this model lie far apart; where two do not, either order is right.
    np.testing.assert_allclose(scores, here.scores[0], atol=1e-4)
    swapped = items != here.items[0]
    assert not swapped.any() or np.isclose(np.diff(np.sort(scores)), 0, atol=1e-4).any()


def native_search(
    trie: PrefixTrie, prompt: list[int], k: int, beams: int, score: Score, exclude: set[int]
) -> tuple[list[int], list[float]]:
    """What SGLang makes of `sglang_gream.search`: it extends beams as told, and sorts what has ended."""
    search = Search(DeviceTrie(trie, "cpu"), beams=beams, k=k, score=score, excluded=exclude)
    paths, scores = [prompt], torch.zeros(1)
    found: list[tuple[float, list[int]]] = []
    for _ in range(trie.depth):
        with torch.no_grad():
            step = search.step(scores, MODEL(torch.tensor(paths)).logits[:, -1])
        last = zip(step.last_scores.tolist(), step.last_parents.tolist(), step.last_tokens.tolist(), strict=True)
        found += [(score, [*paths[parent], token]) for score, parent, token in last if score > EMPTY / 2]
        nexts = zip(step.parents.tolist(), step.tokens.tolist(), strict=True)
        paths, scores = [[*paths[parent], token] for parent, token in nexts], step.scores
        assert len(paths) == beams
    found.sort(key=lambda each: -each[0])
    items = []
    for _, path in found[:k]:
        node: int | None = 0
        for token in path[len(prompt) :]:
            assert node is not None
            node = trie.child(node, token)
        assert node is not None
        items.append(int(trie.item[node]))
    return items, [score for score, _ in found[:k]]


@settings(max_examples=40)
@given(IDS, PROMPTS, st.integers(2, 12), st.sampled_from(list(Score)), EXCLUDED)
def test_the_search_inside_sglang_is_the_one_in_process(
    ids: set[tuple[int, ...]], prompt: list[int], beams: int, score: Any, excluded: set[int]
) -> None:
    trie = PrefixTrie.build(sorted(ids))
    exclude = excluded & set(range(len(ids) - 1))  # the last item is left
    k = min(beams, 5, len(ids))
    here = TrieBeamSearch(MODEL, trie, k=k, beams=beams, score=score).search([prompt], [exclude])
    items, scores = native_search(trie, prompt, k, beams, score, exclude)
    np.testing.assert_allclose(scores, here.scores[0], atol=1e-4)
    swapped = items != here.items[0]
    assert not swapped.any() or np.isclose(np.diff(np.sort(scores)), 0, atol=1e-4).any()


def test_impossible_settings_are_refused() -> None:
    trie = PrefixTrie.build([[1, 2], [3]])
    assert ServerBeamSearch(trie, k=10, beams=2).k == 2
    with pytest.raises(GreamError, match="1 beams cannot fill a list of 2 items"):
        ServerBeamSearch(trie, k=2, beams=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(make_run(tmp_path_factory.mktemp("server") / "run"))


@pytest.fixture(scope="module")
def server(folder: Path) -> Any:
    with StubServer(StubModel(folder)) as stub:
        yield stub


@pytest.mark.parametrize("engine", ServerEngine)
def test_over_both_protocols_lists_are_those_in_process(engine: ServerEngine, folder: Path, server: StubServer) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    # 150 tokens may begin an id: more than vLLM names at once.
    ids = [[first, 150 + first % 7] for first in range(100, 250)] + [[first, 99, first] for first in range(5, 9)]
    trie = PrefixTrie.build(ids)
    prompts = [[1, 2, 3, 4], [7] * 9]
    here = TrieBeamSearch(model, trie, k=10, beams=20).search(prompts)

    async def main() -> list[Any]:
        async with ServerClient(ServerSettings((server.url,))) as client:

            async def next_logs(prefixes: Any, tokens: Any) -> Any:
                return await PROTOCOLS[engine]().next_logs(client, prefixes, tokens)

            search = ServerBeamSearch(trie, k=10, beams=20)
            return await asyncio.gather(*(search.search(prompt, next_logs) for prompt in prompts))

    for (items, scores), items_here, scores_here in zip(asyncio.run(main()), here.items, here.scores, strict=True):
        assert items.tolist() == items_here.tolist()
        np.testing.assert_allclose(scores, scores_here, atol=1e-4)


@pytest.mark.parametrize("engine", ServerEngine)
def test_chains_are_those_in_process(engine: ServerEngine, folder: Path, server: StubServer) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    prompts = [[1, 2, 3, 4], [7] * 9, [20, 30]]
    here, _ = ChainWriter(model, tokenizer, budget=10).write(prompts, keys=range(3))
    text = ChainText(tokenizer)

    async def main(draw: Draw, *, scored: bool = False) -> list[Any]:
        async with ServerClient(ServerSettings((server.url,))) as client:
            protocol = PROTOCOLS[engine]()
            written = [await protocol.write(client, prompt, 10, text.end, draw, scored=scored) for prompt in prompts]
            return [text.read(each.tokens, each.logs) for each in written]

    assert asyncio.run(main(Draw(0.0, 0))) == here
    scored = asyncio.run(main(Draw(0.0, 0), scored=True))
    assert scored == here
    np.testing.assert_allclose([chain.score for chain in scored], [chain.score for chain in here], atol=1e-4)
    warm = asyncio.run(main(Draw(1.5, 3)))
    assert warm == asyncio.run(main(Draw(1.5, 3))) != asyncio.run(main(Draw(1.5, 4)))


@given(st.data())
def test_a_chain_read_at_once_is_the_chain_written_token_by_token(data: st.DataObject) -> None:
    tokenizer, reader = TOKENIZER, ChainText(TOKENIZER)
    pieces = data.draw(st.lists(st.sampled_from(PIECES), max_size=6))
    tokens = [token for piece in pieces for token in tokenizer(piece, add_special_tokens=False)["input_ids"]]
    chain = reader.read(tokens)
    before = tokens[: tokens.index(reader.end)] if reader.end in tokens else tokens
    whole = tokenizer.decode(before)
    assert chain.complete == (ANSWER_OPEN in whole)
    assert chain.text == whole.partition(ANSWER_OPEN)[0] + ANSWER_OPEN
    assert tokenizer.decode(chain.tokens) == chain.text


def vllm_list(top: list[dict[str, Any]]) -> dict[str, Any]:
    return {"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}


class _Answers:
    """A client whose server says what it is told to."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def post(self, path: str, body: Any, unfinished: Any = None) -> Any:
        return self._answer


@pytest.mark.parametrize(
    ("engine", "answer"),
    [
        (ServerEngine.sglang, {"error": "?"}),
        (ServerEngine.sglang, []),
        (ServerEngine.sglang, [{"meta_info": {}}]),
        (ServerEngine.sglang, [{"meta_info": {"output_token_ids_logprobs": [[[-1.0, 4, None]]]}}]),
        (ServerEngine.vllm, {"choices": []}),
        (ServerEngine.vllm, {"choices": [{"logprobs": None}]}),
        (
            ServerEngine.vllm,
            {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "a", "logprob": -1.0}]}]}}]},
        ),
        (
            ServerEngine.vllm,
            {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "token_id:4", "logprob": -1}]}]}}]},
        ),
    ],
)
def test_an_answer_without_what_was_asked_for_is_one_line(engine: ServerEngine, answer: Any) -> None:
    client: Any = _Answers(answer)
    with pytest.raises(GreamError, match="does not hold the log-probabilities that were asked for"):
        asyncio.run(PROTOCOLS[engine]().next_logs(client, [[1]], [[4, 5]]))
    with pytest.raises(GreamError, match=r"the server's answer holds no '(output_ids|token_ids)'"):
        asyncio.run(PROTOCOLS[engine]().write(client, [1], 4, 2, Draw(0.0, 0), scored=True))


@pytest.mark.parametrize(
    ("engine", "held", "message"),
    [
        (ServerEngine.sglang, {}, "does not hold the log-probabilities"),
        (
            ServerEngine.sglang,
            {"input_token_logprobs": [[None, 1, None], [-1.0, 5, None]]},
            "does not hold the log-probabilities",
        ),
        (ServerEngine.sglang, {"input_token_logprobs": [[None, 1], [-1.0, 5], [math.nan, 6]]}, "not numbers"),
        (ServerEngine.vllm, None, "does not hold the log-probabilities"),
        (ServerEngine.vllm, {"content": [{"logprob": -1.0}]}, "does not hold the log-probabilities"),
        (
            ServerEngine.vllm,
            {"content": [{"logprob": -1.0}, {"logprob": -9999.0}]},
            "does not hold the log-probabilities",
        ),
        (ServerEngine.vllm, {"content": [{"logprob": -1.0}, {"logprob": math.nan}]}, "not numbers"),
    ],
)
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_a_chain_without_its_log_probabilities_is_one_line(
    engine: ServerEngine, held: Any, message: str, temperature: float
) -> None:
    if engine == "sglang" and temperature == 1:  # told with the chain, so without its prompt
        held = {"output_token_logprobs": held.get("input_token_logprobs", [])[1:]}
    here = {"output_ids": [5, 6], "meta_info": held}
    client: Any = _Answers(here if engine == "sglang" else {"choices": [{"token_ids": [5, 6], "logprobs": held}]})
    with pytest.raises(GreamError, match=message):
        asyncio.run(PROTOCOLS[engine]().write(client, [1], 4, 2, Draw(temperature, 0), scored=True))


@given(st.lists(st.floats(-20, 0), max_size=8), st.lists(st.sampled_from(PIECES), max_size=6))
def test_a_chain_is_scored_by_what_was_written_up_to_its_end(logs: list[float], pieces: list[str]) -> None:
    reader = ChainText(TOKENIZER)
    tokens = [token for piece in pieces for token in TOKENIZER(piece, add_special_tokens=False)["input_ids"]]
    tokens, logs = tokens[: len(logs)], logs[: len(tokens)]
    chain = reader.read(tokens, logs)
    counted = next(
        (
            count
            for count in range(len(tokens) + 1)
            if reader.end in tokens[:count] or ANSWER_OPEN in TOKENIZER.decode(tokens[:count])
        ),
        len(tokens),
    )
    assert chain.score == pytest.approx(sum(logs[:counted])) and chain == reader.read(tokens)


def test_probabilities_that_are_not_numbers_are_named() -> None:
    client: Any = _Answers([{"meta_info": {"output_token_ids_logprobs": [[[math.nan, 4, None]]]}}])
    with pytest.raises(GreamError, match="not numbers; the checkpoint is broken"):
        asyncio.run(PROTOCOLS[ServerEngine.sglang]().next_logs(client, [[1]], [[4]]))
