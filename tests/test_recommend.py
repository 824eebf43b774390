"""``recommend``: what people type is understood or refused in one line, and lists are those of the whole catalogue."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from eval_support import MALICIOUS, exact_scores, make_checkpoint, make_run
from gream.decoding.choices import Score
from gream.dialogue import Form, direct_prompt, reasoning_prompt, render_prompt, sequence_messages
from gream.engine.settings import Device, Mode, Settings
from gream.errors import GreamError
from gream.files import write_json
from gream.semantic_ids.item_ids import ItemIds
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from serving.__main__ import app
from serving.items import Item, Items
from serving.recommend import Recommender, RunModel, read_users, recommend_all
from serving.recommend_command import recommend_command
from serving.users import nothing_twice

TITLES = [
    "Oak Dining Table",
    "Oak Side Table",
    "Walnut Desk",
    "Brass Lamp",
    "Brass Lamp",
    "Café Chair, green",
    "",
    "Über Sofa",
]


def make_items(titles: list[str]) -> Items:
    ids = ItemIds.of([[f"<|a_{item // 3 + 1}|>", f"<|b_{item % 3 + 1}|>"] for item in range(len(titles))])
    rows = [Item(item, f"B{item:03d}", title, "", ids.of_items[item]) for item, title in enumerate(titles)]
    return Items(rows, ids, Path("index.json"))


ASKED = Settings(beams=30, history=3, chain_tokens=12, form=Form.question)


def make_recommender(items: Items, folder: Path, settings: Settings = ASKED, **more: Any) -> Recommender:
    return Recommender(folder, items, settings, **{"device": Device.cpu, "batch_size": 16} | more)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("recommend") / "run")
    make_checkpoint(folder)
    return folder


@pytest.mark.parametrize(
    ("entry", "item"),
    [
        ("B002", 2),
        ("<|a_1|><|b_2|>", 1),
        (" <|a_1|> <|b_2|> ", 1),
        ("Walnut Desk", 2),
        ("  walnut   DESK", 2),
        ("wallnut desk", 2),
        ("café chair green", 5),
        ("UBER SOFA", 7),
        ("oak dinning table", 0),
    ],
)
def test_an_item_is_found_by_id_semantic_id_and_title_also_a_misspelt_one(entry: str, item: int) -> None:
    assert make_items(TITLES).find(entry) == item


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("", "an empty entry names no item"),
        ("  ", "an empty entry names no item"),
        ("oak table", "no item has the id or title 'oak table'; nearest titles: 'Oak "),
        ("B999", "no item has the id or title 'B999'; no title is near it"),
        ("Brass Lamp", "2 items are titled 'Brass Lamp'; name one by its id, e.g. B003, B004"),
        ("bras lamp", "2 items are titled 'bras lamp'; name one by its id, e.g. B003, B004"),
        ("<|a_9|><|b_1|>", "no item has the semantic id <|a_9|><|b_1|>"),
        ("<|a_1|>", "no item has the semantic id <|a_1|>"),
        ("!!!", "no item has the id or title '!!!'; no title is near it"),
        ("x\n" * 300, "no item has the id or title 'x x x"),
    ],
)
def test_what_names_no_item_or_several_is_one_line(entry: str, message: str) -> None:
    with pytest.raises(GreamError) as caught:
        make_items(TITLES).find(entry)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_the_nearest_titles_are_named() -> None:
    with pytest.raises(GreamError, match=r"nearest titles: 'Oak (Side|Dining) Table'; 'Oak (Side|Dining) Table'"):
        make_items(TITLES).find("oak table")


@given(st.lists(st.text(max_size=30), min_size=1, max_size=12), st.data())
def test_a_title_that_one_item_has_finds_it_and_any_text_is_answered(titles: list[str], data: st.DataObject) -> None:
    items = make_items(titles)
    for item in range(len(titles)):
        assert items.find(items[item].item_id) == item
        assert items.find("".join(items[item].tokens)) == item
    query = data.draw(st.one_of(st.text(max_size=40), st.sampled_from(titles)))
    found = items.search(query, 5)
    assert len(found) == len(set(found)) <= 5 and all(0 <= item < len(titles) for item in found)
    try:
        item = items.find(query)
    except GreamError as error:
        assert "\n" not in str(error)
    else:
        assert 0 <= item < len(titles)


def test_a_search_shows_titles_with_every_word_before_similar_ones() -> None:
    items = make_items(TITLES)
    assert items.search("table oak", 5)[:2] == [0, 1]
    assert items.search("walnutt", 1) == [2]
    assert items.search("B004", 3)[0] == 4
    assert items.search("<|a_1|><|b_3|>", 3)[0] == 2
    assert items.search("", 3) == [0, 1, 2]
    assert items.search("zzzzzz", 3) == []


def test_items_that_do_not_belong_to_the_ids_are_refused(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", items=20)
    (other / "items.parquet").write_bytes((run / "items.parquet").read_bytes())
    with pytest.raises(GreamError, match=r"items\.parquet: holds 30 items where index\.json has 0 to 19"):
        Items.load(other)
    (other / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(GreamError, match=r"items\.parquet: no table with the columns"):
        Items.load(other)


def test_both_modes_rank_as_scoring_the_whole_catalogue_does(run: Path) -> None:
    items = Items.load(run)
    folder = run / "checkpoints" / "alignment"
    model = make_recommender(items, folder)
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.convert_tokens_to_ids(list(tokens)) for tokens in items.ids.ids]
    histories = [[1, 2], [5, 6, 7, 8]]
    for mode, ask in ((Mode.direct, direct_prompt), (Mode.reasoning, reasoning_prompt)):
        both = model.recommend(mode, histories, 7)
        for history, found in zip(histories, both, strict=True):
            prompt = tokenizer(render_prompt(ask([items.ids.text(item) for item in history[-3:]])))["input_ids"]
            if found.reasoning is not None:
                assert found.reasoning.text.endswith("<answer>") and not found.reasoning.complete
                assert found.reasoning.evidence is None
                prompt += tokenizer(found.reasoning.text)["input_ids"]
            # A chain read again may fall into other pieces than it was written in, so its scores are not compared.
            exact = np.array(exact_scores(network, prompt, ids))
            best = np.argsort(-exact)[:7]
            if mode is Mode.direct:
                assert [item.item_id for item in found.items] == [items[int(item)].item_id for item in best]
                np.testing.assert_allclose([item.score for item in found.items], exact[best], atol=1e-4)
            assert [item.rank for item in found.items] == list(range(1, 8))
            assert len({item.item_id for item in found.items}) == 7
            assert found.left_out == len(history) - len(found.history)
            assert [item.item_id for item in found.history] == [items[item].item_id for item in history[-3:]]


def test_a_model_of_whole_sequences_is_asked_to_go_on_with_one(run: Path) -> None:
    items = Items.load(run)
    folder = run / "checkpoints" / "alignment"
    model = make_recommender(items, folder, dataclasses.replace(ASKED, form=Form.sequence))
    [found] = model.recommend(Mode.direct, [[5, 6, 7, 8]], 7)
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    question, answer = sequence_messages([items.ids.text(item) for item in (6, 7, 8)])
    prompt = tokenizer(render_prompt([question]) + answer["content"])["input_ids"]
    ids = [tokenizer.convert_tokens_to_ids(list(tokens)) for tokens in items.ids.ids]
    exact = np.array(exact_scores(network, prompt, ids))
    assert [item.item_id for item in found.items] == [items[int(item)].item_id for item in np.argsort(-exact)[:7]]
    # A chain is asked for in one form only.
    question_form = make_recommender(items, folder)
    assert model.recommend(Mode.reasoning, [[5, 6]], 3) == question_form.recommend(Mode.reasoning, [[5, 6]], 3)


def test_the_history_is_left_out_whole_where_asked(run: Path) -> None:
    items = Items.load(run)
    folder = run / "checkpoints" / "alignment"
    history = list(range(25))  # of which the prompt shows three
    [usual] = make_recommender(items, folder).recommend(Mode.direct, [history], 30)
    model = make_recommender(items, folder, dataclasses.replace(ASKED, exclude_history=True))
    [found] = model.recommend(Mode.direct, [history], 30)
    own = {items[item].item_id for item in history}
    assert [item.item_id for item in found.items] == [item.item_id for item in usual.items if item.item_id not in own]
    assert [item.rank for item in found.items] == [1, 2, 3, 4, 5]
    with pytest.raises(GreamError, match="all 30 items of the catalogue are excluded"):
        model.recommend(Mode.direct, [list(range(30))], 5)


def test_several_chains_do_not_depend_on_who_else_asks(run: Path) -> None:
    items, folder = Items.load(run), run / "checkpoints" / "alignment"
    settings = dataclasses.replace(ASKED, chains=3, temperature=1.5, score=Score.legal)
    recommender = make_recommender(items, folder, settings)
    both = recommender.recommend(Mode.reasoning, [[1, 2], [5, 6, 7, 8]], 30)
    [alone] = recommender.recommend(Mode.reasoning, [[5, 6, 7, 8]], 30)
    assert alone.reasoning == both[1].reasoning
    assert [item.item_id for item in alone.items] == [item.item_id for item in both[1].items]
    # Legal tokens alone share all probability, whatever the chains: the whole catalogue has 1.
    assert sum(np.exp([item.score for item in alone.items])) == pytest.approx(1.0, abs=1e-3)
    [usual] = make_recommender(items, folder).recommend(Mode.reasoning, [[5, 6, 7, 8]], 30)
    assert [item.score for item in usual.items] != [item.score for item in alone.items]


def test_items_that_share_an_id_stand_together_and_a_prompt_may_be_another(run: Path, tmp_path: Path) -> None:
    ids = [list(tokens) for tokens in ItemIds.load(run / "index.json").of_items]
    ids[17] = ids[3]
    index, template = tmp_path / "shared.json", tmp_path / "prompt.txt"
    index.write_text(json.dumps({str(item): tokens for item, tokens in enumerate(ids)}))
    template.write_text("<|im_start|>Had: {history:, } Next:")
    items, folder = Items.load(run, index), run / "checkpoints" / "alignment"
    settings = Settings(beams=29, history=3, chain_tokens=4, exclude_history=True)
    recommender = make_recommender(items, folder, settings, modes=[Mode.direct], template=template)
    [found] = recommender.recommend(Mode.direct, [[4, 5, 6, 7]], 26)
    numbers = [int(item.item_id[1:]) for item in found.items]
    assert sorted(numbers) == [item for item in range(30) if item not in (4, 5, 6, 7)]
    assert abs(numbers.index(3) - numbers.index(17)) == 1
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    shown = ", ".join("".join(ids[item]) for item in (5, 6, 7))
    prompt = tokenizer(f"<|im_start|>Had: {shown} Next:", add_special_tokens=False)["input_ids"]
    exact = exact_scores(network, prompt, [tokenizer.convert_tokens_to_ids(tokens) for tokens in ids])
    np.testing.assert_allclose([item.score for item in found.items], [exact[item] for item in numbers], atol=1e-4)
    [one_of_them] = recommender.recommend(Mode.direct, [[3]], 29)
    assert "B00017" in {item.item_id for item in one_of_them.items}  # though its id is item 3's
    with pytest.raises(GreamError, match=r"2 items have the semantic id .*; name one by its id, e.g. B00003, B00017"):
        items.find("".join(ids[3]))


def test_what_the_model_cannot_do_is_refused(run: Path) -> None:
    items = Items.load(run)
    folder = run / "checkpoints" / "alignment"
    model = make_recommender(items, folder, Settings(chain_tokens=400, history=20, form=Form.question))
    with pytest.raises(GreamError, match="a list of 21 items: 1 to 20"):
        model.recommend(Mode.direct, [[1]], 21)
    with pytest.raises(GreamError, match="an empty history"):
        model.recommend(Mode.direct, [[1], []], 3)
    with pytest.raises(GreamError, match="but the model has 512 positions; lower --chain-tokens"):
        model.recommend(Mode.reasoning, [list(range(20))], 3)
    assert len(model.recommend(Mode.direct, [list(range(20))], 3)[0].items) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"history": ["B00001"', "not valid JSON"),
        ('["B00001"]', 'a JSON object is expected; an object with the keys "user" and "history" is expected'),
        ('{"user": 1}', 'an object with the keys "user" and "history" is expected'),
        ('{"user": 1, "history": ["B00001"], "k": 3}', 'an object with the keys "user" and "history" is expected'),
        ('{"user": [], "history": ["B00001"]}', '"user" must be a string or a number'),
        ('{"history": "B00001"}', '"history" must be a list of strings'),
        ('{"history": [1]}', '"history" must be a list of strings'),
        ('{"history": []}', "an empty history: at least one item needed"),
        ('{"user": "a\\ud800", "history": ["B00001"]}', '"user" holds half of a surrogate pair'),
        ('{"history": ["B00001", "zzzz"]}', "no item has the id or title 'zzzz'"),
        (json.dumps({"history": ["B00001"] * 501}), "a history of 501 items: at most 500"),
    ],
)
def test_a_broken_line_is_named_with_file_and_number(run: Path, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "users.jsonl"
    path.write_text('{"user": "u", "history": ["B00001"]}\n\n' + line + "\n")
    with pytest.raises(GreamError) as caught:
        read_users(path, Items.load(run))
    assert str(caught.value).startswith(f"{path}:3: {message}")


def test_a_file_gives_the_lists_that_its_users_get_alone(run: Path, tmp_path: Path) -> None:
    items = Items.load(run)
    path = tmp_path / "users.jsonl"
    rows = [{"user": f"u{row}", "history": [f"Item number {row + 1}", f"B{row + 2:05d}"]} for row in range(5)]
    path.write_text("\n".join(map(json.dumps, rows)))
    model = make_recommender(items, run / "checkpoints" / "alignment", dataclasses.replace(ASKED, chain_tokens=8))
    users = read_users(path, items)
    assert [user.history for user in users] == [(row + 1, row + 2) for row in range(5)]
    together = list(recommend_all(model, Mode.reasoning, users, 4, 2))
    assert [user.user for user, _ in together] == [f"u{row}" for row in range(5)]
    for user, found in together:
        [alone] = model.recommend(Mode.reasoning, [user.history], 4)
        assert alone.reasoning == found.reasoning
        assert [item.item_id for item in alone.items] == [item.item_id for item in found.items]
    path.write_text("\n \n")
    with pytest.raises(GreamError, match="holds no user"):
        read_users(path, items)
    with pytest.raises(GreamError, match="cannot be read"):
        read_users(tmp_path, items)


def test_the_command_shows_a_table_and_writes_json(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, settings = run / "checkpoints" / "alignment", dataclasses.replace(ASKED, chain_tokens=6)
    model = RunModel(run=run, checkpoint=checkpoint, settings=settings, device=Device.cpu, batch_size=16)
    entries = ["item number 3", "B00000"]
    recommend_command(model, Mode.direct, 3, entries=entries, as_json=False)
    shown = capsys.readouterr().out
    assert "Item number 3; " in shown and [row for row in shown.splitlines() if row.startswith(" 3 ")]
    path = tmp_path / "users.jsonl"
    path.write_text('{"user": "Ü", "history": ["B00000"]}\n{"history": ["B00001"]}\n')
    recommend_command(model, Mode.reasoning, 2, file=path, as_json=True)
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["user"] == "Ü" and "user" not in second
    assert first["history"][0]["title"] == MALICIOUS
    assert [item["rank"] for item in first["items"]] == [1, 2] and first["reasoning"]["text"].endswith("<answer>")
    known = set(pl.read_parquet(run / "items.parquet")["item_id"])
    assert {item["item_id"] for row in (first, second) for item in row["items"]} <= known
    for who in ({}, {"entries": entries, "file": path}, {"entries": entries, "users": ["A<1>"]}):
        with pytest.raises(GreamError, match="name users of the run, each with --user, or the items of one history"):
            recommend_command(model, Mode.direct, 3, as_json=False, **who)


def test_a_user_of_the_run_gets_new_items_of_one_category_from_the_last_model(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    path = folder / "items.parquet"
    table = pl.read_parquet(path, glob=False)
    kinds = [["Shop", "Teapots" if item % 2 else "Cups"] for item in range(len(table))]
    brands = ["Nord" if item < 4 else "" for item in range(len(table))]
    table.with_columns(categories=pl.Series(kinds), brand=pl.Series(brands)).write_parquet(path)
    write_json(folder / "statistics.json", {"interactions": 100, "repetitions_kept": 0})
    names = pl.read_parquet(folder / "users.parquet", glob=False)["user_id"].to_list()
    rows = pl.read_parquet(folder / "interactions.parquet", glob=False)

    def ask(*more: str) -> list[dict[str, Any]]:
        command = ["recommend", "--run", str(folder), "--mode", "direct", "--history", "3", "--form", "question"]
        app([*command, "--json", "-k", "20", *more], standalone_mode=False)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    found = ask("--user", names[3], "--user", names[5], "--only", "category=teapots")
    assert [row["user"] for row in found] == [names[3], names[5]]
    for user, row in zip((3, 5), found, strict=True):
        had = set(rows.filter(pl.col("user") == user)["item"].to_list())
        wanted = {item for item in range(30) if item % 2 and item not in had}
        assert {int(item["item_id"][1:]) for item in row["items"]} == wanted
    few = tmp_path / "few.txt"
    few.write_text("B00007\n\nitem number 9\n")
    [row] = ask("--user", names[3], "--only", str(few), "--only", "brand=Nord", "--no-exclude-history")
    assert sorted(int(item["item_id"][1:]) for item in row["items"]) == [0, 1, 2, 3, 7, 9]
    whole = {item["item_id"]: item["score"] for item in ask("--user", names[3], "--no-exclude-history")[0]["items"]}
    for item in row["items"]:  # a score is the log-probability of the item, whatever else the list may name
        assert item["item_id"] not in whole or item["score"] == pytest.approx(whole[item["item_id"]], abs=1e-4)
    few.write_text("B00007\nB99999\n")
    for only, message in (
        ("category=Tepots", r"no item has this category; nearest: Teapots"),
        (str(few), r"few\.txt:2: no item has the id"),
        ("nothing", r"neither category=NAME nor brand=NAME nor a file"),
    ):
        with pytest.raises(GreamError, match=message):
            ask("--user", names[3], "--only", only)
    with pytest.raises(GreamError, match="no user of the run has the id 'A<17'; the nearest id is 'A<17>'"):
        ask("--user", "A<17")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(GreamError, match="no trained model under checkpoints/"):
        ask("--user", names[3])


def test_a_mistake_on_the_command_line_is_one_line_and_status_2(run: Path) -> None:
    command = [sys.executable, "-m", "eval", "recommend", "--run", str(run), "--checkpoint", "none", "--device", "cpu"]
    done = subprocess.run([*command, "--item", "zzzz"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: no item has the id or title 'zzzz'; no title is near it\n"


def test_a_model_that_lacks_weights_is_one_line_and_status_2(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(run / "checkpoints" / "alignment", folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".layers.1." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    command = [sys.executable, "-m", "eval", "recommend", "--run", str(run), "--checkpoint", str(folder)]
    asked = ["--device", "cpu", "--history", "3", "--form", "question", "--item", "B00001"]
    done = subprocess.run([*command, *asked], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {folder}/model.safetensors: these are not the weights of the model in config.json: "
        "model.layers.1.self_attn.q_proj.weight is missing, the first of 11 that do not fit; make or fetch the model "
        "again, weights and config.json together\n"
    )


@pytest.mark.parametrize(
    ("name", "keep", "said"),
    [
        ("config.json", b"{", "config.json:1: not valid JSON"),
        ("config.json", b"[]", "config.json: holds no JSON object"),
        ("model.safetensors", 1000, "model.safetensors: cut short, or no safetensors file"),
        ("tokenizer.json", b"{", "its tokenizer cannot be loaded"),
        ("tokenizer.json", None, "no tokenizer.json; name a folder in Hugging Face format"),
    ],
)
def test_a_torn_model_is_one_line(run: Path, tmp_path: Path, name: str, keep: bytes | int | None, said: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(run / "checkpoints" / "alignment", folder)
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    if keep is not None:
        path.write_bytes(whole[:keep] if isinstance(keep, int) else keep)
    with pytest.raises(GreamError) as refused:
        make_recommender(Items.load(run), folder)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def dump(raw: int, repeated: int) -> dict[str, Any]:
    filters = {"raw": {"interactions": raw}, "removed_repetitions": {"interactions": repeated}}
    return {"interactions": 90, "filters": filters}


@pytest.mark.parametrize(
    ("statistics", "never"),
    [
        ({"interactions": 1000, "repetitions_kept": 9}, True),
        ({"interactions": 1000, "repetitions_kept": 11}, False),
        (dump(1000, 10), True),
        (dump(1000, 200), False),
        ({"interactions": 90}, False),
        (None, False),
    ],
)
def test_the_data_say_whether_anything_is_taken_twice(tmp_path: Path, statistics: Any, never: bool) -> None:
    if statistics is not None:
        write_json(tmp_path / "statistics.json", statistics)
    assert nothing_twice(tmp_path) is never
