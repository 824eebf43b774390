"""A language model as teacher: nothing lost, nothing asked twice, nothing held out told, and clear errors."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_support import RECIPE, call, hashes
from gream.errors import GreamError
from gream.hashing import sha256_of
from gream.journal import Journal
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_support import (
    SETTINGS,
    Behaviour,
    ChatServer,
    Reply,
    command,
    good_answer,
    jsonl,
    kill_after,
    made_run,
    mark_of,
    teach,
    well_behaved,
)

from data_processing.__main__ import main
from data_processing.config import RlConfig
from data_processing.plans import Stage
from data_processing.rows.reserve import without_reserved
from data_processing.tables import Item
from data_processing.teacher.prompts import ask_description, description_reader, intention_reader, read_preference
from data_processing.teacher.questions import UnusableAnswerError

pytestmark = pytest.mark.usefixtures("no_keys_no_proxies")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Seventeen items and five users: 27 prompts."""
    return made_run(tmp_path / "run", users=5, items=17)


def training(run: Path) -> dict[int, list[int]]:
    """Training sequences, read without the code under test."""
    sequences: dict[int, list[int]] = {}
    for user, item, split in pl.read_parquet(run / "interactions.parquet").select("user", "item", "split").iter_rows():
        if split == "train":
            sequences.setdefault(user, []).append(item)
    return sequences


def kind(prompt: str) -> str:
    if "JSON object" in prompt:
        return "preference"
    return "intention" if "before" in prompt and "first person" in prompt else "description"


def titles(prompt: str) -> list[int]:
    return [int(number) for number in re.findall(r"title(\d+)z", prompt)]


# --- thousands of requests


def storm(prompt: str, before: int) -> Reply:
    """One prompt in six fails up to three times, each in its own way, before it is answered."""
    good = Reply(good_answer(prompt))
    faults = [
        Reply(cut=0.0),
        Reply(good.text, cut=0.6),
        Reply(body=b'{"choices": [{"mess'),
        Reply(status=429),
        Reply(status=429, headers={"Retry-After": "0"}),
        Reply(status=500),
        Reply(status=503),
    ]
    # One of these at most: three would make a reject.
    unusable = [
        Reply("", usable=False),
        Reply("I'm sorry, I cannot help with that.", usable=False),
        Reply("And so it", finish="length", usable=False),
    ]
    random_ = random.Random(f"17 {mark_of(prompt)}")
    count = random_.choice((1, 1, 2, 3)) if random_.random() < 1 / 6 else 0
    if before < count:
        return random_.sample([*faults, random_.choice(unusable)], count)[before]
    # Ten prompts of users 240 to 294: soon after the kill, so that no client waits for them at the end of the run.
    if kind(prompt) == "preference" and titles(prompt)[0] in range(720, 900, 18) and before == count:
        return Reply(good.text, cut=0.0, delay=600)
    return Reply(good.text, delay=0.1) if random_.random() < 0.01 else good


def test_thousands_of_requests_and_a_kill(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", users=500, items=1500)
    total, concurrency = 1500 + 2 * 500, 64
    with ChatServer(storm) as server:
        arguments = command(run, server.url, f"teacher.concurrency={concurrency}", "teacher.timeout=10")
        kill_after(arguments, lambda: server.answered.total() > 1200)
        asked_before = len(server.requests)
        kept = {mark for row in jsonl_of_whole_lines(run / "teacher" / "answers.jsonl") for mark in marks(row)}
        assert len(kept) > 1200 - concurrency
        assert not (run / "enriched.jsonl").exists()
        with (run / "teacher" / "answers.jsonl").open("ab") as stream:
            stream.write(b'{"key": "0123", "subj')

        done = call(arguments)
        assert done.returncode == 0, done.stderr
        # What had been written when it was killed was not asked again.
        assert not kept & {mark_of(request.prompt) for request in server.requests[asked_before:]}
        # All are answered, once; only what was in flight when it was killed may have been answered twice.
        assert len(server.answered) == total
        assert server.answered.total() - total <= concurrency
        assert max(server.answered.values()) <= 2
        # The storm was one.
        statuses = Counter((request.reply.status, request.reply.cut < 1) for request in server.requests)
        assert min(statuses[429, False], statuses[500, False], statuses[503, False], statuses[200, True]) > 15

        asked = len(server.requests)
        assert "up to date" in call(arguments).stdout
        assert len(server.requests) == asked

    rows = jsonl(run / "teacher" / "answers.jsonl")
    assert len(rows) == len({row["key"] for row in rows}) == total
    assert not jsonl(run / "teacher" / "rejects.jsonl")
    # Each answer stands where its question belongs.
    by_kind: dict[str, dict[tuple[int, ...], str]] = {"description": {}, "preference": {}, "intention": {}}
    reviewed: dict[str, str] = {}
    for prompt in server.answered:
        if kind(prompt) == "intention":
            reviewed[re.findall(r"review(\d+)x", prompt)[0]] = mark_of(prompt)
        else:
            by_kind[kind(prompt)][tuple(titles(prompt))] = mark_of(prompt)
    enriched = jsonl(run / "enriched.jsonl")
    assert [row["item"] for row in enriched] == list(range(1500))
    assert all(row["description"] == f"Arbor made {by_kind['description'][row['item'],]}." for row in enriched)
    sequences = training(run)
    preferences = jsonl(run / "preferences.jsonl")
    assert [row["user"] for row in preferences] == list(range(500))
    for row in preferences:
        mark = by_kind["preference"][tuple(sequences[row["user"]][:-1])]
        assert row["general"] == f"Likes general {mark}."
        assert row["long_term"] == f"Likes long_term {mark}."
        assert row["short_term"] == f"Likes short_term {mark}."
        assert row["intention"] == f"Arbor made {reviewed[str(row['user'])]}."
    statistics = json.loads((run / "teacher" / "statistics.json").read_text())
    assert statistics["questions"] == total
    assert statistics["found"] == len(kept)
    assert statistics["all_starts"]["prompt_tokens"] >= 100 * total
    assert statistics["retries"]["timeout"] >= 10
    assert {"connection", "cut body", "status 429", "status 500", "unusable answer"} < set(statistics["retries"])


def jsonl_of_whole_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def marks(row: dict[str, Any]) -> set[str]:
    """The prompt's mark in an answer of `good_answer`."""
    return {match for text in row["answer"].values() for match in re.findall(r"[0-9a-f]{16}", text)}


# --- what a prompt may hold


def test_nothing_held_out_and_nothing_reserved_is_told(tmp_path: Path) -> None:
    """Every review and title carries a mark; those of validation, test and reserved targets must not be told."""
    run = made_run(tmp_path / "run", users=40, items=121)
    with ChatServer(well_behaved) as server:
        teach(run, server.url, "rl.reserved=0.5", "rl.min_history=2")
    told = without_reserved(RlConfig(reserved=0.5, min_history=2), 42, training(run))
    assert sum(len(sequence) for sequence in told.values()) == 40 * 5 - 20
    reviews = {
        (int(user), int(item), split)
        for request in server.requests
        for user, item, split in re.findall(r"review(\d+)x(\d+)(train|valid|test)", json.dumps(request.body))
    }
    # None else, and all of them: no item here has more training reviews than a prompt shows.
    assert reviews == {(user, item, "train") for user, sequence in told.items() for item in sequence}
    by_kind: dict[str, Counter[tuple[int, ...]]] = defaultdict(Counter)
    for request in server.requests:
        by_kind[kind(request.prompt)][tuple(titles(json.dumps(request.body)))] += 1
    assert by_kind["description"] == Counter((item,) for item in range(121))
    assert by_kind["preference"] == Counter(tuple(sequence[:-1]) for sequence in told.values())
    assert by_kind["intention"] == Counter((sequence[-1],) for sequence in told.values())


def test_a_description_is_asked_for_with_the_longest_reviews_only() -> None:
    item = Item("Kettle", "", "", "", ())
    reviews = [f"{'very ' * count}good number {count}" for count in range(3, 20)] + ["short"]
    shown = ask_description(item, reviews)[1]["content"]
    told = [int(number) for number in re.findall(r"good number (\d+)", shown)]
    assert told == list(range(19, 11, -1))
    assert "short" not in ask_description(item, ["short"])[1]["content"].partition("Reviews:")[2]


# --- what is asked again


def test_only_what_changed_is_asked_again(run: Path) -> None:
    with ChatServer(well_behaved) as server:
        teach(run, server.url)
        assert len(server.requests) == len(server.answered) == 27
        items = pl.read_parquet(run / "items.parquet")
        renamed = pl.when(pl.col("item") == 4).then(pl.lit("title4z renamed")).otherwise("title").alias("title")
        items.with_columns(renamed).write_parquet(run / "items.parquet")
        teach(run, server.url)
        new = [request.prompt for request in server.requests[27:]]
        sequences = training(run).values()
        assert all("title4z renamed" in prompt for prompt in new)
        assert Counter(map(kind, new)) == {
            "description": 1,
            "preference": sum(4 in sequence[:-1] for sequence in sequences),
            "intention": sum(sequence[-1] == 4 for sequence in sequences),
        }
        # Other sampling and another model are other questions; the old answers are still there afterwards.
        asked = len(server.requests)
        with pytest.raises(GreamError, match="other-model"):
            teach(run, server.url, model="other-model")
        teach(run, server.url, model="other-model", overwrite=True)
        teach(run, server.url, "teacher.temperature=0.1", overwrite=True)
        assert len(server.requests) == asked + 54
        teach(run, server.url, overwrite=True)
        assert len(server.requests) == asked + 54


def test_a_request_holds_model_sampling_and_key(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "second")
    monkeypatch.setenv("GREAM_API_KEY", "first\n")
    with ChatServer(well_behaved) as server:
        teach(run, server.url + "/", "teacher.temperature=0.25", "teacher.max_tokens=77", "teacher.extra={top_p: 0.5}")
    for request in server.requests:
        sampling = {name: value for name, value in request.body.items() if name != "messages"}
        assert sampling == {"model": "small-model", "temperature": 0.25, "max_tokens": 77, "top_p": 0.5}
        assert "\r\nauthorization: bearer first\r\n" in request.headers.lower()


def test_without_a_key_none_is_sent(run: Path) -> None:
    with ChatServer(well_behaved) as server:
        teach(run, server.url)
    assert not any("authorization" in request.headers.lower() for request in server.requests)


def test_no_more_requests_are_in_flight_than_allowed(run: Path) -> None:
    with ChatServer(lambda prompt, _: Reply(good_answer(prompt), crowd=4, delay=0.02)) as server:
        teach(run, server.url, "teacher.concurrency=4")
    assert server.most_in_flight == 4


def test_tokens_and_cost_are_counted(run: Path) -> None:
    def once_unusable(prompt: str, before: int) -> Reply:
        return Reply(good_answer(prompt)) if before or "title1z" not in prompt else Reply("")

    with ChatServer(once_unusable) as server:
        teach(run, server.url, "teacher.prompt_price=2", "teacher.completion_price=10")
    statistics = json.loads((run / "teacher" / "statistics.json").read_text())
    tries = len(server.requests)
    assert tries > 27
    assert statistics["this_start"] == statistics["all_starts"]
    assert statistics["this_start"]["prompt_tokens"] == 100 * tries
    assert statistics["this_start"]["completion_tokens"] == 20 * tries
    assert statistics["this_start"]["cost"] == pytest.approx(tries * (100 * 2 + 20 * 10) / 1e6)
    assert statistics["retries"] == {"unusable answer": tries - 27}


# --- rejects


def test_rejects_are_listed_and_replaced_only_on_demand(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(Stage.enrich, RECIPE, run, [*SETTINGS])
    template = {name: jsonl(run / name) for name in ("enriched.jsonl", "preferences.jsonl")}

    def refuse_two(prompt: str, _: int) -> Reply:
        bad = kind(prompt) != "preference" and titles(prompt) == [4]
        return Reply("Sorry, no." if bad else good_answer(prompt))

    before = hashes(run)
    with ChatServer(refuse_two) as server:
        for asked in (25 + 2 * 3, 25 + 2 * 3):  # the second start asks nothing
            with pytest.raises(GreamError, match=r"rejects\.jsonl: no usable answer to 2 of 27 texts.*description 4"):
                teach(run, server.url, overwrite=True)
            assert len(server.requests) == asked
        assert {path: before[path] for path in template} == {path: hashes(run)[path] for path in template}
        rejects = jsonl(run / "teacher" / "rejects.jsonl")
        user = next(user for user, sequence in training(run).items() if sequence[-1] == 4)
        subjects = {(row["subject"]["kind"], row["subject"]["number"]) for row in rejects}
        assert subjects == {("description", 4), ("intention", user)}
        assert {row["last_answer"] for row in rejects} == {"Sorry, no."}
        assert {row["reason"] for row in rejects} == {"it says nothing about what was asked"}

        # A further ask is the same question, asked for more firmly; nothing of the bad answer stands in it.
        asks = [request.body["messages"] for request in server.requests if titles(request.prompt) == [4]]
        assert {len(turns) for turns in asks} == {2}
        first = min(turns[0]["content"] for turns in asks)
        again = [turns[0]["content"].removeprefix(first) for turns in asks]
        assert sorted(again) == ["", "", *[" Answer as the question says."] * 4]
        assert "Sorry" not in json.dumps(asks)

        capsys.readouterr()
        teach(run, server.url, "teacher.on_reject=template", overwrite=True)
        assert len(server.requests) == 31
        assert "template teacher: 2 texts" in capsys.readouterr().out
        statistics = json.loads((run / "teacher" / "statistics.json").read_text())
        assert statistics["rejected_texts"] == {"description": 1, "intention": 1}
        assert statistics["written_by"] == {"model": 25, "template": 2}
        for name, column, wanted in (("enriched.jsonl", "description", 4), ("preferences.jsonl", "intention", user)):
            pairs = zip(jsonl(run / name), template[name], strict=True)
            same = [number for number, (row, old) in enumerate(pairs) if row[column] == old[column]]
            assert same == [wanted]

        (run / "teacher" / "rejects.jsonl").unlink()
        server.behaviour = well_behaved
        teach(run, server.url, overwrite=True)
        assert len(server.requests) == 33


def test_a_model_that_answers_nothing_of_use_is_not_asked_everything(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", users=40, items=121)
    with ChatServer(lambda *_: Reply("?", finish="length")) as server:
        with pytest.raises(GreamError, match="first 50 texts asked for were all rejected"):
            teach(run, server.url, "teacher.concurrency=4", "teacher.on_reject=template")
        assert 50 * 3 <= len(server.requests) <= 54 * 3


GUITAR = Item("Fender Standard Stratocaster Electric Guitar, Maple", "", "Fender", "Guitars", ("Guitars",))
read_description = description_reader(GUITAR)
READERS: dict[str, tuple[Callable[[str], dict[str, str]], str]] = {
    "empty": (read_description, " \n"),
    "no word": (read_description, "..."),
    "nothing": (read_description, "N/A."),
    "refusal": (read_description, "As an AI, I have no opinion."),
    "curly refusal": (read_description, "I can’t help with that."),  # noqa: RUF001 - as models write it
    "over-long": (read_description, "word " * 300),
    "token": (read_description, "Good guitar.<|im_end|>"),
    "only reasoning": (read_description, "<think>What is a guitar?"),
    "no JSON": (read_preference, "The user likes guitars."),
    "cut JSON": (read_preference, '{"general": "Likes guitars.", "long_term": "Li'),
    "missing key": (read_preference, '{"general": "a", "long_term": "b"}'),
    "wrong type": (read_preference, '{"general": "a", "long_term": "b", "short_term": ["c"]}'),
    "empty value": (read_preference, '{"general": "a", "long_term": "b", "short_term": ""}'),
    # What a small model said in place of a description, or might as well have said.
    "talk about the request": (read_description, "This product is not finished."),
    "talk before a text": (read_description, "Sure! Fender's electric guitar is a classic."),
    "talk about the data": (read_description, "Based on the provided information, Fender makes guitars."),
    "a title": (read_description, "Here is a new description of the guitar by Fender."),
    "a question back": (read_description, "Fender guitars: please provide the reviews."),
    "an apology": (read_description, "I apologize, but this Fender guitar is new to me."),
    "a late apology": (read_description, "The Fender guitar: I'm really sorry, nothing comes to mind."),
    "an inability": (read_description, "Fender? I don't have enough information."),
    "regret": (
        read_preference,
        json.dumps(dict.fromkeys(("general", "long_term", "short_term"), "Unfortunately, no.")),
    ),
    "an apology in Spanish": (read_description, "Lo siento, no conozco la guitarra Fender."),
    "an apology in Chinese": (read_description, "抱歉，我不认识这把 Fender 吉他。"),  # noqa: RUF001 - as models write it
    "fields": (read_description, "Title: Fender Stratocaster Brand: Fender"),
    "a field unknown": (read_description, "A guitar by Fender, (unknown)"),
    "the instruction": (read_description, "Guitars by Fender: what it is, what sets it apart, whom it suits."),
    "another product": (read_description, "A soft towel of cotton that dries in no time."),
    "the title alone": (read_description, "Fender Standard Stratocaster"),
    "a wish with a sorry": (intention_reader(GUITAR), "I'm sorry, I can't say."),
    "names the title": (intention_reader(GUITAR), "I want a fender standard STRATOCASTER, electric-guitar."),
    "names a short title": (intention_reader(Item("Maple Tray", "", "", "", ())), "A maple tray, please."),
}


@pytest.mark.parametrize("case", READERS)
def test_an_answer_that_cannot_be_used_is_none(case: str) -> None:
    read, answer = READERS[case]
    with pytest.raises(UnusableAnswerError):
        read(answer)


def test_answers_are_read_as_models_write_them() -> None:
    assert read_description("<think>Hm, \n{}</think>\n“A fine&nbsp;guitar,\nfor  beginners.”") == {
        "description": "A fine guitar, for beginners."
    }
    for description in (
        "Guitars of this make have a maple neck and three pickups; not for the faint of heart.",
        "This guitar is the answer to every question a beginner has.",
        "Stratocasters are finished by hand, and no two are the same.",
    ):
        assert read_description(description) == {"description": description}
    # In another language than its title nothing can be told.
    tray = description_reader(Item("龙泉青瓷茶盘", "", "", "", ()))
    assert tray("A tray for tea, glazed in green.")
    assert tray("一个青瓷做的盘子")
    with pytest.raises(UnusableAnswerError, match="shares no word"):
        tray("一只棉布的毛巾")
    assert read_preference('Here:\n```json\n{"general": "a", "long_term": "b", "short_term": " c ", "x": 1}\n```') == {
        "general": "a",
        "long_term": "b",
        "short_term": "c",
    }
    wish = "I cannot play yet and want an electric guitar by Fender, not too heavy."
    assert intention_reader(GUITAR)(wish) == {"intention": wish}
    assert intention_reader(Item("Tray", "", "", "", ()))("I need a tray.") == {"intention": "I need a tray."}


# --- endpoints that fail


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "status 400 (no); correct --model"),
        (401, "status 401; set GREAM_API_KEY"),
        (404, "status 404 (no); correct --base-url"),
        (302, "status 302 (no); no chat completions"),
        (501, "status 501 (no); no chat completions"),
    ],
)
def test_what_no_retry_mends_stops_at_once(run: Path, status: int, said: str) -> None:
    before = sha256_of(run / "items.parquet")
    with ChatServer(lambda *_: Reply(status=status, delay=0.02)) as server, pytest.raises(GreamError) as error:
        teach(run, server.url, "teacher.concurrency=3")
    assert str(error.value).startswith(f"{server.url}/chat/completions: {said}")
    assert len(server.requests) <= 3
    assert not (run / "enriched.jsonl").exists()
    assert sha256_of(run / "items.parquet") == before


@pytest.mark.parametrize(
    ("behaviour", "timeout", "said"),
    [
        (lambda *_: Reply(status=500), 300, "status 500, 3 tries failed"),
        (lambda *_: Reply(cut=0.0), 300, "3 tries failed"),
        (lambda *_: Reply("late", delay=600), 0.5, "no answer within 0.5 s, 3 tries failed"),
        (lambda *_: Reply(body=b"<html>welcome</html>"), 300, "the body is no chat completion, 3 tries failed"),
        (lambda *_: Reply(status=429, headers={"Retry-After": "86400"}), 300, "to be tried again in 86400 s"),
    ],
)
def test_a_server_that_stays_ill_is_named_after_its_retries(
    run: Path, behaviour: Behaviour, timeout: float, said: str
) -> None:
    with ChatServer(behaviour) as server, pytest.raises(GreamError) as error:
        teach(run, server.url, "teacher.concurrency=1", "teacher.retries=2", f"teacher.timeout={timeout}")
    assert said in str(error.value)
    assert str(error.value).startswith(server.url)
    assert len(server.requests) == (1 if "86400" in said else 3)


def test_a_dead_server_is_one_clear_line(run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        done = call(command(run, url, "teacher.retries=1"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {url}/chat/completions: connection failed")
    assert "2 tries failed; see that the server runs" in line


def test_a_server_without_encryption_is_named(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)  # all of it: else the rest is answered by a reset
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(GreamError, match=r"no connection.*; correct --base-url or the certificate"):
            teach(run, f"https://127.0.0.1:{server.getsockname()[1]}/v1", "teacher.retries=0", "teacher.concurrency=1")


@pytest.mark.parametrize("dated", [False, True])
def test_retry_after_is_honoured(run: Path, dated: bool) -> None:
    def busy(prompt: str, before: int) -> Reply:
        if before or titles(prompt) != [1]:
            return Reply(good_answer(prompt))
        when = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # whole seconds: 1 s or more
        return Reply(status=429, headers={"Retry-After": when if dated else "1"})

    with ChatServer(busy) as server:
        teach(run, server.url)
    first, second = (
        request.time
        for request in server.requests
        if kind(request.prompt) == "description" and titles(request.prompt) == [1]
    )
    assert second - first > 0.95


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_the_key_is_nowhere(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    key = "sk-Quagmire0815"
    monkeypatch.setenv("GREAM_API_KEY", key)
    body = json.dumps({"error": {"message": f"Incorrect key provided: {key}"}}).encode()
    with ChatServer(lambda *_: Reply(status=status, body=body)) as server, pytest.raises(GreamError) as error:
        teach(run, server.url)
    server.behaviour = well_behaved
    assert key in server.requests[0].headers
    assert key not in str(error.value) + "".join(capfd.readouterr())
    assert all(key.encode() not in path.read_bytes() for path in run.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("url", "environment", "said"),
    [
        ("localhost:8000/v1", {}, "a URL such as http://localhost:8000/v1"),
        ("http://", {}, "a URL such as"),
        ("http://host:port/v1", {}, "a URL such as"),
        ("http://user:secret@host/v1", {}, "no user, query or fragment"),
        ("http://host/v1?key=secret", {}, "no user, query or fragment"),
        ("http://host/v1", {"OPENAI_API_KEY": "secret\nX: y"}, "OPENAI_API_KEY: holds characters"),
    ],
)
def test_bad_endpoints_are_refused_without_repeating_secrets(
    run: Path, monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], said: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(GreamError, match=re.escape(said)) as error:
        teach(run, url)
    assert "secret" not in str(error.value)


def test_url_and_model_go_together_with_enrich(run: Path) -> None:
    for stage, url, model in (
        (Stage.enrich, "http://host/v1", None),
        (Stage.enrich, None, "m"),
        (Stage.embed, "http://host/v1", "m"),
    ):
        with pytest.raises(GreamError, match="--base-url and --model go together"):
            main(stage, RECIPE, run, base_url=url, model=model)


# --- the journal


def test_a_journal_is_open_once_and_names_a_bad_line(run: Path) -> None:
    answers = run / "teacher" / "answers.jsonl"
    with ChatServer(well_behaved) as server:
        with Journal(answers), pytest.raises(GreamError, match=r"answers\.jsonl: in use by another process"):
            teach(run, server.url)
        answers.write_text('{"key": "a"}\n{"key": \n{"key": "c"}\n')
        with pytest.raises(GreamError, match=r"answers\.jsonl:2: not valid JSON .*; delete the line"):
            teach(run, server.url)
        answers.write_text('{"key": "a"}\n{"key": "b"}\n{"key": "a"}\n')
        with pytest.raises(GreamError, match=r"answers\.jsonl:3: its key is in the file already"):
            teach(run, server.url)
    assert not server.requests


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=100)
@given(rows=st.dictionaries(texts, st.fixed_dictionaries({"text": texts}), max_size=6), share=st.floats(0, 1))
def test_a_journal_cut_anywhere_loses_the_cut_line_alone(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, dict[str, str]], share: float
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j.jsonl"
    with Journal(path) as journal:
        for count, (key, row) in enumerate(rows.items(), start=1):
            journal.add(key, row)
            assert path.read_bytes().count(b"\n") == count  # on disk at once: a kill may come now
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    complete = path.read_bytes().count(b"\n")
    with Journal(path) as journal:
        assert list(journal.rows) == list(rows)[:complete]
        for key in list(rows)[complete:]:
            journal.add(key, rows[key])
    assert path.read_bytes() == whole
