"""The prefix trie beside what others constrain decoding with: seconds of the constraint, and of whole lists.

    OMP_NUM_THREADS=2 python scripts/bench/decoding.py --index Beauty.index.json.gz

8 users x 10 beams over the ids of the index, in a Qwen3 of random weights with 153,000 tokens. Set against it in the
same run, both under transformers' own beam search: ``prefix_allowed_tokens_fn`` with a dictionary of prefixes, and a
logits processor that looks up a hash of the prefix and builds a mask over the vocabulary. Lists are compared. Last,
lists behind a chain: from its keys and values, and from its tokens.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gream.decoding.beam import BeamResult, TrieBeamSearch
from gream.decoding.choices import Score
from gream.decoding.language_model import Encoded, LanguageModel
from gream.semantic_ids.published import disambiguate_index, read_index
from gream.semantic_ids.trie import PrefixTrie
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CHAINS = (80, 256)  # tokens
PROMPT_TOKENS = 140  # twenty items of four tokens, and the words around them


def make_ids(index: Path | None, vocabulary: int) -> list[tuple[int, ...]]:
    """Token ids of every item: the index's tokens are the last rows of the vocabulary.

    Without an index, 12,101 ids of four levels with 256 codes each, drawn at random.
    """
    if index is None:
        codes = np.random.default_rng(0).choice(256**4, size=12_101, replace=False)
        first = vocabulary - 4 * 256
        return [tuple(first + 256 * level + (int(code) >> 8 * level) % 256 for level in range(4)) for code in codes]
    ids = disambiguate_index(read_index(index))
    names = sorted({token for tokens in ids for token in tokens})
    token_of = {name: vocabulary - len(names) + at for at, name in enumerate(names)}
    return [tuple(token_of[token] for token in tokens) for tokens in ids]


def make_prompts(users: int, vocabulary: int) -> list[list[int]]:
    """Random prompts whose lengths differ by up to a tenth."""
    random = np.random.default_rng(0)
    lengths = random.integers(PROMPT_TOKENS * 9 // 10, PROMPT_TOKENS + 1, size=users)
    return [random.integers(0, vocabulary, size=length).tolist() for length in lengths]


def make_model(vocabulary: int, hidden: int, layers: int) -> Any:
    """A small Qwen3 of random weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=1,
        head_dim=64,
        tie_word_embeddings=True,
        initializer_range=0.1,  # scores far apart, so that lists can be compared
    )
    return Qwen3ForCausalLM(config).eval()


class HashOfPrefixMask(LogitsProcessor):
    """A dictionary from the hash of a prefix to its followers, and a mask over the vocabulary for every beam."""

    def __init__(self, ids: Sequence[Sequence[int]], prompt: int) -> None:
        self._prompt = prompt
        self._followers: dict[int, list[int]] = {}
        for tokens in ids:
            for length in range(len(tokens)):
                followers = self._followers.setdefault(hash(tuple(tokens[:length])), [])
                if tokens[length] not in followers:
                    followers.append(tokens[length])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores with everything that may not follow at minus infinity."""
        mask = torch.full_like(scores, -torch.inf)
        for row, tokens in enumerate(input_ids):
            mask[row, self._followers.get(hash(tuple(tokens[self._prompt :].tolist())), [])] = 0
        return scores + mask


def allowed_tokens(ids: Sequence[Sequence[int]], prompt: int) -> Callable[[int, torch.Tensor], list[int]]:
    """A ``prefix_allowed_tokens_fn`` with a dictionary of prefixes."""
    followers: dict[tuple[int, ...], set[int]] = {}
    for tokens in ids:
        for length in range(len(tokens)):
            followers.setdefault(tuple(tokens[:length]), set()).add(tokens[length])
    lists = {prefix: sorted(tokens) for prefix, tokens in followers.items()}
    return lambda _, tokens: lists.get(tuple(tokens[prompt:].tolist()), [0])


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """Median wall time after one run that does not count."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", type=Path, help="index.json of a catalogue; random ids by default")
    parser.add_argument("--vocabulary", type=int, default=153_000)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--beams", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    users, beams, vocabulary = arguments.users, arguments.beams, arguments.vocabulary

    # Ids of one length alone: transformers' beam search ends ids only by a token of their own.
    every = make_ids(arguments.index, vocabulary)
    depth = statistics.mode(map(len, every))
    ids = [tokens for tokens in every if len(tokens) == depth]
    trie = PrefixTrie.build(ids)
    print(
        f"{len(ids):,} of {len(every):,} items (ids of {depth} tokens), {len(trie.item):,} nodes, vocabulary "
        f"{vocabulary:,}, {users} users x {beams} beams, {torch.get_num_threads()} threads, medians of "
        f"{arguments.repeats}"
    )
    model = make_model(vocabulary, arguments.hidden, arguments.layers)
    prompts = make_prompts(users, vocabulary)
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    rivals: dict[str, LogitsProcessor] = {
        "prefix_allowed_tokens_fn": PrefixConstrainedLogitsProcessor(allowed_tokens(ids, width), beams),
        "hash of the prefix, mask": HashOfPrefixMask(ids, width),
    }

    # The constraint alone: one step at each level, every beam in the middle of some item's id.
    random = np.random.default_rng(1)
    chosen = [ids[at] for at in random.integers(len(ids), size=users * beams)]
    scores = torch.randn(users * beams, vocabulary)
    search = TrieBeamSearch(model, trie, k=beams, beams=beams)
    print("\nconstraint per step, milliseconds, mean over the levels")
    ours = 0.0
    taken = dict.fromkeys(rivals, 0.0)
    for level in range(depth):
        nodes = []
        for tokens in chosen:
            node = 0
            for token in tokens[:level]:
                following = trie.child(node, token)
                assert following is not None  # noqa: S101 - the token is one of the trie's
                node = following
            nodes.append(node)
        at = torch.tensor(nodes).view(users, beams)
        ours += seconds_of(lambda at=at, level=level: search.children(at, level), 20 * arguments.repeats) / depth
        written = torch.tensor([tokens[:level] for tokens in chosen], dtype=torch.int64)
        so_far = torch.cat([padded.repeat_interleave(beams, 0), written], dim=1)
        for name, rival in rivals.items():
            step = seconds_of(lambda rival=rival, so_far=so_far: rival(so_far, scores), arguments.repeats)
            taken[name] += step / depth
    print(f"  {'trie, children gathered':30} {1e3 * ours:9.3f}")
    for name, seconds in taken.items():
        print(f"  {name:30} {1e3 * seconds:9.3f}   x {seconds / ours:,.0f}")

    print("\nwhole lists of the batch, seconds (users per second)")
    lists: dict[str, list[list[int]]] = {}
    item_of = {tokens: item for item, tokens in enumerate(ids)}
    spent: dict[str, float] = {}

    def trie_lists(name: str, searcher: TrieBeamSearch) -> None:
        lists[name] = searcher.search(prompts).items.tolist()

    def rival_lists(name: str, rival: LogitsProcessor) -> None:
        sequences = model.generate(
            input_ids=padded,
            attention_mask=mask,
            logits_processor=LogitsProcessorList([rival]),
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=depth,
            do_sample=False,
            length_penalty=0.0,
            eos_token_id=vocabulary,
            pad_token_id=0,
        )
        found = [item_of[tuple(tokens)] for tokens in sequences[:, width:].tolist()]
        lists[name] = [found[row * beams : (row + 1) * beams] for row in range(users)]

    searches = {
        "trie, softmax over vocabulary": search,
        "trie, softmax over legal": TrieBeamSearch(model, trie, k=beams, beams=beams, score=Score.legal),
    }
    for name, searcher in searches.items():
        spent[name] = seconds_of(lambda name=name, searcher=searcher: trie_lists(name, searcher), arguments.repeats)
    for name, rival in rivals.items():
        spent[name] = seconds_of(lambda name=name, rival=rival: rival_lists(name, rival), min(arguments.repeats, 3))
    best = spent["trie, softmax over vocabulary"]
    for name, seconds in spent.items():
        print(f"  {name:30} {seconds:9.3f} ({users / seconds:7.1f})   x {seconds / best:.1f}")
    wanted = lists["trie, softmax over vocabulary"]
    for name in rivals:
        same = sum(one == other for one, other in zip(wanted, lists[name], strict=True))
        print(f"lists equal to those of {name}: {same} of {users}")

    print("\nwhole lists behind chains, seconds: prompt and chain read again, and gone on from what writing has read")
    lm = LanguageModel(model)
    for chain in CHAINS:
        random = np.random.default_rng(2)
        texts = [[*prompt, *random.integers(0, vocabulary, size=chain).tolist()] for prompt in prompts]
        with torch.inference_mode():
            read = lm.encode([text[:-1] for text in texts], room=1 + depth)

        def goes_on(read: Encoded = read, texts: list[list[int]] = texts) -> BeamResult:
            with torch.inference_mode():
                whole = read.take(torch.arange(users))  # the copy is what putting finished chains together costs
                lm.extend(whole, [text[-1:] for text in texts])
            return search.search(whole)

        again, on = (
            seconds_of(work, arguments.repeats) for work in (lambda texts=texts: search.search(texts), goes_on)
        )
        apart = np.abs(search.search(texts).scores - goes_on().scores).max()
        print(
            f"  chains of {chain:3} tokens   {again:.3f}   {on:.3f}   x {again / on:.1f}, scores apart by {apart:.0e}"
        )


if __name__ == "__main__":
    main()
