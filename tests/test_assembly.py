"""Assembly of token ids: exactly what tokenizing the rendered string gives, row by row."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from gream.assembly import IGNORE, Assembler
from gream.dialogue import direct_text
from gream.errors import GreamError
from gream.semantic_ids.extension import add_id_tokens
from gream.semantic_ids.vocabulary import level_token
from gream.tasks import ITEM_TEXTS, USER_TEXTS, Material, Record
from gream.templates import TEMPLATES
from gream.texts import control_token
from hypothesis import given, settings
from hypothesis import strategies as st

Kind = Literal["gpt2", "qwen"]

# How Qwen's tokenizer splits a text before it merges bytes (its published tokenizer.json).
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CORPUS = (
    "You recommend items from a catalogue. Each item is written as its semantic id.",
    'The user\'s items, oldest first:  which "one" ?! comes next?\n\nuser\nassistant\n',
    # Marks that merge with the ones a wording puts behind a text.
    'a?!? b.? c?. d.. e"? f". g:; h;: i?!. j!? k!. l,, m., n;; o?? p:. q.: r?!: s?!; t?!, u"; v":',
    "Title: a, b; c ... (Rosé) 12-ounce 3.5 fl. oz. it's we'll\r\n items are next and then the item by the maker",
)
IDS = [(0, 0), (0, 1), (1, 0), (2, 1), (2, 1, 0)]  # the last is the fourth with a further token


def tokenizer_of(kind: Kind) -> Any:
    """A byte-level BPE tokenizer with many merges over little text, chat markers and ids."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    if kind == "gpt2":
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        bpe.normalizer = normalizers.NFC()
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    bpe.decoder = decoders.ByteLevel()
    wordings = [part for task in TEMPLATES.values() for wording in task for part in (wording.question, wording.answer)]
    bpe.train_from_iterator(
        [*CORPUS, *wordings] * 3,
        trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=["<|im_start|>", "<|im_end|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|im_end|>")
    add_id_tokens(tokenizer, sorted({level_token(level, code) for id_ in IDS for level, code in enumerate(id_)}))
    return tokenizer


TOKENIZERS: dict[Kind, Any] = {"gpt2": tokenizer_of("gpt2"), "qwen": tokenizer_of("qwen")}

# Letters, marks that merge with their neighbours, white space of several kinds, parts of chat markers and ids.
LETTERS = ("a", "item", "the", "é", "e\u0301", "\u0301", "\u0338", "界", "7", "'s")
MARKS = ("'", '"', ".", "?!", ";", ":", "<", "<|im_", "_end|>", "…", "{title}", "< |im_start|>", "<|a_1", "|>")
SPACES = (" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u200b")
pieces = st.sampled_from((*LETTERS, *MARKS, *SPACES))
anything = st.lists(pieces, min_size=1, max_size=5).map("".join) | st.text(min_size=1, max_size=8)
texts = anything.filter(lambda text: control_token(text) is None)


@st.composite
def materials(draw: st.DrawFn) -> Material:
    def described(names: tuple[str, ...]) -> dict[str, str]:
        # A slot of white space alone counts as empty.
        return {name: draw(texts.filter(lambda text: bool(text.strip()))) for name in names}

    ids = ["".join(level_token(level, code) for level, code in enumerate(id_)) for id_ in IDS]
    return Material(ids, [described(ITEM_TEXTS) for _ in IDS], {7: described(USER_TEXTS)})


def record(task: str, template: int, item: int, history: list[int], user: int = -1) -> Record:
    return {"task": task, "template": template, "item": item, "history": history, "user": user}


def all_wordings(item: int, history: list[int]) -> list[Record]:
    rows = [record(task, number, item, history, 7) for task, own in TEMPLATES.items() for number in range(len(own))]
    return [*rows, record("sequence", 0, -1, history)]


@pytest.mark.parametrize("kind", ["gpt2", "qwen"])
@settings(max_examples=15)
@given(material=materials(), item=st.integers(0, 4), history=st.lists(st.integers(0, 4), min_size=1, max_size=7))
def test_every_wording_equals_the_tokenized_string(
    kind: Kind, material: Material, item: int, history: list[int]
) -> None:
    assembler = Assembler(TOKENIZERS[kind], material)
    records = all_wordings(item, history)
    rows = assembler.assemble(records)
    for number, one in enumerate(records):
        assert rows.row(number) == assembler.tokenize(one), one


@pytest.fixture
def material() -> Material:
    ids = ["".join(level_token(level, code) for level, code in enumerate(id_)) for id_ in IDS]
    items = [{name: f"{name} {number}" for name in ITEM_TEXTS} for number in range(len(IDS))]
    return Material(ids, items, {7: {name: f"{name} of the user." for name in USER_TEXTS}})


def test_a_batch_is_its_rows_one_by_one(material: Material) -> None:
    records = [one for item in range(4) for one in all_wordings(item, [item, 3, 2, 4][: item + 1])]
    assembler = Assembler(TOKENIZERS["qwen"], material)
    whole = assembler.assemble(records)
    assert len(whole) == len(records)
    labels = whole.labels()
    for number, one in enumerate(records):
        alone = Assembler(TOKENIZERS["qwen"], material).assemble([one])
        assert whole.row(number) == alone.row(0)
        assert labels[whole.starts[number] : whole.starts[number + 1]].tolist() == alone.row(0)[1]


def test_loss_of_a_sequence_is_on_every_item_and_each_target_sees_what_evaluation_shows(material: Material) -> None:
    """Under causal attention a target sees the tokens before it: they are the prompt that evaluation makes."""
    tokenizer, history = TOKENIZERS["qwen"], [3, 0, 4, 1]
    tokens, labels = Assembler(tokenizer, material).assemble([record("sequence", 0, -1, history)]).row(0)
    assert tokenizer.decode([label for label in labels if label != IGNORE]) == (
        "".join(material.ids[item] for item in history) + "<|im_end|>\n"
    )
    for position, item in enumerate(history):
        prompt = direct_text([material.ids[other] for other in history[:position]], "sequence")
        seen = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        target = tokenizer(material.ids[item], add_special_tokens=False)["input_ids"]
        assert tokens[: len(seen) + len(target)] == seen + target
        assert labels[len(seen) : len(seen) + len(target)] == target


def naive_cut(tokens: list[int], labels: list[int], prompt: int, length: int) -> tuple[list[int], list[int]]:
    """LLaMA-Factory's rule, in words: keep a short answer whole, or a short prompt, or the same share of both."""
    answer = len(tokens) - prompt
    if 2 * answer < length:
        most = length
    elif 2 * prompt < length:
        most = length - prompt
    else:
        most = int(length * (answer / len(tokens)))
    kept = min(most, answer)
    first = min(max(length - kept, 0), prompt)
    return tokens[:first] + tokens[prompt : prompt + kept], labels[:first] + labels[prompt : prompt + kept]


@pytest.mark.parametrize("length", [1, 7, 20, 40, 61, 10_000])
def test_long_rows_are_cut_as_llamafactory_cuts_them(material: Material, length: int) -> None:
    records = all_wordings(1, [0, 1, 2, 3, 4])
    rows = Assembler(TOKENIZERS["qwen"], material).assemble(records)
    cut = rows.cut(length)
    for number in range(len(records)):
        tokens, labels = rows.row(number)
        assert cut.row(number) == naive_cut(tokens, labels, int(rows.answers[number]), length)
    assert np.diff(cut.starts).max() <= length


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (record("nonsense", 0, 1, [0]), "no template 0 of task 'nonsense'"),
        (record("next_item", 99, 1, [0]), "no template 99"),
        (record("next_item", 0, 9, [0]), "outside the catalogue"),
        (record("next_item", 0, 1, [5]), "outside the catalogue"),
        (record("next_item", 0, 1, []), "slot 'history' is empty"),
        (record("search", 0, 1, [0], 8), "user 8"),
        (record("search", 0, 1, [0]), "slot 'intention' is empty"),
        (record("sequence", 0, -1, []), "sequence without items"),
    ],
)
def test_unsound_records_are_refused(material: Material, bad: Record, said: str) -> None:
    with pytest.raises(GreamError, match=said):
        Assembler(TOKENIZERS["qwen"], material).assemble([record("next_item", 0, 1, [0]), bad])


def test_a_foreign_tokenizer_is_refused(material: Material) -> None:
    stranger = Material([*material.ids, "<|a_99|>"], [*material.items, material.items[0]], {})
    with pytest.raises(GreamError, match="as added tokens"):
        Assembler(TOKENIZERS["qwen"], stranger)
