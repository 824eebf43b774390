"""Published data sets: exact counts, numbers kept, both spellings of ids, there and back again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from data_support import call, command
from gream.errors import GreamError
from gream.semantic_ids.published import read_index
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from data_processing.config import RlConfig, SemanticIdsConfig
from data_processing.export import export, respell
from data_processing.import_published import import_published
from data_processing.interactions import InteractionsConfig
from data_processing.quality import build_quality
from data_processing.readers.published import read_published_items, read_published_sequences
from data_processing.rows.rl import build_rl
from data_processing.semantic_ids import build_semantic_ids
from data_processing.tables import read_sequences

ITEMS: dict[str, Any] = {
    "0": {"title": "A &amp; B", "description": "['One.', 'Two.']", "brand": "Moss", "categories": "All,Arts, Crafts"},
    "1": {"asin": "B1", "textual_id": "short name", "categories": [["All", "One"], ["Other"]]},
    "2": {"title": "", "description": ["x", "y"], "categories": ""},
}


def put(path: Path, value: object) -> Path:
    text = value if isinstance(value, str) else json.dumps(value)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def build(inter: Path, item: Path, out: Path, **config: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    import_published(InteractionsConfig(format="published", **config), inter, item, out)
    statistics: dict[str, Any] = json.loads((out / "statistics.json").read_text())
    return statistics


@pytest.mark.parametrize(
    ("name", "item", "counts", "splits", "targets"),
    [
        ("Beauty", "item.json.gz", (22363, 12101, 198502), (153776, 22363, 22363), (131413, 71486)),
        ("Sports", "item.json.gz", (35598, 18357, 296337), (225141, 35598, 35598), (189543, 94165)),
        ("Instruments", "item2id", (24772, 9922, 206153), (156609, 24772, 24772), (131837, 65380)),
    ],
)
def test_exact_counts(
    real_data: Path,
    tmp_path: Path,
    name: str,
    item: str,
    counts: tuple[int, ...],
    splits: tuple[int, ...],
    targets: tuple[int, ...],
) -> None:
    folder = real_data / name
    statistics = build(folder / f"{name}.inter.json.gz", folder / f"{name}.{item}", tmp_path)
    assert tuple(statistics[key] for key in ("users", "items", "interactions")) == counts
    # Statistics and tables are counted apart.
    frame = pl.read_parquet(tmp_path / "interactions.parquet")
    assert (frame["user"].n_unique(), frame["item"].n_unique(), len(frame)) == counts
    found = dict(frame["split"].value_counts().rows())
    assert tuple(found[split] for split in ("train", "valid", "test")) == splits
    assert tuple(statistics["splits"].values()) == splits
    assert tuple(statistics["training_targets"].values()) == targets
    with gzip.open(folder / f"{name}.inter.json.gz", "rt") as stream:
        raw = json.load(stream)
    assert read_sequences(tmp_path / "interactions.parquet") == {int(user): items for user, items in raw.items()}
    assert (len(pl.read_parquet(tmp_path / "items.parquet")), statistics["repetitions_kept"]) == (counts[1], 0)


def test_a_sample_of_users_is_whole_and_numbered_without_gaps(real_data: Path, tmp_path: Path) -> None:
    inter, item = (real_data / "Beauty" / f"Beauty.{kind}.json.gz" for kind in ("inter", "item"))
    statistics = build(inter, item, tmp_path / "some", sample_users=300)
    sequences, names = read_published_sequences(inter), read_published_items(item)["item_id"].to_list()
    frame, users, items = (
        pl.read_parquet(tmp_path / "some" / f"{kind}.parquet") for kind in ("interactions", "users", "items")
    )
    assert statistics["users"] == len(users) == 300
    assert statistics["items_without_interaction"] == 0
    assert items["item"].to_list() == list(range(len(items)))
    kept = items["item_id"].to_list()
    for user, name in users.iter_rows():
        mine = frame.filter(pl.col("user") == user).sort("position")
        assert [kept[number] for number in mine["item"]] == [names[number] for number in sequences[name]]
        assert mine["split"].to_list()[-2:] == ["valid", "test"]


def test_reasoning_prompts_of_instruments(real_data: Path, tmp_path: Path) -> None:
    """A later stage counts the training targets at position 4 or later as the method does."""
    folder = real_data / "Instruments"
    build(folder / "Instruments.inter.json.gz", folder / "Instruments.item2id", tmp_path)
    published = read_index(folder / "Instruments.index.json.gz")
    assert len({tuple(tokens) for tokens in published}) < len(published) == 9922
    # These ids are shared by some items, so each gets a token more here.
    index = put(tmp_path / "index.json", {n: [*ids, f"<{'abcdef'[len(ids)]}_{n}>"] for n, ids in enumerate(published)})
    build_rl(RlConfig(validation_users=10), 20, 42, tmp_path / "interactions.parquet", index, tmp_path)
    assert len(pl.read_parquet(tmp_path / "rl" / "train.parquet", columns=["ability"])) == 65380


def test_industrial_items(real_data: Path) -> None:
    """Descriptions are published as texts of Python lists, some with quotes that break them; 229 are empty."""
    folder = real_data / "Industrial_and_Scientific"
    frame = read_published_items(folder / "Industrial_and_Scientific.item.json.gz")
    assert len(frame) == len(read_index(folder / "Industrial_and_Scientific.index.json.gz")) == 3686
    joined = frame["description"].list.join(" ")
    assert (joined == "").sum() >= 229
    assert not joined.str.starts_with("['").any()
    assert frame["title"][0] == "SUPCO SPP6 Relay/Capacitor Hard Start Kit with 500% Increase Starting Torque"


def test_industrial_sequences(real_data: Path, tmp_path: Path) -> None:
    """A line each for 3,285 users, 227 of them with gaps; an item twice in a row stays."""
    folder = real_data / "Industrial_and_Scientific"
    inter, item = (folder / f"Industrial_and_Scientific.{kind}.gz" for kind in ("sequences.jsonl", "item.json"))
    statistics = build(inter, item, tmp_path)
    assert statistics["users"] == 3058
    lines = [json.loads(line) for line in gzip.decompress(inter.read_bytes()).splitlines()]
    assert list(read_sequences(tmp_path / "interactions.parquet").values()) == [
        line["items"] for line in lines if line["complete"]
    ]


def test_sequences_by_line(tmp_path: Path) -> None:
    lines = ['{"user": "x", "items": [2, 1, 2, 0]}', '{"user": "gap", "items": [0, 1], "complete": false}']
    lines.append('{"user": "y", "items": [0, 1, 0], "complete": true}')
    inter = put(tmp_path / "s.sequences.jsonl.gz", "\n".join(lines))
    build(inter, put(tmp_path / "s.item.json", ITEMS), tmp_path / "out", min_users=1)
    assert pl.read_parquet(tmp_path / "out" / "users.parquet").rows() == [(0, "x"), (1, "y")]
    assert read_sequences(tmp_path / "out" / "interactions.parquet") == {0: [2, 1, 2, 0], 1: [0, 1, 0]}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            '{"user": "x", "items": [0, 1, 2]}\n{"user": "y", "ite',
            r"jsonl:2: not valid JSON .*; download the file again",
        ),
        ('{"user": "x"}', r'jsonl:1: .* is expected, found \{"user": "x"\}'),
        ('{"user": 7, "items": [0]}', r"jsonl:1: .* is expected"),
        ('{"user": "x", "items": [0]}\n{"user": "x", "items": [1]}', r"jsonl:2: user 'x' has a line above"),
        ('{"user": "x", "items": [0], "items": [1]}', r"jsonl:1: the key 'items' stands twice in an object"),
        ('{"user": "x", "items": [0, "one"]}', r"user 'x' must have a list of item numbers"),
        ('{"user": "x", "items": [0], "complete": false}', r"no user has a complete sequence"),
    ],
)
def test_broken_sequences_are_named_by_line(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(GreamError, match=message):
        read_published_sequences(put(tmp_path / "s.sequences.jsonl", lines))


def test_tables_of_a_small_set(tmp_path: Path) -> None:
    inter = put(tmp_path / "s.inter.json.gz", {"10": [2, 1, 2, 0], "2": [0, 1, 0]})
    statistics = build(inter, put(tmp_path / "s.item.json", ITEMS), tmp_path / "out", min_users=1)
    assert pl.read_parquet(tmp_path / "out" / "users.parquet").rows() == [(0, "10"), (1, "2")]
    assert pl.read_parquet(tmp_path / "out" / "items.parquet").rows() == [
        (0, "0", "A & B", "One. Two.", "Moss", ["All", "Arts, Crafts"]),
        (1, "B1", "short name", "", "", ["All", "One"]),
        (2, "2", "2", "x y", "", []),
    ]
    interactions = pl.read_parquet(tmp_path / "out" / "interactions.parquet")
    splits = ["train", "train", "valid", "test", "train", "valid", "test"]
    rows = zip(
        [0] * 4 + [1] * 3, [2, 1, 2, 0, 0, 1, 0], [None] * 7, [0, 1, 2, 3, 0, 1, 2], splits, [None] * 7, strict=True
    )
    assert interactions.rows() == list(rows)
    assert list(interactions.schema.values()) == [*(pl.Int32, pl.Int32, pl.Int64, pl.Int32, pl.String, pl.Boolean)]
    reviews = pl.read_parquet(tmp_path / "out" / "reviews.parquet")
    assert (len(reviews), dict(reviews.schema)) == (0, {"user": pl.Int32, "item": pl.Int32, "text": pl.String})
    assert (statistics["repetitions_kept"], statistics["titles_replaced"]) == (2, 1)
    page = (tmp_path / "out" / "statistics.md").read_text()
    assert "| training, validation, test | 3, 2, 2 |" in page
    assert "3  1  ####" in page


USERS = st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=9), min_size=1, max_size=6)
TITLES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(users=USERS, titles=st.lists(TITLES, min_size=5, max_size=5), bars=st.booleans())
def test_there_and_back_again(tmp_path: Path, users: list[list[int]], titles: list[str], bars: bool) -> None:
    inter = put(tmp_path / "a.inter.json", {str(user): items for user, items in enumerate(users)})
    about = {str(n): {"asin": f"B{9 - n}", "title": title, "description": title} for n, title in enumerate(titles)}
    build(inter, put(tmp_path / "a.item.json", about), tmp_path / "run", min_users=1)
    ids = {str(n): [f"<a_{n + 1}>", "<b_1>"] for n in range(5)}
    paths = {name: tmp_path / "run" / f"{name}.parquet" for name in ("interactions", "items")}
    index = put(tmp_path / "a.index.json", ids)
    (tmp_path / "out").mkdir(exist_ok=True)
    export("b", bars=bars, **paths, index=index, out=tmp_path / "out")
    folder = tmp_path / "out" / "published"
    assert read_published_sequences(folder / "b.inter.json") == read_published_sequences(inter)
    build(folder / "b.inter.json", folder / "b.item.json", tmp_path / "again", min_users=1)
    for table in ("interactions", "users", "items", "reviews"):
        before, after = (pl.read_parquet(tmp_path / run / f"{table}.parquet") for run in ("run", "again"))
        assert before.equals(after), table
    spelled = read_index(folder / "b.index.json")
    assert spelled[2] == (("<|a_3|>", "<|b_1|>") if bars else ("<a_3>", "<b_1>"))


def test_the_commands(tmp_path: Path) -> None:
    inter = put(tmp_path / "s.inter.json.gz", {str(user): [0, 1, 2] for user in range(50)})
    item = put(tmp_path / "s.item.json.gz", ITEMS)
    run = tmp_path / "shop"
    files = ("--reviews", str(inter), "--metadata", str(item))
    done = call(command("interactions", run, *files))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "set interactions.format=published" in done.stderr
    done = call(command("interactions", run, *files, "interactions.format=published"))
    assert done.returncode == 0, done.stderr
    done = call(command("export", run))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (run / "published").iterdir()) == ["shop.inter.json", "shop.item.json"]
    put(run / "index.json", {"0": ["<|a_1|>"], "1": ["<|a_2|>"], "2": ["<|a_3|>"]})
    done = call(command("export", run, "export.name=lc", "export.tokens=<a_1>", "--overwrite"))
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "published" / "lc.index.json").read_text()) == {str(n): [f"<a_{n + 1}>"] for n in range(3)}
    assert len(list((run / "published").iterdir())) == 3


@pytest.mark.parametrize("token", ["<a_1>", "<|a_1|>", "<c_256>"])
def test_respell(token: str) -> None:
    name = token.strip("<|>")
    assert (respell(token, bars=True), respell(token, bars=False)) == (f"<|{name}|>", f"<{name}>")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0": ["<a_1>"], "2": ["<a_2>"]}, "items must be numbered 0 to 1, found '2'"),
        ({"0": ["<a_1>"], "x": ["<a_2>"]}, "items must be numbered 0 to 1, found 'x'"),
        ({"0": ["<a_1>"], "01": ["<a_2>"]}, "items must be numbered 0 to 1, found '01'"),
        ({"0": []}, r"item 0 must have a list of tokens, found \[\]"),
        ({"0": "<a_1>"}, "item 0 must have a list of tokens"),
        ({"0": ["<a_1>", 5]}, "item 0 has 5, no token"),
        ({"0": ["a_1"]}, 'item 0 has "a_1", no token'),
        ({"0": ["<|a_1>"]}, "no token like <a_1> or"),
        ({"0": ["<a_1>", "<c_1>"]}, "item 0 has '<c_1>' at level 2, where 'b' belongs"),
        ({"0": ["<a_1>"], "1": ["<|a_2|>"]}, "spelled unlike the tokens before it"),
        ([1], "a JSON object that maps item numbers to the tokens of their ids is expected"),
        ({}, "a JSON object that maps"),
        ('{"0": [\n"<a_1>', r"x\.json:2: not valid JSON"),
        ("", r"x\.json:1: not valid JSON"),
    ],
)
def test_a_broken_index(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(GreamError, match=message) as caught:
        read_index(put(tmp_path / "x.json", content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inter", "item", "message"),
    [
        ({"0": [0, 1, 3]}, ITEMS, "describes items 0 to 2, but .*s.inter.json has item 3"),
        ({"x": [0, 1, 2], "y": [0, 1], "z": []}, ITEMS, "inter.json: user 'y' has 2 .* take 3; remove .* 2 in all"),
        ({"x": [0, 1, 2], "z": []}, ITEMS, "inter.json: user 'z' has 0 items.* take 3; remove .* 1 in all"),
        ('{"A": [0, 1, 2], "B": [0, 1, 2], "A": [2, 1, 0]}', ITEMS, "inter.json: the key 'A' stands twice"),
        ({"0": [0, 1, 2]}, '{"0": {}, "1": {}, "0": {}}', "item.json: the key '0' stands twice"),
        ({"0": [0, "x", 2]}, ITEMS, r"user '0' must have a list of item numbers, found \[0, \"x\", 2\]"),
        ({"0": [0, -1, 2]}, ITEMS, "user '0' must have a list of item numbers"),
        ({"0": [0, 1, 2]}, {"0": "x"}, 'item 0 must have named texts, found "x"'),
        ({"0": [0, 1, 2]}, {"0": {"title": True}}, "item 0 must have a text as 'title', found true"),
        ({"0": [0, 1, 2]}, {"0": {"description": {}}}, "item 0 must have a text as 'description', found {}"),
        ({"0": [0, 1, 2]}, {"0": {"asin": "B"}, "1": {"asin": "B"}}, "two items have the same ASIN"),
    ],
)
def test_broken_sets(tmp_path: Path, inter: object, item: object, message: str) -> None:
    paths = put(tmp_path / "s.inter.json", inter), put(tmp_path / "s.item.json", item)
    with pytest.raises(GreamError, match=message):
        build(*paths, tmp_path / "out", min_users=1)
    assert not list((tmp_path / "out").iterdir())


def test_a_cut_archive(tmp_path: Path) -> None:
    path = put(tmp_path / "s.inter.json.gz", {str(user): [0, 1, 2] for user in range(50)})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(GreamError, match=r"s\.inter\.json\.gz:\d+: the gzip stream is cut or damaged here"):
        read_published_sequences(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("B0\t0\nB1\n", "item2id:2: an ASIN, a tab and an item number are expected"),
        ("B0\t0\nB1\t2\n", "item2id: items must be numbered 0 to 1, found 2"),
        ("B0\t0\nB1\t1\nB2\t0\n", "item2id:3: item 0 has a line above"),
    ],
)
def test_a_broken_item2id(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(GreamError, match=message):
        read_published_items(put(tmp_path / "s.item2id", lines))


def test_published_ids_are_measured_by_a_command(tmp_path: Path) -> None:
    ids = [["<a_0>", "<b_3>"], ["<a_0>", "<b_3>"], ["<a_1>", "<b_0>"]]
    (tmp_path / "their.index.json").write_text(json.dumps({str(item): tokens for item, tokens in enumerate(ids)}))
    run = tmp_path / "run"
    done = call(command("quality", run, "--index", str(tmp_path / "their.index.json")))
    assert done.returncode == 0, done.stderr
    assert "3 items, codes used 2 of 2 x 2 of 4, 2 items share their id with another" in done.stdout
    report = json.loads((run / "index_quality.json").read_text())
    assert report["collisions"] == {"items_sharing": 2, "rate": pytest.approx(2 / 3)}
    assert report["sizes"] == [2, 4]
    assert report["unique_rate"] == pytest.approx(2 / 3)
    assert "<svg" in (run / "index_quality.html").read_text()
    pl.DataFrame(
        {"item": [0], "title": ["T"], "description": [""], "brand": [""], "categories": [["C"]]}
    ).write_parquet(run / "items.parquet")
    # The vectors are as right as the items: it is the ids that do not fit.
    vectors = run / "embeddings.safetensors"
    save_file({"embeddings": np.ones((1, 2), np.float32)}, vectors)
    done = call(command("quality", run, "--index", str(tmp_path / "their.index.json")))
    assert done.returncode == 2
    assert "their.index.json: has 3 items, but" in done.stderr
    with pytest.raises(GreamError, match=r"holds 1 embeddings, but .*their\.index\.json has 3 items; take both"):
        build_quality(tmp_path / "their.index.json", None, None, vectors, run)


def test_validation_prompts_have_the_shortest_history_too(tmp_path: Path) -> None:
    """Of users with three to nine items, those who have the fewest before the validation item are not asked."""
    users = {str(user): list(range(3 + user % 7)) for user in range(70)}
    items = {str(item): {"title": f"Item {item}"} for item in range(9)}
    build(put(tmp_path / "s.inter.json", users), put(tmp_path / "s.item.json", items), tmp_path, min_users=1)
    index = put(tmp_path / "index.json", {str(item): [f"<|a_{item + 1}|>"] for item in range(9)})
    build_rl(RlConfig(min_history=5), 20, 42, tmp_path / "interactions.parquet", index, tmp_path)
    asked = pl.read_parquet(tmp_path / "rl" / "val.parquet")["extra_info"].struct.field("user").to_list()
    assert sorted(asked) == [user for user in range(70) if 3 + user % 7 - 2 >= 5]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"embeddings": np.zeros((2, 4), np.float32)},
            "holds 2 embeddings, but items.parquet has 3 items; take both of the same data, or write one vector per",
        ),
        ({"embeddings": np.zeros((4, 4), np.float32)}, "holds 4 embeddings, but items.parquet has 3 items"),
        ({"embeddings": np.zeros(3, np.float32)}, r"holds a tensor of shape \[3\]"),
        ({"vectors": np.zeros((3, 4), np.float32)}, "has no tensor 'embeddings'"),
        ({"embeddings": np.ones((3, 4), bool)}, "holds values of type bool"),
        ({"embeddings": np.diag([1, np.nan, 1])}, "embedding of item 1 is not finite"),
        ({"embeddings": np.diag([1, 1, np.float32(1e30)])}, r"the largest value is 1e\+30, of item 2.*; multiply"),
        ({"embeddings": np.diag([1e300, 1, 1])}, r"the largest value is 1e\+300, of item 0"),
        ({"embeddings": np.eye(3, dtype=np.float32) * 1e-30}, "the largest value is 1e-30"),
        (None, "cannot be read as safetensors"),
    ],
)
def test_embeddings_made_elsewhere_must_fit_the_items(
    tmp_path: Path, tensors: dict[str, np.ndarray] | None, message: str
) -> None:
    build(put(tmp_path / "s.inter.json", {"0": [0, 1, 2]}), put(tmp_path / "s.item.json", ITEMS), tmp_path, min_users=1)
    path = tmp_path / "embeddings.safetensors"
    path.write_bytes(b"no tensors") if tensors is None else save_file(tensors, path)
    with pytest.raises(GreamError, match=rf"embeddings\.safetensors: {message}") as caught:
        build_semantic_ids(
            SemanticIdsConfig(levels=2, codebook_size=2),
            0,
            path,
            tmp_path / "items.parquet",
            tmp_path / "interactions.parquet",
            None,
            tmp_path,
        )
    assert "\n" not in str(caught.value)


def test_numbers_words_and_lists_of_published_items(tmp_path: Path) -> None:
    """What other programs make of texts and numbers, on the way through a data frame."""
    items = {
        "0": {"asin": 7.0, "title": float("nan"), "textual_id": "short", "categories": "['All', 'One']"},
        "1": {"asin": "nan", "title": 1984, "description": None, "brand": "N/A"},
        "2": {"title": "\ud800 Tea", "categories": float("nan"), "description": [1, float("nan"), "x"]},
    }
    inter = put(tmp_path / "s.inter.json", "\ufeff" + json.dumps({"a": ["0", 1.0, "2.0"], "b\ud800": [2, 1, 0]}))
    build(inter, put(tmp_path / "s.item.json", items), tmp_path, min_users=1)
    assert read_sequences(tmp_path / "interactions.parquet") == {0: [0, 1, 2], 1: [2, 1, 0]}
    assert pl.read_parquet(tmp_path / "items.parquet").rows() == [
        (0, "7", "short", "", "", ["All", "One"]),
        (1, "1", "1984", "", "", []),
        (2, "2", "? Tea", "1 x", "", []),
    ]
