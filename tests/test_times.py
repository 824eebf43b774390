"""Times of raw data: every way to write them makes the same order; what can be read two ways is refused."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from gream.config import load_config, parse_config
from gream.errors import GreamError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_processing.interactions import InteractionsConfig, build_interactions
from data_processing.readers import source_of
from data_processing.readers.formats import Columns
from data_processing.readers.times import TwoReadingsError, check_time_format, read_times

SECOND = 10**9
NOON = 1_614_686_400 * SECOND  # 2021-03-02 12:00 UTC


def nanoseconds(values: Any, **settings_: Any) -> list[int | None]:
    series = values if isinstance(values, pl.Series) else pl.Series("t", values)
    times = read_times(series, settings_.get("unit"), settings_.get("form"), settings_.get("usual", "s"))
    return times.nanoseconds.to_list()


def text_of(time: int, digits: int) -> str:
    """Decimal seconds of a whole number of nanoseconds, exactly."""
    sign, whole, rest = "-" if time < 0 else "", *divmod(abs(time), SECOND)
    return f"{sign}{whole}" + (f".{rest:09}"[: digits + 1] if digits else "")


# From 1973 to 2033 in steps of a millisecond: what every way of writing can hold.
MILLISECONDS = st.lists(st.integers(10**11, 2 * 10**12 - 1), min_size=1, max_size=12)
WAYS: dict[str, Any] = {
    "ms": lambda ms: ms,
    "us": lambda ms: [time * 1000 for time in ms],
    "ns": lambda ms: [time * 10**6 for time in ms],
    "text of ms": lambda ms: [str(time) for time in ms],
    "text of s": lambda ms: [text_of(time * 10**6, 3) for time in ms],
    "text with a comma": lambda ms: [text_of(time * 10**6, 3).replace(".", ",") for time in ms],
    "text of ns": lambda ms: [f"{time}000000" for time in ms],
    "float s": lambda ms: [time / 1000 for time in ms],
    "float ms": lambda ms: [float(time) for time in ms],
    "exponent": lambda ms: [f"{time / 1000:.12e}" for time in ms],
    "ISO": lambda ms: [moment(time).isoformat(sep=" ", timespec="milliseconds")[:-6] for time in ms],
    "ISO, Z": lambda ms: [moment(time).strftime("%Y-%m-%dT%H:%M:%S.%fZ") for time in ms],
    "ISO, offset": lambda ms: [
        moment(time).astimezone(timezone(timedelta(hours=hours % 12, minutes=30))).isoformat()
        for hours, time in enumerate(ms)
    ],
    "typed": lambda ms: pl.Series(ms).cast(pl.Datetime("ms")),
    "typed, zone": lambda ms: pl.Series([moment(time).astimezone(ZoneInfo("Europe/Berlin")) for time in ms]),
    "typed, ns": lambda ms: pl.Series(ms).cast(pl.Datetime("ms")).cast(pl.Datetime("ns")),
    "decimal": lambda ms: pl.Series([text_of(time * 10**6, 3) for time in ms]).cast(pl.Decimal(20, 3)),
}


def moment(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=MILLISECONDS)
def test_every_way_to_write_times_keeps_milliseconds(way: str, times: list[int]) -> None:
    read = nanoseconds(WAYS[way](times))
    assert [round(time / 10**6) for time in read if time is not None] == times
    if "float" not in way and way != "exponent":
        assert read == [time * 10**6 for time in times]


@pytest.mark.parametrize("way", ["ms", "text of s", "float s", "ISO", "ISO, offset", "typed", "typed, zone"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_interactions_of_one_second_are_in_order(tmp_path: Path, way: str, kind: str) -> None:
    """Twenty users who buy six items within a second, the newest first in the file, with every way to write a time."""
    buys = [(user, item, 1_600_000_000_000 + 150 * item + user) for user in range(20) for item in range(6)][::-1]
    frame = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user, _, _ in buys],
            "item_id": [f"i{item}" for _, item, _ in buys],
            "timestamp": WAYS[way]([time for _, _, time in buys]),
        }
    )
    reviews, items = tmp_path / f"r.{kind}", tmp_path / "m.csv"
    # A file of dates as text, also where the column is typed.
    frame.write_csv(reviews) if kind == "csv" else frame.write_parquet(reviews)
    items.write_text("item_id,title\n" + "".join(f"i{item},Title {item}\n" for item in range(6)))
    build_interactions(InteractionsConfig(format="table", core=3, min_users=1), reviews, items, tmp_path)
    rows = pl.read_parquet(tmp_path / "interactions.parquet")
    assert rows["item"].to_list() == list(range(6)) * 20
    assert not rows["tied"].any()


@pytest.mark.parametrize("write", [int, float, str, lambda time: f"{time}.000", lambda time: time / 1.0])
def test_times_of_json_may_be_numbers_or_texts(tmp_path: Path, write: Any) -> None:
    times = [1_500_000_000, 1_500_000_001]
    rows = [{"reviewerID": "A", "asin": f"B{n}", "unixReviewTime": write(time)} for n, time in enumerate(times)]
    path = tmp_path / "r.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame = source_of("amazon-2018", Columns()).read_reviews(path)
    assert frame["timestamp"].to_list() == [time * SECOND for time in times]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1969-12-31T23:59:59.25"], [-SECOND * 3 // 4]),
        ([-1.5, -86400.0], [-SECOND * 3 // 2, -86400 * SECOND]),
        (["-1.5"], [-SECOND * 3 // 2]),
        ([date(1960, 2, 29)], [(date(1960, 2, 29) - date(1970, 1, 1)).days * 86400 * SECOND]),
        # The hour that comes twice when summer ends: half past two is before ten past two.
        (["2021-10-31T02:30:00+02:00", "2021-10-31T02:10:00+01:00"], [1635640200 * SECOND, 1635642600 * SECOND]),
        (["2021-03-02 12:00:00", None, "", "nan"], [NOON, None, None, None]),
        (["2021-03-02", "2021/03/02 00:00", "2021.3.2"], [NOON - 43200 * SECOND] * 3),
        (["2021-03-02T12:00:00.123456789Z"], [NOON + 123456789]),
        (["2021-02-30", "2021-03-02 25:00", "2021-03-02 12:61", "9999-12-31", "soon"], [None] * 5),
        ([datetime(9999, 12, 31), datetime(1, 1, 1)], [None, None]),
        ([float("nan"), float("inf"), 1e300], [None, None, None]),
        (["9" * 5000, "1e999"], [None, None]),
        ([True], [None]),
        ([[1]], [None]),
        ([2**63 - 1, -(2**63)], [None, None]),
    ],
)
def test_known_times(values: list[Any], expected: list[int | None]) -> None:
    assert nanoseconds(values) == expected


@pytest.mark.parametrize(
    ("values", "second"),
    [
        (["02/03/2021", "25/12/2020"], "2021-03-02"),
        (["02/03/2021", "12/25/2020"], "2021-02-03"),
        (["02.03.2021 07:05", "13.01.2021"], "2021-03-02T07:05:00"),
        (["02-03-2021 07:05:09.5 PM", "01-31-2021"], "2021-02-03T19:05:09.500"),
        (["12/02/2021 12:30 AM", "12/22/2021"], "2021-12-02T00:30:00"),
        (["03/03/2021", "04/04/2021"], "2021-03-03"),  # both readings are the same
        (["02/03/2021", "31/12/2020", "2020-05-06"], "2021-03-02"),
    ],
)
def test_the_column_decides_what_is_day_and_month(values: list[str], second: str) -> None:
    expected = datetime.fromisoformat(second).replace(tzinfo=UTC).timestamp()
    assert nanoseconds(values)[0] == expected * SECOND
    assert None not in nanoseconds(values)


@pytest.mark.parametrize(
    "text",
    [
        *("2 Mar 2021 12:00", "2 March 2021, 12:00:00", "Mar. 2, 2021 12:00 PM", "Tue, 02 Mar 2021 12:00:00 GMT"),
        *("02-Mar-2021 14:00 +0200", "02Mar2021:12:00:00", "march 2nd, 2021 12:00", "Tuesday, 2. March 2021 12:00"),
        *("2021年3月2日 12:00", "2021年03月02日12:00:00", "2021년 3월 2일 12:00"),
        *(
            "2. März 2021 12:00",
            "2 mars 2021 12:00",
            "2 de março de 2021 12:00",
            "2 marzo 2021 12:00",
            "02-mrt-2021 12:00",
        ),
        *("2021-03-02".translate({48 + one: zero + one for one in range(10)}) + " 12:00" for zero in (0xFF10, 0x0660)),
    ],
)
def test_months_in_words_and_digits_of_other_scripts(text: str) -> None:
    assert (
        nanoseconds(["2021-03-02 12:00", text, "2 Mond 2021", "30 Feb 2021", "May 2021", None])
        == [NOON, NOON] + [None] * 4
    )


@pytest.mark.parametrize("number", ["44288", "0", "-1", "44288.5"])
def test_a_small_number_among_dates_is_no_time_of_1970(number: str) -> None:
    series = pl.Series(["25/03/2021", number, "1616630400"])
    times = read_times(series, None, None)
    assert times.nanoseconds.to_list() == [1616630400 * SECOND, None, 1616630400 * SECOND]
    assert "as Excel counts days" in times.expected


@pytest.mark.parametrize(
    ("values", "both"),
    [
        (["05/04/2019", "01/12/2019"], ("5 April 2019", "4 May 2019", "%d/%m/%Y", "%m/%d/%Y")),
        (["05.04.2019 10:00:01"], ("5 April 2019", "4 May 2019", "%d.%m.%Y", "%m.%d.%Y")),
        (["21-03-13"], ("21 March 2013", "13 March 2021", "%d-%m-%y", "%y-%m-%d")),
        ([20210302, 20210303], ("1970-08-22", "a date", "time_unit=s", "%Y%m%d")),
        (["20210302"], ("1970-08-22", "a date", "time_unit=s", "%Y%m%d")),
        ([202103021230], ("1976-05-28", "a date", "time_unit=ms", "%Y%m%d%H%M")),
        (["20210302123045", "20211231235959"], ("a date", "%Y%m%d%H%M%S")),
        ([2032021, 25032021], ("1970-01-24", "a date", "%d%m%Y")),
        (["03252021", "12312021"], ("1970-02-07", "a date", "%m%d%Y")),
        (["210325", "201231"], ("1970-01-03", "a date", "%y%m%d")),
        (["20210302.0", "20210303.0"], ("a date", "%Y%m%d")),
    ],
)
def test_two_readings_are_refused_and_both_remedies_work(values: list[Any], both: tuple[str, ...]) -> None:
    with pytest.raises(TwoReadingsError, match="can be read two ways") as caught:
        nanoseconds(values)
    said = str(caught.value)
    assert all(part in said for part in both)
    formats = [part.split("=")[1] for part in said.split() if "time_format=" in part]
    read = {tuple(nanoseconds(values, form=check_time_format(form))) for form in formats}
    assert len(read) == len(formats)
    assert all(None not in times for times in read)


def test_some_that_are_no_dates_do_not_make_dates_numbers() -> None:
    days = [20210302 + day for day in range(19)]
    for wrong in (0, 20210230):
        with pytest.raises(TwoReadingsError, match="time_format=%Y%m%d"):
            nanoseconds([*days, wrong])
        assert nanoseconds([*days, wrong], form="%Y%m%d").count(None) == 1


@pytest.mark.parametrize(
    ("values", "unit", "wrong"),
    [
        ([1_600_000_000, 1_600_000_000_000, 1_600_000_001], None, [1]),
        (["1600000000000", "1600000000", "1600000000001"], None, [1]),
        ([1_600_000_000_000, 1_600_000_000_000_000], "ms", [1]),
        ([1_600_000_000_000], "s", [0]),
        ([1_600_000_000, 1_600_000_000_000], "ms", [0]),
        ([1.6e9, 1.6e18, 1.6e9], None, [1]),
    ],
)
def test_units_are_not_mixed(values: list[Any], unit: Any, wrong: list[int]) -> None:
    read = nanoseconds(values, unit=unit)
    assert [index for index, time in enumerate(read) if time is None] == wrong


def test_a_set_unit_holds_for_small_numbers() -> None:
    assert nanoseconds([5, 1_600_000_000_000], unit="ms") == [5 * 10**6, 1_600_000_000 * SECOND]
    assert nanoseconds([5], usual="ms") == [5 * 10**6]
    assert nanoseconds([20210302], unit="s") == [20210302 * SECOND]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("%b %d, %Y", "Mar 2, 2021"),
        ("%d.%m.%Y %H:%M", "02.03.2021 12:00"),
        ("%d/%m/%Y", "02/03/2021 12:00"),  # the time of day need not be named
        ("%Y%m%d%H%M%S", "20210302120000"),
        ("%d/%m/%y %I:%M:%S.%f %p", "02/03/21 12:00:00.000 PM"),
        ("%Y-%m-%dT%H:%M:%S%z", "2021-03-02T14:00:00+0200"),
    ],
)
def test_a_format_is_followed(form: str, text: str) -> None:
    day = NOON - 43200 * SECOND
    assert nanoseconds([text, "nonsense"], form=check_time_format(form)) in ([NOON, None], [day, None])
    assert nanoseconds([text], form=check_time_format(form)) == [day if form == "%b %d, %Y" else NOON]


@pytest.mark.parametrize("form", ["%Q", "", "%H:%M", "%d/%m", "%d/%m/%Y %H"])
def test_a_format_without_a_whole_date_is_refused(tmp_path: Path, form: str) -> None:
    raw = {"format": "table", "columns": {"time_format": form}}
    with pytest.raises(GreamError, match=r"key 'columns\.time_format'.*no format of") as caught:
        parse_config(InteractionsConfig, raw, source="recipe.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["%d/%m/%Y", "|", ",", "::", "\t", r"\t", ">"])
def test_settings_that_yaml_has_other_uses_for_arrive_as_typed(tmp_path: Path, value: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("format: table\n")
    key = "time_format" if "%" in value else "category_separator" if value == ">" else "delimiter"
    config = load_config(InteractionsConfig, recipe, [f"columns.{key}={value}"])
    assert getattr(config.columns, key) == ("\t" if value == r"\t" else value)
