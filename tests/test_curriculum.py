"""Training order: even ramps without a block at the tail, chains that grow, and what a run really consumed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from data_support import ROOT
from eval_support import make_model, make_tokenizer
from gream.config import load_config
from gream.dialogue import (
    STEPS,
    ReasonedAnswer,
    direct_prompt,
    parse_reasoned_answer,
    reasoning_prompt,
    render_prompt,
)
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import level_token
from hypothesis import given, settings
from hypothesis import strategies as st
from llamafactory_gream.order import LOG, compare_order, file_order, read_order, row_hash, text_hash
from llamafactory_gream.order_log import OrderLog
from transformers import AutoTokenizer, TrainerControl, TrainerState

from data_processing.config import CurriculumConfig, DataRecipe
from data_processing.rows.curriculum import (
    chained_stages,
    like_length_order,
    reasoning_share,
    steps_shown,
    training_order,
)

SCHEDULES = ("ramp", "official", "shuffled")


@settings(max_examples=60)
@given(alignment=st.integers(0, 300), reasoning=st.integers(0, 300), schedule=st.sampled_from(SCHEDULES))
def test_every_row_comes_once(alignment: int, reasoning: int, schedule: str) -> None:
    order = training_order(CurriculumConfig(schedule=schedule), alignment, reasoning, 1)
    assert sorted(order) == list(range(alignment + reasoning))
    if schedule != "shuffled":
        for kind in (range(alignment), range(alignment, alignment + reasoning)):
            assert [row for row in order if row in kind] == list(kind)


@pytest.mark.parametrize(("alignment", "reasoning"), [(500, 500), (700, 300), (300, 700)])
def test_the_ramp_rises_evenly_and_has_no_block_at_the_tail(alignment: int, reasoning: int) -> None:
    order = training_order(CurriculumConfig(), alignment, reasoning, 1)
    mean = reasoning / 1000
    slope = min(mean, 1 - mean)
    for place, share in reasoning_share(order, alignment, 10):
        assert share == pytest.approx(mean + slope * (2 * place / 1000 - 1), abs=0.03)


def test_the_official_ramp_has_its_block_at_the_tail() -> None:
    order = training_order(CurriculumConfig(schedule="official"), 1000, 1000, 1)
    last_alignment = max(place for place, row in enumerate(order) if row < 1000)
    assert len(order) - 1 - last_alignment == pytest.approx(470, abs=5)
    # Even mixing before it: nothing else tells it from the ramp.
    assert order[:1530].tolist() == training_order(CurriculumConfig(), 1000, 530, 1).tolist()


def test_shuffled_depends_on_the_seed_alone() -> None:
    config = CurriculumConfig(schedule="shuffled")
    one, same, other = (training_order(config, 50, 50, seed).tolist() for seed in (1, 1, 2))
    assert one == same != other
    expected = list(range(100))
    random.Random("1 order").shuffle(expected)
    assert one == expected
    shares = [share for _, share in reasoning_share(training_order(config, 4000, 4000, 1), 4000, 8)]
    assert all(abs(share - 0.5) < 0.08 for share in shares)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 60), max_size=700),
    batch=st.integers(1, 9),
    seed=st.integers(0, 3),
    stretch=st.sampled_from([10, 50]),
)
def test_batches_of_like_length(lengths: list[int], batch: int, seed: int, stretch: int) -> None:
    order = like_length_order(lengths, batch, random.Random(seed), stretch).tolist()
    assert sorted(order) == list(range(len(lengths)))
    assert order == like_length_order(lengths, batch, random.Random(seed), stretch).tolist()
    for start in range(0, len(order), stretch * batch):
        rows = order[start : start + stretch * batch]
        # The same rows as before, and no two batches of them overlap but at their ends.
        assert sorted(rows) == list(range(start, start + len(rows)))
        batches = [[lengths[row] for row in rows[at : at + batch]] for at in range(0, len(rows), batch)]
        batches.sort(key=lambda rows: (min(rows), max(rows)))
        assert all(max(one) <= min(next_) for one, next_ in pairwise(batches))


def test_long_and_short_batches_follow_each_other_at_random() -> None:
    lengths = random.Random(1).choices(range(3, 51), k=5000)
    order = like_length_order(lengths, 10, random.Random(1))
    means = [sum(lengths[row] for row in order[at : at + 10]) / 10 for at in range(0, 5000, 10)]
    falls = sum(one > next_ for one, next_ in pairwise(means))
    assert 0.4 < falls / len(means) < 0.6


def test_chains_grow_by_one_step_at_a_time_at_even_distances() -> None:
    assert (
        steps_shown(CurriculumConfig(growth=0.5), 80).tolist() == [1] * 10 + [2] * 10 + [3] * 10 + [4] * 10 + [5] * 40
    )
    assert steps_shown(CurriculumConfig(), 3).tolist() == [STEPS] * 3
    assert steps_shown(CurriculumConfig(growth=0.5), 0).tolist() == []


def test_a_short_chain_is_the_beginning_of_the_whole_one() -> None:
    answer = ReasonedAnswer("one", "two", "three", "four", ("<|a_1|>",), "<|a_2|>")
    whole = answer.render()
    assert parse_reasoned_answer(whole) == answer
    for steps in range(1, STEPS):
        text = answer.render(steps)
        head = text.split("\n</think>")[0]
        assert whole.startswith(head)
        assert head.count("\n") == steps
        assert text.endswith("</think>\n<answer><|a_2|></answer>")


@given(rows=st.integers(0, 100), stages=st.integers(1, 12))
def test_chained_stages_are_the_order_in_equal_parts(rows: int, stages: int) -> None:
    parts = chained_stages(np.arange(rows), stages)
    assert [row for part in parts for row in part] == list(range(rows))
    assert not parts or max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shuffled_chains_cannot_grow() -> None:
    recipe = ROOT / "recipes" / "data" / "quickstart.yaml"
    with pytest.raises(GreamError, match="growth needs a schedule with an order"):
        load_config(DataRecipe, recipe, ["sft.curriculum={schedule: shuffled, growth: 0.5}"])


# --- what a run consumed


def messages_of(number: int) -> list[dict[str, str]]:
    random_ = random.Random(number)
    ids = ["".join(level_token(level, random_.randrange(4)) for level in range(2)) for _ in range(3 + number % 5)]
    if number % 2:
        return [*direct_prompt(ids), {"role": "assistant", "content": ids[0]}]
    answer = ReasonedAnswer(f"fact {number}", "taste", "wish", "advice", (ids[1],), ids[2])
    return [*reasoning_prompt(ids), {"role": "assistant", "content": answer.render(1 + number % STEPS)}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and a data set of 22 rows."""
    folder = tmp_path_factory.mktemp("order")
    catalog = Catalog([[level_token(0, a), level_token(1, b)] for a in range(4) for b in range(4)])
    tokenizer = make_tokenizer(catalog)
    tokenizer.save_pretrained(folder / "model")
    make_model(len(tokenizer)).save_pretrained(folder / "model")
    lines = [json.dumps({"messages": messages_of(number)}) for number in range(22)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    info = {
        "rows": {
            "file_name": "rows.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        }
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def train(folder: Path, output: Path) -> None:
    """The shipped recipe of the reasoning stage, cut short, in two ranks."""
    recipe = yaml.safe_load((ROOT / "recipes" / "sft" / "quickstart_reasoning.yaml").read_text())
    assert recipe["disable_shuffling"] is True
    settings = {
        "model_name_or_path": folder / "model",
        "dataset_dir": folder,
        "dataset": "rows",
        "output_dir": output,
        "per_device_train_batch_size": 2,
        "plot_loss": "false",
    }
    program = Path(sys.executable).with_name("llamafactory-gream")
    command = [str(program), "train", str(ROOT / "recipes" / "sft" / "quickstart_reasoning.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    done = subprocess.run(
        [*command, *(f"{name}={value}" for name, value in settings.items())],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.e2e
@pytest.mark.slow
def test_two_ranks_consume_the_rows_in_their_order(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "out")
    consumed = read_order(tmp_path / "out")
    wanted = file_order(folder / "rows.jsonl")
    assert consumed[:22] == wanted
    # Two ranks of two rows: the last step is filled up with the first rows.
    assert consumed[22:] == wanted[:2]
    assert compare_order(consumed, wanted).endswith("rows consumed, in the order of the 22 rows of the file")
    lines = (tmp_path / "out" / LOG.format(1)).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(len(lines)))


class Model(torch.nn.Module):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        """Nothing: the log looks at what it is given."""


def test_a_log_holds_what_training_forwards_and_goes_on_where_a_run_resumes(folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    texts = [render_prompt(messages_of(number)) for number in range(3)]
    wide = tokenizer(texts, padding=True, return_tensors="pt")
    arguments = SimpleNamespace(output_dir=tmp_path, process_index=0, world_size=1)

    def run(first: int, last: int) -> None:
        model, callback, state = Model(), OrderLog(), TrainerState(global_step=first)
        control = TrainerControl()
        callback.on_train_begin(arguments, state, control, model=model, processing_class=tokenizer)
        for step in range(first, last):
            state.global_step = step
            model.train()(input_ids=wide["input_ids"], attention_mask=wide["attention_mask"])
            model.eval()(input_ids=wide["input_ids"], attention_mask=wide["attention_mask"])
        callback.on_train_end(arguments, state, control)
        model.train()(input_ids=wide["input_ids"], attention_mask=wide["attention_mask"])

    run(0, 5)
    with (tmp_path / LOG.format(0)).open("a") as stream:
        stream.write('{"step": 5, "ra')  # killed in the middle of a line; the last checkpoint was written at step 3
    run(3, 6)
    lines = [json.loads(line) for line in (tmp_path / LOG.format(0)).read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert read_order(tmp_path) == [text_hash(text) for text in texts] * 6


def log(output: Path, ranks: list[list[list[str]]]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for rank, passes in enumerate(ranks):
        lines = [json.dumps({"step": step, "ranks": len(ranks), "rows": rows}) for step, rows in enumerate(passes)]
        (output / LOG.format(rank)).write_text("\n".join(lines) + "\n")


def test_logs_of_ranks_are_read_pass_by_pass(tmp_path: Path) -> None:
    log(tmp_path, [[["a", "b"], ["e", "f"]], [["c", "d"], ["g", "a"]]])
    assert read_order(tmp_path) == ["a", "b", "c", "d", "e", "f", "g", "a"]
    assert "in the order" in compare_order(read_order(tmp_path), list("abcdefg"))
    (tmp_path / LOG.format(1)).unlink()
    with pytest.raises(GreamError, match="do not belong together"):
        read_order(tmp_path)
    with pytest.raises(GreamError, match="train with llamafactory-gream"):
        read_order(tmp_path / "elsewhere")


def test_another_order_is_named() -> None:
    with pytest.raises(
        GreamError, match=r"row 2 consumed is not row 2 of the file, but another row.*disable_shuffling"
    ):
        compare_order(["a", "c", "b"], ["a", "b", "c"])
    with pytest.raises(GreamError, match=r"row 3 consumed .* no row of the file"):
        compare_order(["a", "b", "x"], ["a", "b", "c"])


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": messages_of(1)}) + "\n{}\n")
    with pytest.raises(GreamError, match=r"rows\.jsonl:2: a JSON object with messages is expected"):
        file_order(path)
    path.write_text(json.dumps({"messages": messages_of(1)}) + "\n")
    assert file_order(path) == [row_hash(messages_of(1))]
