"""The report page: self-contained, well-formed, safe against its data, and complete about what is missing."""

from __future__ import annotations

import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from eval_support import MALICIOUS, make_catalog, make_run
from gream.dialogue import ReasonedAnswer
from gream.errors import GreamError
from gream.page.overview import overview_page
from gream.page.svg import bar_chart, histogram, line_chart, number
from gream.protocol import held_out, read_interactions
from test_eval_cli import a_result

from eval.report.data import read_report_data
from eval.report.page import render_page
from eval.report.stage import write_report
from eval.results import predictions_table, read_results, write_result
from eval.rewards import compare_rewards
from eval.stages import evaluate_baselines, with_baselines

VOID = {"meta", "wbr", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Reads a page, insisting that every element is closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.starts: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.starts.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.starts.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.starts if tag == name]

    def classes(self, name: str) -> int:
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.starts)


def add_model(run: Path, name: str, hits: int, *, reasoned: bool) -> None:
    """An evaluation of all users in which the first ``hits`` found their item at rank 3."""
    cases = held_out(read_interactions(run / "interactions.parquet"), "test")
    catalog = make_catalog(30)
    items = np.stack([np.array([item for item in range(30) if item != target][:10]) for target in cases.targets])
    items[:hits, 2] = cases.targets[:hits]
    scores = np.tile(-np.arange(10, dtype=np.float32), (len(items), 1))
    chains: list[str | None] = [None] * len(items)
    if reasoned:
        text = ReasonedAnswer(
            f"saw {MALICIOUS}", "likes <i>", "wants", "take", (catalog.text(1), catalog.text(2)), ""
        ).render()
        chains = [text[: text.index("<answer>") + 8] if row % 2 else "no <stages><answer>" for row in range(len(items))]
    malformed: list[bool | None] = [False if reasoned else None] * len(items)
    result = a_result(name, "reasoning" if reasoned else "direct", hits / 24, 0.0 if reasoned else None)
    result = result.model_copy(update={"command": f"python -m eval {MALICIOUS}", "versions": {"python": "<3>"}})
    write_result(run, result, predictions_table(cases.users, cases.targets, items, scores, chains, malformed))


def add_training(run: Path) -> None:
    for stage in ("alignment", "reasoning"):
        log = run / "checkpoints" / stage / "trainer_log.jsonl"
        log.parent.mkdir(parents=True)
        rows = [{"current_steps": step, "total_steps": 90, "loss": 3 / step, "lr": 1e-4} for step in range(1, 90)]
        log.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"current_steps": 90, "total_steps": 90}]))
    metrics = run / "checkpoints" / "srpo" / "metrics.jsonl"
    (metrics.parent / "validation").mkdir(parents=True)
    with metrics.open("w") as stream:
        for step in range(1, 20):
            data = {
                "critic/rewards/mean": 0.1 + step / 100,
                "srpo/exact_hits": step,
                "srpo/pass_at_4": 0.2,
                "srpo/zero_variance_share": 0.5,
            }
            stream.write(json.dumps({"step": step, "data": data}) + "\n")
        stream.write(json.dumps({"step": 20, "data": {"critic/rewards/mean": float("nan")}}) + "\n")
    for step in (0, 20):
        row = {"input": "one", "output": "", "gts": "", "score": 0.2 + step / 100, "step": step}
        (metrics.parent / "validation" / f"{step}.jsonl").write_text(json.dumps(row) + "\n")


@pytest.fixture
def full_run(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "run <one>")
    add_model(run, "direct-sft", 20, reasoned=False)
    add_model(run, "reasoning-srpo", 7, reasoned=True)
    add_training(run)
    compare_rewards(run, seed=0, overwrite=False)
    (run / "quality.json").write_text(
        json.dumps(
            {
                "items": 30,
                "sizes": [4, 4, 4],
                "collisions": {"items_sharing": 3, "rate": 0.1, "policy": "reassign"},
                "per_level": [{"level": 1, "used": 4, "dead": 0, "gini": 0.25}],
                "purity": [{"prefix_length": 1, "category_purity": 0.625}],
                "cooccurrence": [{"prefix_length": 1, "lift": None}],
            }
        )
    )
    return run


def render(run: Path) -> str:
    write_report(run, overwrite=False)
    return (run / "report.html").read_text(encoding="utf-8")


def test_the_first_tile_says_how_far_a_model_is_from_transitions(full_run: Path) -> None:
    with_baselines(full_run, command="")
    data = read_report_data(full_run, user_ids=False)
    values = {result.name: result.metrics["ndcg@10"].value for result in data.results}
    assert {"popularity", "cooccurrence", "markov", "transitions"} <= set(values)
    page = Page(render_page(data))
    first = page.text[page.text.index("NDCG@10, direct-sft ahead of transitions") :]
    assert first[1] == f"{values['direct-sft'] / values['transitions'] - 1:+.0%}"
    # They are made once, and asked as the models were.
    assert next(result for result in data.results if result.name == "transitions").history == "excluded"
    before = (full_run / "eval" / "transitions" / "metrics.json").stat().st_mtime_ns
    with_baselines(full_run, command="")
    assert (full_run / "eval" / "transitions" / "metrics.json").stat().st_mtime_ns == before


def test_the_page_is_well_formed_and_loads_nothing(full_run: Path) -> None:
    text = render(full_run)
    page = Page(text)
    assert not page.tags("script") and not page.tags("link") and not page.tags("img") and not page.tags("iframe")
    for tag, attributes in page.starts:
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes), tag
        assert (attributes.get("href") or "#").startswith("#")
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    ids = {attributes["id"] for _, attributes in page.starts if "id" in attributes}
    assert {f"#{name}" for name in ids} == {attributes["href"] for attributes in page.tags("a")}


def test_data_stays_text(full_run: Path) -> None:
    page = Page(render(full_run))
    shown = "".join(page.text)
    assert MALICIOUS in shown and "<b>Odd</b>" in shown and "likes <i>" in shown and "no <stages><answer>" in shown
    assert "User 0" in shown and "A<" not in shown
    write_report(full_run, user_ids=True, overwrite=True)
    assert "A<0>" in "".join(Page((full_run / "report.html").read_text(encoding="utf-8")).text)
    assert "run <one>" in shown and "python <3>" in shown and f"python -m eval {MALICIOUS}" in shown


def test_every_part_of_a_full_run_is_shown(full_run: Path) -> None:
    page = Page(render(full_run))
    shown = "".join(page.text)
    assert page.classes("missing") == 0
    charts = [attributes["aria-label"] for attributes in page.tags("svg") if attributes["class"] == "chart"]
    assert charts == [
        "Alignment loss",
        "Reasoning loss",
        "Mean reward",
        "Exact hits",
        "Pass@K",
        "Groups without variance",
        "Category purity by length of the prefix",
        "Sequence lengths",
    ]
    assert page.classes("interval-bar") == 2 * 6
    for figure in ("0.8333", "0.2917", "62.5%", "reassign", "10.0%", "+0.200"):
        assert figure in shown, figure
    assert "1 values that are not finite are left out" in shown
    assert "srpo/exact_hits" in shown


def test_users_are_half_hits_half_misses_of_the_reasoned_evaluation(full_run: Path) -> None:
    data = read_report_data(full_run, user_ids=True)
    assert data.shown is not None and data.shown.name == "reasoning-srpo"  # not the better direct one
    assert [user.rank for user in data.users] == [3] * 5 + [0] * 5
    assert read_report_data(full_run, user_ids=True) == data
    cases = held_out(read_interactions(full_run / "interactions.parquet"), "test")
    history = {f"A<{user}>": items for user, items in zip(cases.users, cases.histories, strict=True)}
    for user in data.users:
        assert tuple(item.item for item in user.history) == history[user.name]
        assert user.target.item not in history[user.name]
        assert (user.ranked[2][0] == user.target) == (user.rank == 3)
        if user.stages is not None:
            assert [item.title for item in user.rewritten] == ["Item number 1", "Item number 2"]
            assert user.rewritten[0].semantic_id == "<|a_1|><|b_1|><|c_2|>"
    page = Page(render(full_run))
    assert page.classes("user") == 10 and page.classes("truth") == 10 and page.classes("outside") == 5
    assert page.classes("stages") == sum(user.stages is not None for user in data.users) > 0
    assert page.classes("raw-chain") == sum(user.stages is None for user in data.users) > 0


def test_few_misses_are_made_up_for_by_hits(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_model(run, "direct-sft", 22, reasoned=False)
    assert [user.rank for user in read_report_data(run, user_ids=False).users] == [3] * 8 + [0] * 2
    assert Page(render(run)).classes("stages") == 0


def test_missing_parts_are_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "statistics.json").write_text('{"users": 3}')
    page = Page(render(run))
    shown = "".join(page.text)
    for name in (
        "No evaluation yet",
        "Not trained yet, or not logged: ",
        "No quality.json",
        "No model was evaluated",
    ):
        assert name in shown, name
    assert "3 users." in shown
    assert "checkpoints/" not in shown


def test_the_report_is_made_again_when_something_it_shows_changes(full_run: Path) -> None:
    first = render(full_run)
    assert not write_report(full_run, overwrite=False).ran
    add_model(full_run, "reasoning-best", 24, reasoned=True)
    assert write_report(full_run, overwrite=False).ran
    assert "reasoning-best" in render(full_run) and "reasoning-best" not in first


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("checkpoints/srpo/metrics.jsonl", '{"step": 1, "data": {}}\n{', r"metrics\.jsonl:2: not valid JSON"),
        ("checkpoints/alignment/trainer_log.jsonl", "[]\n", r"trainer_log\.jsonl:1: a JSON object is expected"),
        ("quality.json", "{", r"quality\.json:1: not valid JSON"),
        ("statistics.json", "[]", r"statistics\.json: a JSON object is expected"),
    ],
)
def test_broken_files_are_named(full_run: Path, path: str, text: str, message: str) -> None:
    (full_run / path).write_text(text)
    with pytest.raises(GreamError, match=message):
        write_report(full_run, overwrite=False)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["metrics"], {}, "key 'metrics': has no 'recall@1'"),
        (["alone", "model"], {}, r"key 'alone\.model': has no 'recall@1'"),
        (["metrics", "recall@10", "value"], math.nan, r"key 'metrics\.recall@10': finite numbers"),
        (["alone", "model", "mrr", "high"], math.inf, r"key 'alone\.model\.mrr': finite numbers"),
        (["invalid_rate"], math.nan, "key 'invalid_rate': Input should be a finite number"),
        (["users"], 0, "key 'users': Input should be greater than"),
    ],
)
def test_figures_that_cannot_be_shown_are_named(full_run: Path, keys: list[str], value: object, message: str) -> None:
    path = full_run / "eval" / "direct-sft" / "metrics.json"
    raw = json.loads(path.read_text())
    raw["alone"] = {"model": copy.deepcopy(raw["metrics"])}
    place = raw
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(raw))
    with pytest.raises(GreamError, match=rf"direct-sft/metrics\.json: {message}.*; evaluate again with --overwrite"):
        read_results(full_run)


@pytest.mark.parametrize("size", [None, 500])
def test_an_evaluation_without_its_lists_is_named(full_run: Path, size: int | None) -> None:
    path = full_run / "eval" / "direct-sft" / "predictions.parquet"
    whole = path.read_bytes()
    path.unlink()
    if size is not None:
        path.write_bytes(whole[:size])
    with pytest.raises(GreamError, match=r"direct-sft/predictions\.parquet: .*; evaluate again with --overwrite"):
        write_report(full_run, overwrite=False)


def test_charts_stay_inside_their_frame_and_thin_long_series() -> None:
    points = [(float(step), float(value)) for step, value in enumerate(np.random.default_rng(0).normal(5, 2, 5000))]
    for series in (points, points[:1], [(0.0, 1.0), (1.0, 1.0)], [(0.0, 0.0), (1.0, 0.0)], [(1.0, -3e-7), (2.0, 4e9)]):
        chart = line_chart("loss", series, zero=False)
        Page(chart)
        for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(re.findall(r'points="([^"]*)"', chart))):
            assert 0 <= float(x) <= 360 and 0 <= float(y) <= 200
    assert len(line_chart("loss", points, zero=False)) < 12_000
    Page(bar_chart("<x>", [("<name>", 0.0, "<0>")]))
    widths = [
        [
            float(width)
            for width in re.findall(r'width="([0-9.]+)" height="16"', bar_chart("x", [("a", 0.5, "50 %")], full))
        ]
        for full in (None, 1.0)
    ]
    assert widths[1][0] == widths[0][0] == 2 * widths[1][1]  # the whole, then half of it


def test_a_histogram_joins_neighbours_and_loses_none() -> None:
    few = histogram("lengths", {5: 4, 7: 1})
    assert re.findall(r"<title>(.*?)</title>", few) == ["5: 4", "6: 0", "7: 1"]
    many = re.findall(r"<title>(\d+) to (\d+): (\d+)</title>", histogram("x", {value: 2 for value in range(5, 105)}))
    assert len(many) <= 30 and sum(int(count) for _, _, count in many) == 200
    assert [int(start) for start, _, _ in many[1:]] == [int(end) + 1 for _, end, _ in many[:-1]]
    Page(few)


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0, 3.0, 13132, 0.04096, 1234.5, 1.005, 2e-05)] == [
        "0", "3", "13,132", "0.041", "1,234", "1", "2e-05",
    ]  # fmt: skip


@pytest.mark.parametrize(("share", "named"), [(0.638, True), (0.04, False)])
def test_ties_that_decide_many_targets_are_named(tmp_path: Path, share: float, named: bool) -> None:
    run = make_run(tmp_path / "run")
    list(evaluate_baselines(run, seed=0, command="test", overwrite=False))
    statistics = json.loads((run / "statistics.json").read_text())
    ties = {"rule": "place in the dump", "test_targets": 1, "test_share": share}
    (run / "statistics.json").write_text(json.dumps({**statistics, "ties": ties}))
    write_report(run, overwrite=False)
    page = " ".join((run / "report.html").read_text().split())
    assert ("64% of the test targets share their time with another item of the user</b>" in page) == named
    assert ("place in the dump decides" in page) == named


def test_a_page_of_one_subject_escapes_every_text() -> None:
    bad = "<script>alert(1)</script>"
    chart = (bad, bar_chart(bad, [(bad, 1.0, bad)]), bad)
    page = Page(overview_page(bad, {bad: bad, "of": {bad: 0.5}, "a_rate": 0.5}, [chart], [(bad, [{bad: bad}])]))
    assert not page.tags("script")
    shown = "".join(page.text)
    assert shown.count(bad) >= 9 and "50.0%" in shown
