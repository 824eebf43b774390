"""Chains of a language model, from the question to the training row, and what the stage reports about them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_support import RECIPE
from gream.dialogue import STEPS, parse_reasoned_answer, reasoning_prompt
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import level_token
from teacher_support import (
    SETTINGS,
    ChatServer,
    Reply,
    good_chain,
    jsonl,
    made_run,
    mark_of,
    teach_chains,
    well_reasoned,
)

from data_processing.__main__ import main
from data_processing.config import CurriculumConfig, RlConfig
from data_processing.plans import Stage
from data_processing.rows.curriculum import training_order
from data_processing.rows.reserve import without_reserved
from data_processing.tables import Item, read_training_sequences
from data_processing.teacher.chain_prompts import ask_chain, chain_reader
from data_processing.teacher.chains import Chain, read_chains
from data_processing.teacher.denoise import Denoiser
from data_processing.teacher.filters import Rejection, Titles
from data_processing.teacher.labels import labelled
from data_processing.teacher.questions import UnusableAnswerError

SFT = (*SETTINGS, "sft.reasoning_min_history=2")


pytestmark = pytest.mark.usefixtures("no_keys_no_proxies")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five users with three targets each; nine items with ids."""
    run = made_run(tmp_path / "run", users=5, items=17)
    Catalog([[level_token(0, n // 5), level_token(1, n % 5)] for n in range(17)]).save(run / "index.json")
    main(Stage.enrich, RECIPE, run, [*SETTINGS])
    return run


def sft(run: Path, *overrides: str) -> None:
    main(Stage.sft, RECIPE, run, [*SFT, *overrides], overwrite=True)


def statistics(run: Path) -> dict[str, Any]:
    return json.loads((run / "sft" / "statistics.json").read_text())


def shown(prompt: str) -> list[int]:
    return [int(number) for number in re.findall(r"title(\d+)z", prompt)]


# --- what a prompt may hold, and what becomes of the answer


def test_nothing_held_out_and_nothing_reserved_is_told(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", users=40, items=121)
    with ChatServer(well_reasoned) as server:
        teach_chains(run, server.url, "rl.reserved=0.5", "rl.min_history=2", "sft.history=3")
    told = without_reserved(
        RlConfig(reserved=0.5, min_history=2), 42, read_training_sequences(run / "interactions.parquet")
    )
    assert sum(map(len, told.values())) == 40 * 5 - 20
    # A history of at most three items and the training item after it, and nothing else of anybody.
    wanted = Counter(
        tuple(sequence[max(0, at - 3) : at + 1]) for sequence in told.values() for at in range(2, len(sequence))
    )
    assert Counter(tuple(shown(json.dumps(request.body))) for request in server.requests) == wanted
    assert not any("review" in json.dumps(request.body) for request in server.requests)


def test_a_chain_becomes_a_row_with_semantic_ids(run: Path) -> None:
    with ChatServer(well_reasoned) as server:
        teach_chains(run, server.url)
        assert len(server.requests) == 15
        marks = {tuple(shown(request.prompt)): mark_of(request.prompt) for request in server.requests}
        teach_chains(run, server.url)
        assert len(server.requests) == 15
    sequences = read_training_sequences(run / "interactions.parquet")
    chains = jsonl(run / "chains.jsonl")
    assert [(row["user"], row["position"]) for row in chains] == [(u, at) for u in range(5) for at in (2, 3, 4)]
    for row in chains:
        items = tuple(sequences[row["user"]][: row["position"] + 1])
        assert row["preference"] == f"things of {marks[items]} kind."
        assert row["kept"] == [1, row["position"]]

    sft(run, "sft.chains=model")
    catalog = Catalog.load(run / "index.json")
    rows = [row["messages"] for row in jsonl(run / "sft" / "reasoning.jsonl") if "<think>" in json.dumps(row)]
    by_mark = {mark: items for items, mark in marks.items()}
    assert len(rows) == 15
    for messages in rows:
        answer = parse_reasoned_answer(messages[-1]["content"])
        assert answer is not None
        *history, target = (catalog.text(n) for n in by_mark[re.findall(r"[0-9a-f]{16}", answer.preference)[0]])
        assert messages[:-1] == reasoning_prompt(history)
        assert answer.answer == target
        assert answer.evidence == f"{history[-1]} came last, and {history[0]} came before it."
        assert answer.history == (history[0], history[-1])
    report = statistics(run)
    assert report["reasoning"] == report["chains"]["written"] == 15
    assert report["reasoning_unsupported"] == report["chains"]["rejected"] == 0
    # Histories of 2, 3 and 4 items, of which two are kept.
    assert report["chains"]["history_dropped_share"] == pytest.approx(1 - 6 / 9)
    assert report["chains"]["nothing_dropped_share"] == pytest.approx(1 / 3)


def test_fewer_targets_can_be_asked_for(run: Path) -> None:
    with ChatServer(well_reasoned) as server:
        teach_chains(run, server.url, "sft.chain_targets=4")
        assert len(server.requests) == 4
        first = jsonl(run / "chains.jsonl")
        teach_chains(run, server.url, "sft.chain_targets=4", "seed=7", overwrite=True)
    assert len(first) == len(jsonl(run / "chains.jsonl")) == 4
    assert {(row["user"], row["position"]) for row in first} != {
        (row["user"], row["position"]) for row in jsonl(run / "chains.jsonl")
    }
    sft(run, "sft.chains=model", "sft.chain_targets=4")
    assert statistics(run)["reasoning_unsupported"] == 11


def test_only_chains_of_renamed_items_are_asked_for_again(run: Path) -> None:
    with ChatServer(well_reasoned) as server:
        teach_chains(run, server.url)
        items = pl.read_parquet(run / "items.parquet")
        renamed = pl.when(pl.col("item") == 2).then(pl.lit("title2z renamed")).otherwise("title").alias("title")
        items.with_columns(renamed).write_parquet(run / "items.parquet")
        teach_chains(run, server.url)
        again = server.requests[15:]
        sequences = read_training_sequences(run / "interactions.parquet").values()
        assert len(again) == sum(2 in sequence[: at + 1] for sequence in sequences for at in (2, 3, 4))
        assert all("title2z renamed" in request.prompt for request in again)


# --- rejects


def test_a_rejected_chain_is_asked_for_again_without_what_it_said(run: Path) -> None:
    def leaky(prompt: str, before: int) -> Reply:
        target = shown(prompt)[-1]
        text = good_chain(prompt)
        return Reply(text.replace("one more.", f"one more title{target}z.") if not before else text)

    with ChatServer(leaky) as server:
        teach_chains(run, server.url)
    told = [
        request.body["messages"] for request in server.requests if "before [next] alone" in json.dumps(request.body)
    ]
    assert len(told) == 15 == len(server.requests) - 15
    assert not any("one more" in body for body in told)
    assert all("title" not in json.dumps(row) for row in jsonl(run / "chains.jsonl"))


def test_rejects_are_listed_and_replaced_only_on_demand(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def one_bad(prompt: str, _: int) -> Reply:
        bad = shown(prompt)[:2] == [0, 1]
        return Reply(good_chain(prompt).replace("Intent", "Idea") if bad else good_chain(prompt))

    with ChatServer(one_bad) as server:
        for asked in (12 + 3 * 3, 12 + 3 * 3):  # the second start asks nothing
            with pytest.raises(
                GreamError, match=r"rejects\.jsonl: no usable answer to 3 of 15 texts.*chain 0 2: it does"
            ):
                teach_chains(run, server.url, overwrite=True)
            assert len(server.requests) == asked
        assert not (run / "chains.jsonl").exists()
        assert {row["subject"]["user"] for row in jsonl(run / "teacher" / "chains" / "rejects.jsonl")} == {0}
        told = [request.body["messages"][0]["content"] for request in server.requests]
        assert sum(text.endswith("Write all six lines, in their order.") for text in told) == 6

        teach_chains(run, server.url, "teacher.on_reject=template", overwrite=True)
        assert "template teacher: 3 texts" in capsys.readouterr().out
    report = json.loads((run / "teacher" / "chains" / "statistics.json").read_text())
    assert report["rejected_texts"] == {"chain": 3}
    assert report["written_by"] == {"model": 12, "template": 3}
    assert Counter(row["teacher"] for row in jsonl(run / "chains.jsonl")) == {"small-model": 12, "template": 3}
    # Kinds follow each other in order: the template teacher argues from that.
    by_template = [row for row in jsonl(run / "chains.jsonl") if not re.search("[0-9a-f]{16}", row["preference"])]
    assert [(row["user"], row["position"], row["kept"]) for row in by_template] == [(0, n, [n]) for n in (2, 3, 4)]
    assert all(f"Kind {row['position']}" in row["recommendation"] for row in by_template)


def test_the_stage_needs_a_language_model_and_the_rows_its_chains(run: Path) -> None:
    with pytest.raises(GreamError, match="pass --base-url and --model"):
        main(Stage.chains, RECIPE, run, [*SFT])
    with pytest.raises(GreamError, match=r"chains\.jsonl: missing input of stage 'sft'"):
        sft(run, "sft.chains=model")
    (run / "chains.jsonl").write_text('{"user": 1, "position": 2, "evidence": "x"}\n')
    with pytest.raises(GreamError, match=r"chains\.jsonl:1: no chain; run the stage 'chains' again"):
        read_chains(run / "chains.jsonl")


def test_chains_about_other_items_are_refused(run: Path) -> None:
    with ChatServer(well_reasoned) as server:
        teach_chains(run, server.url, "sft.history=3")
    with pytest.raises(GreamError, match=r"chains\.jsonl: the chain for position 4 of user 0 argues about other items"):
        sft(run, "sft.chains=model")
    sft(run, "sft.chains=model", "sft.history=3")
    assert statistics(run)["reasoning"] == 15


# --- reading


def entry(title: str, *path: str) -> Item:
    return Item(title, "", "", path[-1], path)


HISTORY = [
    entry("Copper Kettle", "Home", "Kettles"),
    entry("Jasmine Tea", "Food", "Teas"),
    entry("Pen", "Office", "Pens"),
]
TARGET = entry("Zanzibar Moonlight Cup", "Home", "Cups")
KNOWN = labelled([*HISTORY, TARGET])
CHAIN = """Evidence: [2] came after [1].
Preference: tea, made slowly.
Intent: something to drink tea from.
Recommendation: a cup.
History: [1], [2]
Answer: [next]"""


def read(text: str) -> dict[str, str]:
    return chain_reader(KNOWN[:3], KNOWN[3], Titles(KNOWN), 100)(text)


@pytest.mark.parametrize(
    "text",
    [
        CHAIN,
        f"<think>Hm. Zanzibar!\n</think>\n\n{CHAIN}",
        CHAIN.replace("Evidence:", "**Evidence:**").replace("\n", "\n\n- "),
        "\n".join(f"{number}. {line}" for number, line in enumerate(CHAIN.splitlines(), start=1)),
    ],
    ids=["plain", "after reasoning", "decorated", "numbered"],
)
def test_a_chain_is_read(text: str) -> None:
    assert read(text) == {
        "evidence": "[2] came after [1].",
        "preference": "tea, made slowly.",
        "intent": "something to drink tea from.",
        "recommendation": "a cup.",
        "kept": "1 2",
    }


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (CHAIN, "", "six lines"),
        ("Intent: something to drink tea from.\n", "", "six lines"),
        ("Preference", "Evidence", "six lines"),
        ("a cup.", "a cup.\nThank you!", "six lines"),
        ("[2] came", "[4] came", r"\[4\], but there are 3"),
        ("[1], [2]", "[0] [2]", r"\[0\], but there are 3"),
        ("[2] came", "[next] came", Rejection.leak),
        ("a cup.", "a Zanzibar moonlight cup.", Rejection.leak),
        ("tea, made", "zanzibar, made", Rejection.leak),
        ("[next]", "[1]", Rejection.answer),
        ("Answer: [next]", "Answer: a cup", Rejection.answer),
        ("[1], [2]", "[2] [1]", Rejection.not_denoised),
        ("[1], [2]", "none", Rejection.not_denoised),
        ("tea, made", "<|a_1|> tea, made", "markup"),
        ("tea, made", "</think> tea, made", "six lines"),
        ("tea, made", "tea, " * 100 + "made", Rejection.too_long),
        ("tea, made slowly.", "", Rejection.stages),
    ],
)
def test_a_chain_that_cannot_be_used_says_why(old: str, new: str, said: str) -> None:
    assert old in CHAIN
    with pytest.raises(UnusableAnswerError, match=said):
        read(CHAIN.replace(old, new, 1))


def test_a_prompt_shows_numbers_titles_and_kinds() -> None:
    prompt = ask_chain(HISTORY, TARGET)[1]["content"]
    assert "[1] Copper Kettle; Home > Kettles\n[2] Jasmine Tea; Food > Teas\n[3] Pen" in prompt
    assert "[next] Zanzibar Moonlight Cup; Home > Cups" in prompt
    assert "only products 1 to 3" in prompt


def test_numbers_become_ids_whatever_those_are() -> None:
    chain = Chain("[2] after [1], not [12].", "p", "i", "r [2]", (1, 2), (7, 8, 9), "template")
    answer = chain.answer(["<|a_5|>", "<|a_6|>"], "<|a_7|>")
    assert answer.evidence == "<|a_6|> after <|a_5|>, not [12]."
    assert answer.recommendation == "r <|a_6|>"
    assert answer.history == ("<|a_5|>", "<|a_6|>")


# --- denoising


def test_what_the_argument_speaks_of_stays() -> None:
    history = [
        entry("Copper Kettle", "Home", "Kettles"),
        entry("Rubber Duck", "Toys", "Ducks"),
        entry("Glass Kettle", "Home", "Kettles"),
        entry("Ink", "Office", "Inks"),
    ]
    denoiser = Denoiser([*history, *HISTORY])
    assert denoiser.supported(history, "Kettles twice, and nothing else.") == (1, 3)
    assert denoiser.supported(history, "Kettles, and [4] at the end.") == (1, 3, 4)
    assert denoiser.supported(history, "The rubber duck.") == (2,)
    assert denoiser.supported(history, "Who knows?") == (1, 2, 3, 4)


def test_a_chain_that_leaves_nothing_out_is_denoised_by_similarity(run: Path) -> None:
    """Kinds repeat every seventh item, so that the words of one item single it out."""

    def everything(prompt: str, _: int) -> Reply:
        last = len(shown(prompt)) - 1
        kind = re.findall(r"\[1\] .*(Kind \d)", prompt)[0]
        text = re.sub(r"Evidence: .*", f"Evidence: {kind} and title{shown(prompt)[0]}z count.", good_chain(prompt))
        return Reply(re.sub(r"History: .*", "History: " + " ".join(f"[{n + 1}]" for n in range(last)), text))

    with ChatServer(everything) as server:
        teach_chains(run, server.url)
    assert all(row["kept"] == [1] for row in jsonl(run / "chains.jsonl"))
    report = json.loads((run / "teacher" / "chains" / "denoised.json").read_text())
    assert report == {"chains": 15, "by_its_marks": 0, "by_similarity": 15}


# --- the rows of the template teacher, and their curriculum


def kinds_repeat(run: Path) -> None:
    """Two kinds in turn: everything follows from something."""
    items = pl.read_parquet(run / "items.parquet")
    kinds = [["Kitchen", f"Kind {number % 3}"] for number in range(len(items))]
    items.with_columns(pl.Series("categories", kinds)).write_parquet(run / "items.parquet")


def test_the_curriculum_is_exported_in_order_and_as_stages(run: Path) -> None:
    kinds_repeat(run)
    sft(run, "sft.reasoning_rows=60", "sft.curriculum={growth: 0.5, stages: 3, tasks: [next_item, id_to_text]}")
    rows = jsonl(run / "sft" / "reasoning.jsonl")
    parts = [jsonl(run / "sft" / f"reasoning_{number}.jsonl") for number in (1, 2, 3)]
    assert [row for part in parts for row in part] == rows
    info = json.loads((run / "sft" / "dataset_info.json").read_text())
    for name in ("reasoning", "reasoning_1", "reasoning_2", "reasoning_3"):
        assert info[name]["file_name"] == f"{name}.jsonl"
    answers = [row["messages"][-1]["content"] for row in rows]
    chains = [answer for answer in answers if "<think>" in answer]
    report = statistics(run)
    assert len(chains) == report["reasoning"]
    assert len(rows) - len(chains) == report["alignment_rows_mixed_in"]
    assert report["alignment_rows_mixed_in"] == report["alignment"]["next_item"] + report["alignment"]["id_to_text"]
    mixed, reasoning = report["alignment_rows_mixed_in"], report["reasoning"]
    order = training_order(CurriculumConfig(growth=0.5), mixed, reasoning, 42)
    assert ["<think>" in answer for answer in answers] == [row >= mixed for row in order]
    steps = [min(answer.count("\n") - 2, STEPS) for answer in chains]
    assert steps == sorted(steps)
    assert set(steps) == set(range(1, STEPS + 1))
    page = (run / "sft" / "reasoning.html").read_text()
    assert all(reason.value in page for reason in Rejection)
    assert page.count("<svg") == 3


@pytest.mark.parametrize("easy_first", [True, False])
def test_short_histories_come_first_where_asked(run: Path, easy_first: bool) -> None:
    kinds_repeat(run)
    sft(run, f"sft.curriculum.easy_first={easy_first}", "sft.reasoning_rows=0")
    lengths = [
        row["messages"][1]["content"].count("<|a_")
        for row in jsonl(run / "sft" / "reasoning.jsonl")
        if "<think>" in row["messages"][-1]["content"]
    ]
    assert len(set(lengths)) > 1
    assert (lengths == sorted(lengths)) is easy_first


def test_what_a_filter_rejects_is_counted_and_not_taught(run: Path) -> None:
    kinds_repeat(run)
    sft(run, "sft.reasoning_rows=0")
    before = statistics(run)
    assert before["chains"]["rejected"] == 0
    sft(run, "sft.reasoning_rows=0", "sft.longest_chain=1")
    after = statistics(run)
    assert after["reasoning"] == 0
    assert after["chains"]["rejected_by"]["too_long"] == after["chains"]["rejected"] == before["reasoning"]
    # Rows without a chain would teach to answer without one.
    assert not (run / "sft" / "reasoning.jsonl").exists()
    assert "reasoning" not in json.loads((run / "sft" / "dataset_info.json").read_text())


def test_every_example_is_written_as_often_as_comes_nearest(run: Path) -> None:
    kinds_repeat(run)
    sft(run, "sft.reasoning_rows=0")
    once = statistics(run)["reasoning"]
    sft(run, f"sft.reasoning_rows={3 * once + 1}")
    assert statistics(run)["reasoning"] == 3 * once
