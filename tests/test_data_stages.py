"""The data stages as commands: reproducible, resumable, free of leaks, and clear about bad input."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from data_support import (
    RECIPE,
    ROOT,
    SMALL,
    STAGES,
    call,
    command,
    gift_cards_run,
    hashes,
    kill_when,
    stage,
    synthetic_run,
)
from gream.config import load_config
from gream.dialogue import Form
from gream.engine.contract import Contract, ids_digest, prompt_version, read_contract
from gream.files import read_jsonl
from gream.hashing import sha256_of
from gream.semantic_ids.catalog import Catalog
from pretrained_support import bpe, write_base

from data_processing.config import DataRecipe, SftConfig
from data_processing.model import build_model, form_of
from data_processing.pretrained.base import open_base
from data_processing.tables import read_items

# What training reads, and what it is made of. Validation prompts are no training file.
TRAINING_FILES = ("sft", "rl/train.parquet", "preferences.jsonl", "enriched.jsonl", "reviews.parquet", "model")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="module")
def gift_cards(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Path:
    # The model knows of the data what its tokenizer was trained on: the synthetic run covers that.
    return gift_cards_run(tmp_path_factory.mktemp("gift_cards"), real_data, STAGES[:-1])


@pytest.fixture(params=["synthetic", "gift_cards"])
def finished(request: pytest.FixtureRequest) -> Path:
    """A run over each of the two inputs."""
    run: Path = request.getfixturevalue(request.param)
    return run


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes" / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_data_recipe_is_valid(recipe: Path) -> None:
    assert load_config(DataRecipe, recipe).interactions.core == 5


def test_same_seed_same_bytes(synthetic: Path, tmp_path: Path) -> None:
    assert hashes(synthetic_run(tmp_path / "again")) == hashes(synthetic)


def test_another_seed_gives_other_data(synthetic: Path, tmp_path: Path) -> None:
    for name in ("synthesize", "interactions"):
        stage(name, tmp_path, *SMALL, "synthesize.seed=7")
    assert hashes(tmp_path)["interactions.parquet"] != hashes(synthetic)["interactions.parquet"]


def test_gift_cards_counts(gift_cards: Path) -> None:
    statistics = json.loads((gift_cards / "statistics.json").read_text())
    assert (statistics["users"], statistics["items"], statistics["interactions"]) == (453, 147, 2941)


def test_ids_are_unique_and_cover_the_catalogue(finished: Path) -> None:
    # Catalog.load refuses ids that two items share.
    assert len(Catalog.load(finished / "index.json")) == len(pl.read_parquet(finished / "items.parquet"))


def exchange_items(run: Path, which: pl.Expr, stages: tuple[str, ...] = STAGES) -> None:
    """Exchange the items of some interactions for others, and make what the stages make again."""
    shutil.rmtree(run / ".stages")
    interactions = pl.read_parquet(run / "interactions.parquet")
    items = interactions["item"].n_unique()
    other = pl.when(which).then((pl.col("item") + 1) % items).otherwise("item").cast(pl.Int32)
    interactions.with_columns(other.alias("item")).write_parquet(run / "interactions.parquet")
    for name in stages:
        stage(name, run, *SMALL)


def test_training_files_do_not_depend_on_held_out_interactions(
    finished: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every validation and test item is exchanged for another one, and every held-out review of the raw dump marked.

    Not a byte of what training reads may change, and the mark must not come out anywhere.
    """
    if (finished / "raw").exists():
        reviews, metadata = finished / "raw" / "reviews.json.gz", finished / "raw" / "meta.json.gz"
    else:
        dump: Path = request.getfixturevalue("real_data") / "raw_amazon2018"
        reviews, metadata = dump / "Gift_Cards_5.json.gz", dump / "meta_Gift_Cards.json.gz"
    users = pl.read_parquet(finished / "users.parquet")["user_id"].to_list()
    items = pl.read_parquet(finished / "items.parquet")["item_id"].to_list()
    held_out = pl.read_parquet(finished / "interactions.parquet").filter(pl.col("split") != "train")
    pairs = {(users[user], items[item]) for user, item in held_out.select("user", "item").iter_rows()}
    marked = 0
    with gzip.open(reviews, "rt") as source, gzip.open(tmp_path / "reviews.json.gz", "wt") as target:
        for line in source:
            row = json.loads(line)
            if (row["reviewerID"], row["asin"]) in pairs:
                row["reviewText"] = row["summary"] = "Xylomarker"
                marked += 1
            target.write(json.dumps(row) + "\n")
    assert marked >= len(pairs)
    run = tmp_path / "run"
    dump_options = ("--reviews", str(tmp_path / "reviews.json.gz"), "--metadata", str(metadata))
    stage("interactions", run, *dump_options, *SMALL)
    stages = STAGES if (finished / "model").exists() else STAGES[:-1]
    exchange_items(run, pl.col("split") != "train", stages)
    before, after = hashes(finished), hashes(run)
    compared = [path for path in before if path.startswith(TRAINING_FILES)]
    made = {path.partition("/")[0] for path in TRAINING_FILES}
    assert {path.partition("/")[0] for path in compared} == (made if "model" in stages else made - {"model"})
    for path in compared:
        assert after[path] == before[path], path
    # The exchange does reach what may depend on it.
    assert after["rl/val.parquet"] != before["rl/val.parquet"]
    assert any(pl.read_parquet(run / "reviews.parquet")["text"])
    for path in (path for path in run.rglob("*") if path.is_file()):
        table = path.suffix == ".parquet"
        content = str(pl.read_parquet(path).to_dicts()) if table else path.read_bytes().decode("latin-1")
        assert "xylomarker" not in content.lower(), path


def test_passes_are_written_in_batches_of_like_length(synthetic: Path, tmp_path: Path) -> None:
    """Each pass has all rows, in words of its own; the curriculum takes its alignment rows from one of them."""
    run = tmp_path / "run"
    shutil.copytree(synthetic, run)
    before = json.loads((synthetic / "sft" / "statistics.json").read_text())["alignment"]
    # Two passes are not enough, whatever the sequences add; the third is.
    enough = int(2.5 * sum(before.values()))
    settings = ("sft.sequence=true", "sft.passes=9", f"sft.alignment_rows={enough}", "sft.batch=16")
    stage("sft", run, *SMALL, *settings, "--overwrite")
    once, thrice = (json.loads((folder / "sft" / "statistics.json").read_text()) for folder in (synthetic, run))
    sequences = thrice["alignment"].pop("sequence")
    assert thrice["alignment"] == {task: 3 * rows for task, rows in once["alignment"].items()}
    assert thrice["alignment_rows_mixed_in"] == once["alignment_rows_mixed_in"]
    rows, records = (
        [json.loads(line) for line in (run / "sft" / name).read_text().splitlines()]
        for name in ("alignment.jsonl", "alignment_records.jsonl")
    )
    assert len(rows) == len(records) == sum(thrice["alignment"].values()) + sequences
    lengths = [sum(len(message["content"]) for message in row["messages"]) for row in rows]
    # Rows of a step differ in length by far less than rows at large.
    within = statistics.mean(statistics.pstdev(lengths[at : at + 16]) for at in range(0, len(rows) - 16, 16))
    assert within < 0.2 * statistics.pstdev(lengths)
    wordings: dict[int, set[int]] = defaultdict(set)
    for row in records:
        if row["task"] == "id_to_text":
            wordings[row["item"]].add(row["template"])
    assert statistics.mean(map(len, wordings.values())) > 1.5


def test_a_curriculum_in_batches_of_like_length_keeps_its_course(synthetic: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(synthetic, run)
    stage("sft", run, *SMALL, "sft.curriculum.batch=8", "--overwrite")
    plain, batched = ((folder / "sft" / "reasoning.jsonl").read_text().splitlines() for folder in (synthetic, run))
    assert plain != batched
    for start in range(0, len(plain), 80):  # ten steps
        assert sorted(plain[start : start + 80]) == sorted(batched[start : start + 80])

    def padded(rows: list[str]) -> int:
        whole = [rows[start : start + 8] for start in range(0, len(rows) - 7, 8)]
        return sum(8 * max(map(len, step)) - sum(map(len, step)) for step in whole)

    assert padded(batched) < 0.4 * padded(plain)


def test_reserved_targets_are_unknown_to_sft(synthetic: Path, tmp_path: Path) -> None:
    """SRPO's prompts ask for the last training item of some users, and nothing that SFT reads depends on those."""
    prompts = pl.read_parquet(synthetic / "rl" / "train.parquet")
    reserved = prompts["extra_info"].struct.field("user")
    training = pl.read_parquet(synthetic / "interactions.parquet").filter(pl.col("split") == "train")
    last = dict(training.sort("position").group_by("user").agg(pl.last("item")).iter_rows())
    catalog = Catalog.load(synthetic / "index.json")
    truths = prompts["reward_model"].struct.field("ground_truth").to_list()
    assert truths == [catalog.text(last[user]) for user in reserved]
    assert len(reserved) == reserved.n_unique() == round(0.5 * training["user"].n_unique())

    is_last = (pl.col("split") == "train") & (pl.col("split").shift(-1) == "valid")
    run = tmp_path / "run"
    shutil.copytree(synthetic, run)
    exchange_items(run, is_last & pl.col("user").is_in(reserved.to_list()))
    before, after = hashes(synthetic), hashes(run)
    for path in before:
        if path.startswith(("sft", "preferences.jsonl", "enriched.jsonl", "index.json", "model")):
            assert after[path] == before[path], path
    assert after["rl/train.parquet"] != before["rl/train.parquet"]


def test_killed_stages_leave_nothing_and_end_the_same(synthetic: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(synthetic, run)
    for name in ("embed", "sft", "model"):
        outputs = json.loads((run / ".stages" / f"{name}.json").read_text())["outputs"]
        (run / ".stages" / f"{name}.json").unlink()
        for output in outputs:
            shutil.rmtree(run / output) if (run / output).is_dir() else (run / output).unlink()
        assert kill_when(command(name, run, *SMALL), run / ".partial" / name)
        assert not any((run / output).exists() for output in outputs)
        stage(name, run, *SMALL)
    assert hashes(run) == hashes(synthetic)
    assert not list((run / ".partial").iterdir())


def test_a_finished_run_is_left_alone(synthetic: Path) -> None:
    before = hashes(synthetic)
    for name in ("synthesize", "interactions", *STAGES):
        done = call(command(name, synthetic, *SMALL))
        assert (done.returncode, "up to date" in done.stdout) == (0, True), done.stdout + done.stderr
    assert hashes(synthetic) == before


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def cut_line(path: Path) -> None:
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    lines[41] = lines[41][:30] + b"\n"
    path.write_bytes(gzip.compress(b"".join(lines)))


BAD_INPUT: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "missing file": (lambda dump: (dump / "r.gz").unlink(), (), "r.gz: missing"),
    "truncated gzip": (lambda dump: truncate(dump / "r.gz"), (), "r.gz"),
    "cut JSON line": (lambda dump: cut_line(dump / "r.gz"), (), "r.gz:42"),
    "cut metadata line": (lambda dump: cut_line(dump / "m.gz"), (), "m.gz:42"),
    "foreign metadata": (lambda dump: (dump / "foreign.gz").rename(dump / "m.gz"), (), "m.gz"),
    "too few users": (lambda dump: None, ("interactions.min_users=5000",), "min_users"),
    "unknown key": (lambda dump: None, ("interactions.min_user=5",), "did you mean 'min_users'"),
    "other configuration": (lambda dump: None, ("interactions.core=6",), "core: 5 -> 6"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_clear_line(synthetic: Path, tmp_path: Path, case: str) -> None:
    damage, overrides, said = BAD_INPUT[case]
    run = tmp_path / "run"
    shutil.copytree(synthetic, run)
    shutil.copy(run / "raw" / "reviews.json.gz", tmp_path / "r.gz")
    shutil.copy(run / "raw" / "meta.json.gz", tmp_path / "m.gz")
    (tmp_path / "foreign.gz").write_bytes(gzip.compress(b'{"asin": "0000000000", "title": "Nothing anybody bought"}\n'))
    damage(tmp_path)
    if case == "too few users":  # not the recorded configuration, so that it is the count that is complained about
        shutil.rmtree(run / ".stages")
    before = hashes(run)
    # "Another configuration" is the error under test only where the input is the recorded one.
    named = ("--reviews", str(tmp_path / "r.gz"), "--metadata", str(tmp_path / "m.gz"))
    dump = () if case == "other configuration" else named
    done = call(command("interactions", run, *dump, *SMALL, *overrides))
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert hashes(run) == before


def test_a_grown_catalogue_keeps_its_ids(synthetic: Path, tmp_path: Path) -> None:
    """A fifth of the items comes later, and is encoded with the encoder and the codebook of the run before."""
    reviews, metadata = synthetic / "raw" / "reviews.json.gz", synthetic / "raw" / "meta.json.gz"
    rows = [json.loads(line) for line in gzip.decompress(reviews.read_bytes()).splitlines()]
    late = set(sorted({row["asin"] for row in rows})[::5])
    early = tmp_path / "early.json.gz"
    early.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows if r["asin"] not in late).encode()))
    small, grown = tmp_path / "small", tmp_path / "grown"
    for run, dump, previous in ((small, early, []), (grown, reviews, ["--previous", str(small)])):
        stage("interactions", run, "--reviews", str(dump), "--metadata", str(metadata), *SMALL)
        stage("enrich", run, *SMALL)
        stage("embed", run, *SMALL, *previous)
        stage("semantic-ids", run, *SMALL, *previous)
    before, after = (pl.read_parquet(run / "items.parquet").sort("item")["item_id"].to_list() for run in (small, grown))
    old, new = Catalog.load(small / "index.json"), Catalog.load(grown / "index.json")
    kept = set(before) & set(after)
    assert kept
    assert late & set(after)
    for item in kept:
        assert old.ids[before.index(item)] == new.ids[after.index(item)]


def test_the_model_says_how_it_is_to_be_asked(synthetic: Path, tmp_path: Path) -> None:
    contract = read_contract(synthetic / "model")
    ids = Catalog.load(synthetic / "index.json").ids
    assert contract == Contract(
        ids=ids_digest(ids),
        form=Form.question,
        history=20,
        prompts=prompt_version(Form.question),
        rows=sha256_of(synthetic / "sft"),
    )
    assert form_of(SftConfig(sequence=True)) is Form.question  # beside rows of questions
    assert form_of(SftConfig(sequence=True, next_item=0)) is Form.sequence


def test_texts_that_the_base_reads_as_tokens_are_refused(synthetic: Path, tmp_path: Path) -> None:
    """The tokenizer in use is asked, whatever its tokens are called."""
    from transformers import AutoTokenizer

    base = tmp_path / "base"
    shutil.copytree(synthetic / "model", base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    word = json.loads((synthetic / "sft" / "items.jsonl").read_text().splitlines()[0])["title"].split()[0]
    tokenizer.add_tokens([word])
    tokenizer.save_pretrained(base)
    done = call(command("model", synthetic, *SMALL, "--base", str(base), "--overwrite"))
    assert done.returncode == 2, done.stderr
    assert f"items.jsonl:1: holds '{word}', a token of its own" in done.stderr


def test_texts_alone_get_ids(tmp_path: Path) -> None:
    """A catalogue that nobody bought from: the same ids whatever the order of its rows."""
    table = ("interactions.format=table", "interactions.columns.title=name", "interactions.columns.item_id=sku")
    rows = [f"S{number:03d},{kind} {number % 7} of {kind[:2]}" for number in range(40) for kind in ("cup", "pot")][::2]
    runs = [tmp_path / "one", tmp_path / "other"]
    for run, ordered in zip(runs, (rows, rows[::-1]), strict=True):
        path = tmp_path / f"{run.name}.csv"
        path.write_text("\n".join(["sku,name", *ordered, ""]))
        stage("items", run, "--metadata", str(path), *SMALL, *table)
        for name in ("enrich", "embed", "semantic-ids"):
            stage(name, run, *SMALL, *table, "embed.dimensions=4")
    first, second = (Catalog.load(run / "index.json").ids for run in runs)
    assert first == second and len(first) == len(rows)
    assert (runs[0] / "preferences.jsonl").read_text() == ""
    up_to_date = call(command("semantic-ids", runs[0], *SMALL, *table, "embed.dimensions=4"))
    assert up_to_date.stdout.startswith("semantic-ids: up to date")


def test_items_that_were_bought_are_not_replaced_by_items_alone(synthetic: Path) -> None:
    before = hashes(synthetic)
    done = call(command("items", synthetic, *SMALL, "--metadata", str(synthetic / "raw" / "meta.json.gz")))
    assert done.returncode == 2 and "has interactions, and with them its items" in done.stderr
    assert hashes(synthetic) == before


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("enrich", r"texts of [\d,]+ items and [\d,]+ users ->"),
        ("semantic-ids", r"[\d,]+ items, codes [\dx ]+, [\d,]+ items sharing an id at first, [\d,]+ ids moved ->"),
        ("rl", r"[\d,]+ prompts to train on, [\d,]+ to validate with ->"),
        ("model", r"[\d,]+ parameters, [\d,]+ tokens, \d+ of them new, .* ->"),
    ],
)
def test_a_stage_says_what_it_made(synthetic: Path, name: str, made: str) -> None:
    done = call(command(name, synthetic, *SMALL))
    assert re.match(rf"{name}: up to date, {made}", done.stdout), done.stdout


def test_a_pretrained_model_starts_from_words_and_keeps_what_it_knows(synthetic: Path, tmp_path: Path) -> None:
    """Rows of new tokens are those of ``semantic`` where the recipe says nothing; old rows and other weights stay."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_base(tmp_path / "base", bpe(["<|endoftext|>"]), eos_token="<|endoftext|>")
    files = {"items": synthetic / "items.parquet", "enriched": synthetic / "enriched.jsonl", "sft": synthetic / "sft"}
    weights, said = {}, {}
    for start in ("", "semantic", "gaussian", "centroid"):
        config = load_config(DataRecipe, RECIPE, [f"model.initialisation={start}"] if start else [])
        out, index, base = tmp_path / f"as-{start}", synthetic / "index.json", open_base(folder)
        summary = build_model(config.model, config.sft, config.seed, base=base, index=index, out=out, **files)
        weights[start], said[start] = AutoModelForCausalLM.from_pretrained(out / "model").state_dict(), summary.made
    before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    name = "model.embed_tokens.weight"
    old = len(before[name])
    tokens = Catalog.load(synthetic / "index.json").tokens
    for start, state in weights.items():
        assert torch.equal(state[name][:old], before[name])
        used = old + 2 + len(tokens)  # both chat markers are new to it
        assert len(state[name]) == -(-used // 64) * 64
        assert all(torch.equal(state[key], before[key]) for key in before if key not in (name, "lm_head.weight")), start
    assert torch.equal(weights[""][name], weights["semantic"][name])
    assert not torch.allclose(weights[""][name][old + 2 :], weights["gaussian"][name][old + 2 :], atol=1e-3)
    # Means over words and means over items are near each other in texts of like length, and for no token the same.
    apart = (weights["semantic"][name] - weights["centroid"][name])[old + 2 : used].abs().amax(dim=1)
    assert apart.min() > 1e-5
    assert f"{2 + len(tokens)} of them new, which start as the words of their items, " in said[""]
    assert f", {-used % 64} unused, for a multiple of 64; <|im_start|> and" in said[""]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "as-" / "model")
    # A token for every row, so that no framework has rows to mask or to add.
    assert len(tokenizer) == len(weights[""][name]) and len(tokenizer) % 64 == 0
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.convert_tokens_to_ids(list(tokens)) == list(range(old + 2, old + 2 + len(tokens)))


def test_semantic_rows_are_the_mean_of_the_items_texts(synthetic: Path, tmp_path: Path) -> None:
    """``model.initialisation=semantic``: a token starts as the mean row of the texts of the items that have it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = load_config(DataRecipe, RECIPE, [*SMALL, "model.initialisation=semantic"])
    files = {"items": synthetic / "items.parquet", "enriched": synthetic / "enriched.jsonl", "sft": synthetic / "sft"}
    index = synthetic / "index.json"
    build_model(config.model, config.sft, config.seed, base=None, index=index, out=tmp_path, **files)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    rows = AutoModelForCausalLM.from_pretrained(tmp_path / "model").get_input_embeddings().weight.detach()
    gaussian = AutoModelForCausalLM.from_pretrained(synthetic / "model").get_input_embeddings().weight.detach()

    descriptions = [row["description"] for row in read_jsonl(files["enriched"])]
    under: dict[str, list[torch.Tensor]] = {}
    for tokens, item, about in zip(Catalog.load(index).ids, read_items(files["items"]), descriptions, strict=True):
        text = "\n".join([item.title, item.brand, " ".join(item.categories), about])
        for token in tokens:
            under.setdefault(token, []).append(rows[tokenizer(text)["input_ids"]])
    assert len(under) > 10
    first = tokenizer.convert_tokens_to_ids(min(under, key=tokenizer.convert_tokens_to_ids))
    assert torch.equal(rows[:first], gaussian[:first])
    for token, texts in under.items():
        row = tokenizer.convert_tokens_to_ids(token)
        torch.testing.assert_close(rows[row], torch.cat(texts).mean(dim=0), atol=1e-6, rtol=1e-4)
        assert not torch.allclose(rows[row], gaussian[row], atol=1e-3)


def test_the_page_of_file_formats_has_every_column_and_every_count(synthetic: Path) -> None:
    page = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    for name in ("interactions", "users", "items", "reviews"):
        for column in pl.read_parquet_schema(synthetic / f"{name}.parquet"):
            assert f"`{column}`" in rows[f"{name}.parquet"], (name, column)
    counts = page.partition("## Statistics of the data")[2]
    for key in json.loads((synthetic / "statistics.json").read_text()):
        assert f"`{key}`" in counts or (key.startswith("items_without_") and f"`_{key[14:]}`" in counts), key
