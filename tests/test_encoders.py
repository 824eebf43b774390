"""Encoders of the stage ``embed``: vectors that depend on the item alone, however and wherever they are made."""

from __future__ import annotations

import itertools
import math
import re
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from data_support import RECIPE, call, command, kill_when
from gream.errors import GreamError
from gream.files import write_jsonl
from gream.hashing import sha256_of
from gream.semantic_ids.kmeans import fit_residual_kmeans
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy.sparse import random as random_matrix
from threadpoolctl import threadpool_limits

from data_processing.config import EmbedConfig, RlConfig, SemanticIdsConfig
from data_processing.embed import embed
from data_processing.encoders import item_text, main_directions, parts
from data_processing.encoders.collaborative import CollaborativeEncoder, fuse, positive_information
from data_processing.encoders.language_model import LanguageModelEncoder, batches_by_length, mean_pooled
from data_processing.encoders.lsa import LsaEncoder
from data_processing.encoders.parts import items_of_parts, read_catalogue
from data_processing.encoders.sentence import SentenceEncoder
from data_processing.semantic_ids import build_semantic_ids
from data_processing.tables import Item

CONTEXT = 96
WORDS = ["soap", "brush", "comb", "cream", "oil", "wax", "balm", "mask", "serum", "towel"]


def save_language_model(folder: Path, *, seed: int = 0, padding_side: str = "right") -> Path:
    """A tiny Qwen3 with random weights and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({token: number for number, token in enumerate([*alphabet, "<pad>"])}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", padding_side=padding_side)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen3Config(
        vocab_size=len(alphabet) + 1, max_position_embeddings=CONTEXT, pad_token_id=256, **shape, **heads
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def catalogue_of(count: int) -> list[Item]:
    """Items with texts of all lengths, one in three without a description, one longer than the model's context."""
    random = np.random.default_rng(0)

    def words(most: int) -> str:
        return " ".join(random.choice(WORDS, size=random.integers(1, most)))

    items = [Item(words(4), words(9) if number % 3 else "", "Moss", "Care", ("Care",)) for number in range(count)]
    return [*items[:-1], Item("Soap", "very " * CONTEXT, "", "", ())] if count > 1 else items


def write_catalogue(items: Sequence[Item], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "item": n,
            "item_id": f"B{n}",
            "title": i.title,
            "description": "",
            "brand": i.brand,
            "categories": i.categories,
        }
        for n, i in enumerate(items)
    ]
    pl.DataFrame(rows, schema_overrides={"item": pl.Int32}).write_parquet(folder / "items.parquet")
    write_jsonl(folder / "enriched.jsonl", ({"item": n, "description": i.description} for n, i in enumerate(items)))


def write_interactions(sequences: Sequence[Sequence[int]], folder: Path) -> None:
    rows = [
        (user, item, None, place, {1: "test", 2: "valid"}.get(len(items) - place, "train"))
        for user, items in enumerate(sequences)
        for place, item in enumerate(items)
    ]
    schema = {"user": pl.Int32, "item": pl.Int32, "timestamp": pl.Int64, "position": pl.Int32, "split": pl.String}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / "interactions.parquet")


def embedded(run: Path, *, previous: Path | None = None, rl: RlConfig | None = None, **config: Any) -> np.ndarray:
    """Embeddings of a run folder, made by the stage's function."""
    embed(
        EmbedConfig(**config),
        rl or RlConfig(),
        42,
        items=run / "items.parquet",
        enriched=run / "enriched.jsonl",
        interactions=run / "interactions.parquet",
        previous=previous,
        ray=None,
        out=run,
    )
    return load_file(run / "embeddings.safetensors")["embeddings"]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return save_language_model(tmp_path_factory.mktemp("models") / "qwen")


def one_by_one(folder: Path, texts: Sequence[str]) -> list[np.ndarray]:
    """Mean of the last hidden states of each text alone, without a batch, a mask or padding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    means = []
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt")["input_ids"][:, :CONTEXT]
        with torch.inference_mode():
            hidden = model(tokens, output_hidden_states=True).hidden_states[-1]
        means.append(hidden[0].mean(dim=0).numpy())
    return means


@pytest.mark.parametrize(("padding_side", "batch_tokens"), [("left", 100), ("right", 1), ("right", 10_000)])
def test_a_language_model_encodes_as_in_the_paper(
    tmp_path: Path, qwen: Path, padding_side: str, batch_tokens: int
) -> None:
    """Title and description pooled apart, then averaged; the same in any company and with any tokenizer's padding."""
    folder = qwen if padding_side == "right" else save_language_model(tmp_path / "left", padding_side="left")
    items = catalogue_of(12)
    vectors = LanguageModelEncoder(folder, batch_tokens).encode(items)
    assert vectors.dtype == np.float32
    alone = iter(one_by_one(folder, [text for item in items for text in (item.title, item.description) if text]))
    for item, vector in zip(items, vectors, strict=True):
        pooled = [next(alone), next(alone)] if item.description else [next(alone)]
        np.testing.assert_allclose(vector, np.mean(pooled, axis=0), atol=1e-5)
    assert sum(not item.description for item in items) == 4


@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(1, 120))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(batches_by_length(lengths, budget))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert longest == lengths[batch[0]]
        assert longest * len(batch) <= budget or len(batch) == 1


def test_a_sentence_model_encodes_as_its_folder_says(tmp_path: Path, qwen: Path) -> None:
    """Mean pooling over the same backbone must give what the other encoder's pooling gives for the same text."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoModel, AutoTokenizer

    backbone = Transformer(str(qwen), max_seq_length=CONTEXT)
    pooling = Pooling(backbone.get_word_embedding_dimension(), "mean")
    sentence_transformers.SentenceTransformer(modules=[backbone, pooling], device="cpu").save(str(tmp_path / "model"))
    items = catalogue_of(9)
    vectors = SentenceEncoder(tmp_path / "model").encode(items)
    tokens = AutoTokenizer.from_pretrained(qwen)([item_text(item) for item in items])["input_ids"]
    means = mean_pooled(AutoModel.from_pretrained(qwen), [row[:CONTEXT] for row in tokens], 200)
    np.testing.assert_allclose(vectors, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)

    write_catalogue(items, tmp_path / "run")
    config = {"encoder": "sentence-transformers", "model": tmp_path / "model"}
    np.testing.assert_allclose(embedded(tmp_path / "run", **config), vectors, atol=1e-5)


def test_a_missing_package_is_named_with_its_remedy(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(GreamError, match="pip install sentence-transformers"):
        SentenceEncoder(qwen)


# --- parts: killed, resumed, divided


class InterruptedEncodingError(Exception):
    """Stands for a kill."""


def test_what_is_encoded_is_never_encoded_again(tmp_path: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ITEMS", 8)
    config = {"encoder": "language-model", "model": qwen}
    items = catalogue_of(29)
    for name in ("whole", "killed"):
        write_catalogue(items, tmp_path / name)
    whole = embedded(tmp_path / "whole", **config)
    assert whole.shape == (29, 32)
    encode, encoded = LanguageModelEncoder.encode, []

    def interrupted(self: LanguageModelEncoder, batch: Sequence[Item]) -> Any:
        if len(encoded) == 16:
            raise InterruptedEncodingError
        encoded.extend(batch)
        return encode(self, batch)

    monkeypatch.setattr(LanguageModelEncoder, "encode", interrupted)
    with pytest.raises(InterruptedEncodingError):
        embedded(tmp_path / "killed", **config)
    (tmp_path / "killed" / "parts" / "000002.tmp").write_bytes(b"half a part")
    encoded.append(items[16])  # so that it goes on
    embedded(tmp_path / "killed", **config)
    assert Counter(encoded[:16] + encoded[17:]) == Counter(items)
    name = "embeddings.safetensors"
    assert sha256_of(tmp_path / "killed" / name) == sha256_of(tmp_path / "whole" / name)


def test_parts_hold_items_of_like_length_and_come_back_in_the_catalogues_order(
    tmp_path: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ITEMS", 4)
    items = catalogue_of(11)
    write_catalogue(items, tmp_path)
    vectors = embedded(tmp_path, encoder="language-model", model=qwen)
    np.testing.assert_allclose(vectors, LanguageModelEncoder(qwen, 100).encode(items), atol=1e-5)
    lengths = [[len(items[item].title + items[item].description) for item in part] for part in items_of_parts(items)]
    assert [len(part) for part in lengths] == [4, 4, 3]
    assert all(max(part) <= min(longer) for part, longer in itertools.pairwise(lengths))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "000001.safetensors").write_bytes(b"half"), r"000001\.safetensors: cannot be read"),
        (
            lambda folder: shutil.copy(folder / "000000.safetensors", folder / "000001.safetensors"),
            "8 items, 5 expected; remove it",
        ),
    ],
)
def test_a_damaged_part_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], said: str
) -> None:
    monkeypatch.setattr(parts, "PART_ITEMS", 8)
    write_catalogue(catalogue_of(13), tmp_path)
    embedded(tmp_path)
    damage(tmp_path / "parts")
    with pytest.raises(GreamError, match=said):
        embedded(tmp_path)


def assert_same_bytes(run: Path, other: Path) -> None:
    for name in ("embeddings.safetensors", "encoder.safetensors"):
        assert sha256_of(run / name) == sha256_of(other / name), name


def test_two_ranks_give_the_bytes_of_one(tmp_path: Path) -> None:
    for run in ("two", "one"):
        write_catalogue(catalogue_of(4 * parts.PART_ITEMS + 7), tmp_path / run)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # "--", because torchrun would take --run for an option of its own.
    done = call([*torchrun, "-m", "--", *command("embed", tmp_path / "two")[2:]])
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^embed: \d", done.stdout, re.MULTILINE)) == 1
    embedded(tmp_path / "one")
    assert_same_bytes(tmp_path / "two", tmp_path / "one")
    assert not list((tmp_path / "two" / ".partial").iterdir())


@pytest.mark.e2e
@pytest.mark.slow
def test_killed_and_finished_elsewhere(tmp_path: Path, qwen: Path) -> None:
    """SIGKILL after the first part, the rest by Ray: the bytes of a run that nothing happened to."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for run in (killed, whole):
        write_catalogue(catalogue_of(4 * parts.PART_ITEMS + 7), run)
    embedded(whole, encoder="language-model", model=qwen)
    model = ("embed.encoder=language-model", f"embed.model={qwen}")
    folder = killed / ".partial" / "embed" / "parts"
    assert kill_when(command("embed", killed, *model), folder / "000000.safetensors")
    assert not (killed / "embeddings.safetensors").exists()
    assert not (folder / "000004.safetensors").exists()
    done = call(command("embed", killed, "--ray", "local", *model))
    assert done.returncode == 0, done.stderr
    assert_same_bytes(killed, whole)


@pytest.mark.parametrize("address", ["HOST:PORT", "nowhere"])
def test_a_ray_cluster_that_is_not_there_is_named(tmp_path: Path, qwen: Path, address: str) -> None:
    write_catalogue(catalogue_of(3), tmp_path)
    with socket.socket() as taken:  # bound, so that nobody else gets the port, but not listening
        taken.bind(("127.0.0.1", 0))
        address = address.replace("HOST:PORT", f"127.0.0.1:{taken.getsockname()[1]}")
        model = ("embed.encoder=language-model", f"embed.model={qwen}")
        done = call(command("embed", tmp_path, "--ray", address, *model))
    assert done.returncode not in (0, 15), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert f"Ray cluster '{address}' cannot be reached" in line
    assert "ray start --head" in line
    assert not (tmp_path / "embeddings.safetensors").exists()


# --- a catalogue that grows


def test_new_items_are_encoded_by_the_saved_model(tmp_path: Path, qwen: Path) -> None:
    items = catalogue_of(20)
    write_catalogue(items[:15], tmp_path / "old")
    write_catalogue(items, tmp_path / "new")
    config = {"encoder": "language-model", "model": qwen}
    old = embedded(tmp_path / "old", **config)
    # The folder may have moved; what counts is what is in it.
    moved = shutil.copytree(qwen, tmp_path / "moved")
    new = embedded(tmp_path / "new", previous=tmp_path / "old", encoder="language-model", model=moved)
    np.testing.assert_allclose(new[:15], old, atol=1e-5)
    for other, said in (
        ({"encoder": "language-model", "model": save_language_model(tmp_path / "other", seed=1)}, "another model than"),
        ({}, "encodes with 'language-model'; set embed.encoder=language-model"),
    ):
        write_catalogue(items, tmp_path / "refused")
        with pytest.raises(GreamError, match=said):
            embedded(tmp_path / "refused", previous=tmp_path / "old", **other)


def test_ids_refuse_embeddings_of_another_width(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    codebook, _ = fit_residual_kmeans(vectors[:, :3], (2, 2), seed=0)
    (tmp_path / "old").mkdir()
    codebook.save(tmp_path / "old" / "codebook.safetensors")
    save_file({"embeddings": vectors}, tmp_path / "embeddings.safetensors")
    pl.DataFrame({"item": range(9), "item_id": [f"I{item}" for item in range(9)]}).write_parquet(
        tmp_path / "items.parquet"
    )
    inputs = (tmp_path / "embeddings.safetensors", tmp_path / "items.parquet", tmp_path / "interactions.parquet")
    with pytest.raises(GreamError, match=r"of width 4, .*codebook\.safetensors of width 3"):
        build_semantic_ids(SemanticIdsConfig(), 42, *inputs, tmp_path / "old", tmp_path)


# --- what is bought together

HISTORIES = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=8)


@settings(max_examples=50)
@given(histories=HISTORIES)
def test_information_equals_a_count_by_hand(histories: list[list[int]]) -> None:
    together = np.zeros((6, 6))
    for history in histories:
        for first in history:
            for second in history:
                together[first, second] += first != second
    total, popularity = together.sum(), together.sum(axis=1)
    expected = np.zeros((6, 6))
    for row, column in zip(*np.nonzero(together), strict=True):
        ratio = together[row, column] * total / (popularity[row] * popularity[column])
        expected[row, column] = max(0.0, math.log(ratio))
    np.testing.assert_allclose(positive_information(histories, 6).toarray(), expected, atol=1e-12)


def test_items_bought_together_lie_close() -> None:
    random = np.random.default_rng(0)
    histories = [random.choice(10, size=5, replace=False) + 10 * (user % 2) for user in range(200)]
    information = positive_information([history.tolist() for history in histories], 21)
    names = [str(number) for number in range(21)]
    vectors = CollaborativeEncoder.fit(information, names, 2, 0.5, 42).encode(information, names)
    likeness = vectors @ vectors.T
    assert likeness[:10, :10].min() > 0.9
    assert abs(likeness[:10, 10:20]).max() < 0.1
    assert not vectors[20].any()  # never bought


def test_fused_vectors_have_both_parts_by_their_share() -> None:
    text = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)
    known = np.array([[0.0, 5.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    fused = fuse(text, known, 0.36)
    assert fused.dtype == np.float32
    np.testing.assert_allclose(fused, [[0.48, 0.64, 0, 0.6, 0], [0, 0.8, 0, 0, 0]], atol=1e-6)


def test_no_held_out_or_reserved_item_reaches_the_embeddings(tmp_path: Path) -> None:
    """Exchange what is held out, then what is reserved, then an item of the rest: only the last changes anything."""
    random = np.random.default_rng(0)
    items, rl = catalogue_of(30), RlConfig(reserved=1.0, min_history=4)
    sequences = [random.choice(29, size=8, replace=False).tolist() for _ in range(40)]

    def run(name: str, changed: Callable[[list[int]], list[int]]) -> np.ndarray:
        write_catalogue(items, tmp_path / name)
        write_interactions([changed(list(sequence)) for sequence in sequences], tmp_path / name)
        return embedded(tmp_path / name, rl=rl, collaborative=0.5, dimensions=8)

    before = run("before", lambda sequence: sequence)
    assert (run("held out", lambda sequence: [*sequence[:-2], 29, 29]) == before).all()
    assert (run("reserved", lambda sequence: [*sequence[:-3], 29, *sequence[-2:]]) == before).all()
    assert not (run("known", lambda sequence: [*sequence[:-4], 29, *sequence[-3:]]) == before).all()
    # Item 29 nobody had: its text alone describes it, on the scale of the others' texts.
    lsa = LsaEncoder.load(tmp_path / "before" / "encoder.safetensors")
    texts = lsa.encode(read_catalogue(tmp_path / "before" / "items.parquet", tmp_path / "before" / "enriched.jsonl"))
    np.testing.assert_allclose(before[:, : texts.shape[1]], math.sqrt(0.5) * texts, atol=1e-6)
    assert not before[29, texts.shape[1] :].any()
    assert before[:29, texts.shape[1] :].any(axis=1).all()


def test_a_grown_catalogue_keeps_its_collaborative_space(tmp_path: Path) -> None:
    """Old items stay where they were; a new one lies by those it is bought with, one that nobody bought nowhere."""
    random = np.random.default_rng(1)
    items = catalogue_of(22)
    # Two groups of ten; items are numbered from behind in the grown run, as another dump would number them anew.
    sequences = [(random.choice(10, size=7, replace=False) + 10 * (user % 2)).tolist() for user in range(60)]
    write_catalogue(items[:20], tmp_path / "old")
    write_interactions(sequences, tmp_path / "old")
    settings = {"collaborative": 0.5, "dimensions": 6}
    old = embedded(tmp_path / "old", **settings)
    write_catalogue(items, tmp_path / "new")
    table = pl.read_parquet(tmp_path / "new" / "items.parquet")
    table.with_columns(item=21 - pl.col("item")).sort("item").write_parquet(tmp_path / "new" / "items.parquet")
    descriptions = [{"item": number, "description": item.description} for number, item in enumerate(items[::-1])]
    write_jsonl(tmp_path / "new" / "enriched.jsonl", descriptions)
    # Item 20 is bought with the first group by users who come late.
    late = [[*random.choice(10, size=4, replace=False).tolist(), 20, 0, 1] for _ in range(6)]
    write_interactions([[21 - item for item in sequence] for sequence in [*sequences, *late]], tmp_path / "new")
    new = embedded(tmp_path / "new", previous=tmp_path / "old", **settings)[::-1]
    assert new.shape[1] == old.shape[1]
    width = old.shape[1] - 6
    np.testing.assert_allclose(new[:20, :width], old[:, :width], atol=1e-6)
    likeness = new[:, width:] @ old[:, width:].T / 0.5
    assert np.diag(likeness).min() > 0.9
    assert likeness[20, :10].mean() > likeness[20, 10:20].mean() + 0.3
    assert not new[21, width:].any()
    with pytest.raises(GreamError, match=r"set embed\.collaborative=0\.5"):
        embedded(tmp_path / "new", previous=tmp_path / "old", collaborative=0.25, dimensions=6)


def test_a_catalogue_without_any_text_is_described_by_co_purchases_alone(tmp_path: Path) -> None:
    """Names that share no word end the stage, with the way out; that way, groups bought together lie together."""
    random = np.random.default_rng(0)
    items = [
        replace(item, title=f"B{number:09}", description="", brand="", categories=())
        for number, item in enumerate(catalogue_of(21))
    ]
    sequences = [(random.choice(10, size=7, replace=False) + 10 * (user % 2)).tolist() for user in range(60)]
    write_catalogue(items, tmp_path)
    write_interactions(sequences, tmp_path)
    with pytest.raises(GreamError, match=r"set embed\.collaborative=1 for ids of co-purchases alone"):
        embedded(tmp_path, collaborative=0.5, dimensions=6)
    vectors = embedded(tmp_path, collaborative=1, dimensions=6)
    assert vectors.shape == (21, 6)
    np.testing.assert_allclose(np.linalg.norm(vectors[:20], axis=1), 1, atol=1e-6)
    likeness = vectors @ vectors.T
    assert likeness[:10, :10].mean() > likeness[:10, 10:20].mean() + 0.3
    assert not vectors[20].any()


# --- settings


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("embed.encoder=language-model",), "needs the folder of one: embed.model=FOLDER"),
        (("embed.model=x",), "encoder 'lsa' needs no embed.model"),
        (("embed.encoder=language-model", "embed.model=no/such/folder"), "no/such/folder: no model folder"),
        (("embed.collaborative=1.5",), "embed.collaborative"),
        (("embed.collaborative=1", "embed.encoder=language-model", "embed.model=x"), "collaborative=1 reads no text"),
    ],
)
def test_settings_that_do_not_fit_are_one_clear_line(tmp_path: Path, overrides: tuple[str, ...], said: str) -> None:
    from data_processing.__main__ import main
    from data_processing.plans import Stage

    write_catalogue(catalogue_of(5), tmp_path)
    with pytest.raises(GreamError) as caught:
        main(Stage.embed, RECIPE, tmp_path, list(overrides))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_directions_do_not_depend_on_the_number_of_threads() -> None:
    matrix = random_matrix(3000, 2000, density=0.01, random_state=0, format="csr")
    fitted = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            fitted.append(main_directions(matrix, 64, seed=0))
    assert np.array_equal(*fitted)
