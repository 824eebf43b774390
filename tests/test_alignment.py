"""Alignment tasks: their wordings, how often each is asked, and rows that hold a whole sequence."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from eval_support import make_checkpoint, make_run
from gream.dialogue import DIRECT_QUESTION, Form, direct_text
from gream.engine.engine import Engine
from gream.engine.local import LocalModel
from gream.engine.settings import Settings
from gream.semantic_ids.catalog import Catalog
from gream.tasks import ITEM_TEXTS, USER_TEXTS, Material, Record, render_record, reworded, slots_of
from gream.templates import TEMPLATES, Task
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data_processing.config import SftConfig
from data_processing.rows.alignment import Records, draw_records
from data_processing.tables import Sequences

ITEMS = 6
NOTHING = {"next_item": 0, "id_to_text": 0, "text_to_id": 0, "fused_next": 0, "search": 0, "preference": 0}
SEQUENCES = {0: [0, 1, 2, 3], 1: [4], 2: [5, 4, 3, 2, 1, 0], 5: [2, 3]}


def material_of(items: list[dict[str, str]] | None = None) -> Material:
    items = items or [{name: f"{name} {number}" for name in ITEM_TEXTS} for number in range(ITEMS)]
    users = {user: {name: f"{name} of {user}" for name in USER_TEXTS} for user in (0, 2, 5)}
    return Material([f"<|a_{number + 1}|><|b_1|>" for number in range(len(items))], items, users)


def records_of(sequences: dict[int, list[int]] = SEQUENCES, seed: int = 0, **rates: float | bool) -> list[Record]:
    return drawn(SftConfig.model_validate({**NOTHING, **rates}), material_of(), sequences, seed)


def drawn(config: SftConfig, material: Material, sequences: dict[int, list[int]], seed: int) -> list[Record]:
    records = Records(Sequences.of(sequences))
    draw_records(records, config, material, Sequences.of(sequences), random.Random(seed))
    return list(records)


def test_there_are_as_many_wordings_as_the_paper_has() -> None:
    """17, 19, 17, 12, 11 and 11; which of the two directions of item text has 19 is not said, so both have."""
    assert {task: len(wordings) for task, wordings in TEMPLATES.items()} == {
        "next_item": 17,
        "text_to_id": 19,
        "id_to_text": 19,
        "fused_next": 12,
        "search": 11,
        "preference": 11,
    }
    assert set(TEMPLATES) == set(get_args(Task))
    everything = [wording for wordings in TEMPLATES.values() for wording in wordings]
    assert len(set(everything)) == len(everything)
    for task, wordings in TEMPLATES.items():
        assert len({wording.question for wording in wordings}) == len(wordings), task
        # Questions, and requests or statements.
        asked = sum(wording.question.rstrip().endswith("?") for wording in wordings)
        assert 0.2 <= asked / len(wordings) <= 0.8, task


ID_ANSWER = {"next_item", "text_to_id", "search"}
NEEDED: dict[Task, tuple[set[str], ...]] = {  # one of these sets stands in the question
    "next_item": ({"history"},),
    "text_to_id": ({"title"}, {"description"}),
    "id_to_text": ({"item"},),
    "fused_next": ({"history"}, {"titles"}),
    "search": ({"intention"}, {"general"}, {"long_term"}, {"short_term"}),
    "preference": ({"history"},),
}


@pytest.mark.parametrize("task", get_args(Task))
def test_every_wording_shows_what_its_task_needs_and_not_its_answer(task: Task) -> None:
    for wording in TEMPLATES[task]:
        shown, answered = (slots_of(type(wording)(text, "")) for text in (wording.question, wording.answer))
        assert any(slots <= shown for slots in NEEDED[task]), wording
        assert answered and not answered & shown, wording
        assert task not in ID_ANSWER or answered == {"item"}
        assert task != "fused_next" or (answered == {"item"}) == ("titles" in shown)
        assert task != "preference" or answered < set(USER_TEXTS)


def test_a_next_item_row_is_asked_as_evaluation_asks() -> None:
    rows = records_of(next_item=1)
    assert {row["template"] for row in rows} == {0}
    assert TEMPLATES["next_item"][0].question == DIRECT_QUESTION
    asked = [(row["history"], row["item"]) for row in rows]
    expected = [(s[:end], s[end]) for s in SEQUENCES.values() for end in range(1, len(s))]
    assert asked == expected
    several = Counter((tuple(row["history"]), row["item"], row["template"]) for row in records_of(next_item=5))
    assert set(several.values()) <= {1, 2}
    assert sum(several.values()) == 5 * len(expected)


@settings(max_examples=60)
@given(rate=st.floats(0, 3), task=st.sampled_from(get_args(Task)), seed=st.integers(0, 99))
def test_a_task_is_weighted_sampled_or_left_out(rate: float, task: Task, seed: int) -> None:
    subjects = {"id_to_text": ITEMS, "text_to_id": ITEMS, "next_item": 9, "fused_next": 9}.get(task, 3)
    rows = records_of(seed=seed, **{task: rate})
    assert {row["task"] for row in rows} <= {task}
    assert len(rows) == int(rate) * subjects + round((rate - int(rate)) * subjects)
    per_subject = Counter((row["item"], tuple(row["history"]), row["user"]) for row in rows)
    assert not rows or max(per_subject.values()) <= int(rate) + 1


def test_a_history_is_as_long_as_the_recipe_says() -> None:
    long = {0: [number % ITEMS for number in range(40)]}
    rows = records_of(long, next_item=1, history=7)
    assert [len(row["history"]) for row in rows] == [min(7, end) for end in range(1, 40)]
    assert all(row["history"] == long[0][max(0, end - 7) : end] for end, row in enumerate(rows, start=1))


@settings(max_examples=25)
@given(
    gaps=st.lists(
        st.fixed_dictionaries({name: st.sampled_from(["", " ", "text"]) for name in ITEM_TEXTS if name != "title"}),
        min_size=ITEMS,
        max_size=ITEMS,
    )
)
def test_no_row_is_made_of_a_text_that_is_missing(gaps: list[dict[str, str]]) -> None:
    material = material_of([{"title": f"title {number}", **gap} for number, gap in enumerate(gaps)])
    config = SftConfig(id_to_text=19, text_to_id=19, fused_next=12, next_item=1, search=11, preference=11)
    records = drawn(config, material, SEQUENCES, 1)
    for row, record in enumerate(records):
        for epoch in (0, 1, 5):
            *_, question, answer = render_record(reworded(record, row, epoch, material), material)
            assert question["content"].strip() and answer["content"].strip()


def test_a_sequence_row_holds_every_item_of_a_user_once() -> None:
    rows = records_of(sequence=True, sequence_items=4)
    assert [row["history"] for row in rows] == [[0, 1, 2, 3], [4], [5, 4, 3, 2], [1, 0], [2, 3]]
    messages = render_record(rows[0], material_of())
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[1]["content"] == "".join(f"<|a_{number}|><|b_1|>" for number in (1, 2, 3, 4))


def test_items_left_out_of_a_sequence_are_others_each_time() -> None:
    often = [records_of(seed=seed, sequence=True, sequence_drop=0.25) for seed in range(400)]
    for number, whole in enumerate(SEQUENCES.values()):
        seen = [rows[number]["history"] for rows in often]
        assert all(kept == [item for item in whole if item in kept] for kept in seen)  # in order
        assert all(len(kept) >= min(2, len(whole)) for kept in seen)  # never less than a pair
        assert len({tuple(kept) for kept in seen}) > 5 or len(whole) < 3
    assert 4.3 < sum(len(rows[2]["history"]) for rows in often) / len(often) < 4.8


def test_records_are_shuffled_and_put_in_order_like_a_list_of_them() -> None:
    config = SftConfig.model_validate({**NOTHING, "next_item": 2, "id_to_text": 1, "sequence": True})
    sequences = Sequences.of(SEQUENCES)
    records, plain = Records(sequences), list[Record]()
    for seed in (3, 4):
        draw_records(records, config, material_of(), sequences, random.Random(seed))
        records.shuffle(random.Random(seed), len(plain))
        another = drawn(config, material_of(), SEQUENCES, seed)
        random.Random(seed).shuffle(another)
        plain += another
    assert list(records) == records[:] == plain
    wanted = [number for number, record in enumerate(plain[:30]) if record["task"] in ("sequence", "next_item")]
    assert records.of_tasks(("sequence", "next_item"), 30).tolist() == wanted
    assert records.counts() == dict(sorted(Counter(record["task"] for record in plain).items()))
    order = np.random.default_rng(0).permutation(len(plain))
    records.reorder(order)
    assert list(records) == [plain[number] for number in order]


def test_a_later_epoch_says_the_same_in_other_words() -> None:
    material = material_of()
    records = records_of(id_to_text=1, next_item=1, search=1, sequence=True)
    assert [reworded(record, row, 0, material) for row, record in enumerate(records)] == records
    seen: dict[int, set[int]] = {row: {record["template"]} for row, record in enumerate(records)}
    for epoch in range(1, 200):
        for row, record in enumerate(records):
            other = reworded(record, row, epoch, material)
            assert {**other, "template": 0} == {**record, "template": 0}
            assert other == reworded(record, row, epoch, material)
            seen[row].add(other["template"])
    for row, record in enumerate(records):
        wordings = 1 if record["task"] == "sequence" else len(TEMPLATES[record["task"]])  # type: ignore[index]
        assert seen[row] == set(range(wordings))
    # Neighbouring rows do not move in step.
    epoch = [reworded(record, row, 1, material)["template"] for row, record in enumerate(records[:ITEMS])]
    assert len(set(epoch)) > 2


def test_the_engine_asks_in_the_form_of_the_rows(tmp_path: Path) -> None:
    """By ``Settings.form``: the question of a next-item row, or the beginning of a sequence row."""
    run = make_run(tmp_path / "run")
    checkpoint, catalog = make_checkpoint(run), Catalog.load(run / "index.json")
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), LocalModel.load(checkpoint, "cpu", 2)
    shown = [catalog.text(item) for item in (7, 1, 2)]
    for form in Form:
        engine = Engine.open(model, checkpoint, run / "index.json", Settings(history=3, form=form))
        [query] = engine.queries([[5, 7, 1, 2]])
        assert query.prompt == tokenizer(direct_text(shown, form), add_special_tokens=False)["input_ids"]
    assert direct_text(shown, Form.sequence) != direct_text(shown, Form.question)
