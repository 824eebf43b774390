"""Times as files write them, a column as a whole: numbers in four units, dates and texts become nanoseconds since 1970.

A column is read by one rule. Numbers are in the unit that is set, or in the one that most of them show by their size;
dates in numerals have day and month in the order that the whole column allows. What can be read two ways is refused.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from typing import Literal

import polars as pl

Unit = Literal["s", "ms", "us", "ns"]

# Nanoseconds of one.
TICK: dict[Unit, int] = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_SECOND, _DAY = TICK["s"], 86400 * TICK["s"]
_LARGEST = 2**63 - 1
# Times from 1973 to 2286, in seconds. In each unit they have sizes of their own.
_EARLY, _LATE = 10**8, 10**10

_DATE = (
    r"^\s*(?<a>[0-9]{1,4})(?<sep>[-/.])(?<b>[0-9]{1,2})(?<sep2>[-/.])(?<c>[0-9]{1,4})"
    r"(?:(?:[Tt]|,?\s+)(?<hour>[0-9]{1,2}):(?<minute>[0-9]{2})(?::(?<second>[0-9]{2})(?:[.,](?<fraction>[0-9]+))?)?"
    r"\s*(?:(?<half>[AaPp])\.?[Mm]\.?)?\s*"
    r"(?:[Zz]|UTC|GMT|(?<sign>[+-])(?<zone>[0-9]{2}):?(?<zone_minute>[0-9]{2})?)?)?\s*$"
)
# The same with the month in words, and as Chinese, Japanese and Korean write it; the year has four digits. English,
# German, French, Spanish, Portuguese, Italian, Dutch, Danish, Norwegian and Swedish; no word means two months.
_MONTHS = {
    word: number
    for number, words in enumerate(
        (
            "jan january januar janvier janv enero ene janeiro gennaio gen januari jän jänner",
            "feb february februar février fevrier févr fevr fév febrero fevereiro fev febbraio februari",
            "mar march märz mär mrz mars marzo março marco maart mrt marts",
            "apr april avril avr abril abr aprile",
            "may mai mayo maio maggio mag mei maj",
            "jun june juni juin junio junho giugno giu",
            "jul july juli juillet juil julio julho luglio lug",
            "aug august août aout agosto ago augustus augusti",
            "sep sept september septembre septiembre setembro set settembre",
            "oct october oktober okt octobre octubre outubro out ottobre ott",
            "nov november novembre noviembre novembro",
            "dec december dezember dez décembre decembre déc diciembre dic dezembro dicembre desember des",
        ),
        start=1,
    )
    for word in words.split()
}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_SPELT = (
    r"(?i)^\s*(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
    rf"(?:(?<d1>[0-9]{{1,2}})(?:st|nd|rd|th)?[\s./-]*(?:de\s+)?(?<m1>{_MONTH})"
    rf"|(?<m2>{_MONTH})\.?\s+(?<d2>[0-9]{{1,2}})(?:st|nd|rd|th)?)"
    r"[\s.,/-]*(?:de\s+)?(?<y>[0-9]{4})(?:[\s,:T]+(?<rest>[0-9].*))?$"
)
_HAN_DATE = r"^\s*([0-9]{4})\s*[年년]\s*([0-9]{1,2})\s*[月월]\s*([0-9]{1,2})\s*[日일]\s*"
# Dates written as one number, by its digits, zeros in front included, which are lost where it is one.
_COMPACT = {
    8: ("%Y%m%d", "%d%m%Y", "%m%d%Y"),
    12: ("%Y%m%d%H%M",),
    14: ("%Y%m%d%H%M%S",),
    6: ("%y%m%d", "%d%m%y", "%m%d%y"),
}
_DIGITS = {"Y": 4, "y": 2, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2}
# Numbers of which so many can be read as dates are dates; the others are mistakes, or stand for no date.
_MOST = 0.9
_NUMBER = r"^\s*(?<sign>[+-]?)(?<whole>[0-9]+)(?:[.,](?<fraction>[0-9]*))?\s*$"
_EXPONENT = r"^\s*[+-]?[0-9]+(?:\.[0-9]*)?[eE][+-]?[0-9]+\s*$"
# Year, month and day among the three numerals, and how people call it.
_ORDERS = {"cba": "day/month/year", "cab": "month/day/year", "abc": "year/month/day"}
_FORMATS = {"cba": "%d{0}%m{0}%Y", "cab": "%m{0}%d{0}%Y", "abc": "%Y{0}%m{0}%d"}


class TwoReadingsError(ValueError):
    """A column that can be read two ways; names both, and the setting that decides."""


@dataclass(frozen=True)
class Times:
    """A column of times.

    Attributes:
        nanoseconds: Since 1970, int64; null where the value is no time.
        expected: What a value of this column has to be, for whoever wrote one that is not.
    """

    nanoseconds: pl.Series
    expected: str


def read_times(values: pl.Series, unit: Unit | None, time_format: str | None, usual: Unit = "s") -> Times:
    """The times in a column of any type.

    Args:
        values: Numbers, dates, times with or without a zone, or texts of these. Without a zone they are in UTC.
        unit: What numbers count since 1970; None for what most of them show by their size.
        time_format: How texts write dates, as `check_time_format` takes it; None for numerals in a usual order.
        usual: Unit of numbers too small to show one.

    Raises:
        TwoReadingsError: Day and month, or number and date, cannot be told apart.
    """
    if values.dtype == pl.Date:
        values = values.cast(pl.Datetime("us"))
    if isinstance(values.dtype, pl.Datetime):
        return Times(_scaled(values.to_physical(), TICK[values.dtype.time_unit]), "a time between 1677 and 2262")
    if values.dtype == pl.String and values.str.contains(r"[^\x00-\x7f]").any():
        values = values.str.replace_many(_foreign_digits())
    if time_format is not None:
        return Times(_by_format(values.cast(pl.String, strict=False), time_format), f"a time like '{time_format}'")
    if values.dtype.is_integer():
        return _numbers(values.cast(pl.Int64, strict=False), None, values, unit, usual)
    if values.dtype.is_float():
        return _numbers(*_parts(values), values, unit, usual)
    if values.dtype in (pl.Boolean, pl.Time, pl.Duration) or values.dtype.is_nested():
        return Times(pl.Series(values.name, [None] * len(values), pl.Int64), f"a date, or {_since(unit or usual)}")
    return _texts(values.cast(pl.String, strict=False), unit, usual)


def check_time_format(time_format: str) -> str:
    """The format as polars takes it (that of chrono, https://docs.rs/chrono/latest/chrono/format/strftime).

    Python's ``.%f`` for a fraction of a second is understood.

    Raises:
        ValueError: It writes no whole date, or cannot be read back.
    """
    ours = time_format.replace(".%f", "%.f").replace("%f", "%9f")
    sample = pl.Series([datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)])
    try:
        read = sample.dt.strftime(ours).str.to_datetime(ours, strict=False, time_unit="us")[0]
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise ValueError(f"'{time_format}' is no format of times ({str(error).splitlines()[0]})") from None
    if read is None or (read.year, read.month, read.day) != (2001, 2, 3):
        raise ValueError(f"'{time_format}' is no format of a whole date, as '%d.%m.%Y %H:%M' is")
    return ours


@cache
def _foreign_digits() -> dict[str, str]:
    """Decimal digits of other scripts, and what they are in ASCII; a tenth of a second of looking."""
    digits = {chr(code): unicodedata.decimal(chr(code), None) for code in range(128, sys.maxunicode + 1)}
    return {character: str(digit) for character, digit in digits.items() if digit is not None}


def _since(unit: Unit) -> str:
    return f"a time since 1970 in {unit}"


def _scaled(values: pl.Series, tick: int) -> pl.Series:
    """``values`` times ``tick``; null where that has no room in int64, which ends in 2262."""
    if tick == 1:
        return values
    room = _LARGEST // tick - 1
    return pl.select(pl.when(values.is_between(-room, room)).then(values) * tick).to_series().alias(values.name)


def _parts(values: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Whole part (int64, null where there is none) and nanounits behind it (int64) of floats."""
    whole = values.floor()
    rest = ((values - whole) * 1e9).round().cast(pl.Int64, strict=False)
    return whole.cast(pl.Int64, strict=False), rest


def _numbers(whole: pl.Series, rest: pl.Series | None, values: pl.Series, unit: Unit | None, usual: Unit) -> Times:
    """Times of numbers.

    Args:
        whole: The whole part of each, int64.
        rest: Billionths behind it, int64 from 0 to 10^9, or None.
        values: As the file has them.
        unit: See `read_times`.
        usual: See `read_times`.
    """
    # The absolute value of the smallest int64 has no room in int64.
    size = pl.select(pl.when(whole > -_LARGEST).then(whole.abs())).to_series()
    shown = {name: _shows(size, name) for name in TICK}
    seen = {name: int(where.sum()) for name, where in shown.items()}
    likeliest = max(TICK, key=lambda name: (seen[name], name == usual))
    counts = unit or likeliest
    if unit is None:
        _refuse_compact_dates(size, values, counts)
    others = [name for name in TICK if name != counts and seen[name]]
    if others:
        whole = pl.select(pl.when(~pl.any_horizontal(*(shown[name] for name in others))).then(whole)).to_series()
    tick = TICK[counts]
    times = _scaled(whole, tick)
    if rest is not None:
        times = times + rest * tick // _SECOND
    expected = f"a date, or {_since(counts)}"
    if others:
        expected += f" and not in {' or '.join(others)}"
    return Times(times.alias(values.name), expected)


def _shows(size: pl.Series, unit: Unit) -> pl.Series:
    """Where a number of this size is a time between 1973 and 2286 in ``unit``."""
    scale = _SECOND // TICK[unit]
    return size.is_between(_EARLY * scale, min(_LATE * scale, _LARGEST), closed="left").fill_null(False)


def _refuse_compact_dates(size: pl.Series, values: pl.Series, counts: Unit) -> None:
    """Numbers that are dates like 20210302 or 2032021 are no seconds of 1970 unless somebody says so."""
    known = size.drop_nulls()
    known = known.filter(known > 0)
    if known.is_empty():
        return
    form = next((form for digits, forms in _COMPACT.items() for form in forms if _are_dates(known, digits, form)), None)
    if form is None:
        return
    first = values.filter(size > 0)[0]
    seconds = int(known[0]) * TICK[counts] // _SECOND
    number = f" as {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}" if seconds < 2**32 else ""
    raise TwoReadingsError(
        f"can be read two ways: {first!r}{number} ({counts} since 1970) or as a date; set "
        f"interactions.columns.time_unit={counts} or interactions.columns.time_format={form}"
    )


def _are_dates(numbers: pl.Series, digits: int, form: str) -> bool:
    """Whether most of the numbers are days, or moments, between 1900 and 2200 in a form of so many digits."""
    # What has the year in front has no zero there; else the day or month may have lost one.
    fewest = digits if form.startswith("%Y") else digits - 1
    fitting = numbers.filter(numbers.is_between(10 ** (fewest - 1), 10**digits - 1))
    if len(fitting) < _MOST * len(numbers):
        return False
    texts = fitting.cast(pl.String).str.zfill(digits)
    if "%H" in form:
        days = texts.str.strptime(pl.Datetime, form, strict=False).dt.date()
    else:
        days = texts.str.strptime(pl.Date, form, strict=False)
    return int(days.is_between(date(1900, 1, 1), date(2200, 12, 31)).sum()) >= _MOST * len(numbers)


def _texts(values: pl.Series, unit: Unit | None, usual: Unit) -> Times:
    whole = values.cast(pl.Int64, strict=False)
    if whole.null_count() == values.null_count():
        return _numbers(whole, None, values, unit, usual)
    number = values.str.extract_groups(_NUMBER)
    parts = pl.DataFrame(number.alias("").struct.unnest())
    if parts["whole"].null_count() < len(values):
        minus = pl.col("sign") == "-"
        digits = pl.col("fraction").fill_null("").str.slice(0, 9).str.pad_end(9, "0").cast(pl.Int64, strict=False)
        whole_part = pl.col("whole").cast(pl.Int64, strict=False) * pl.when(minus).then(-1).otherwise(1)
        # -1.25 is a whole part of -2 and .75 behind it, as with floats.
        borrowed = minus & (digits > 0)
        parts = parts.select(
            (whole_part - borrowed.cast(pl.Int64)).alias("whole"),
            pl.when(borrowed).then(_SECOND - digits).otherwise(digits).alias("rest"),
        )
    else:
        parts = parts.select(pl.lit(None, pl.Int64).alias("whole"), pl.lit(None, pl.Int64).alias("rest"))
    if (exponents := values.str.contains(_EXPONENT).fill_null(False)).any():
        floats, more = _parts(pl.select(pl.when(exponents).then(values.str.strip_chars())).to_series().cast(pl.Float64))
        parts = parts.select(pl.coalesce("whole", floats).alias("whole"), pl.coalesce("rest", more).alias("rest"))
    dates = _dates(values, None)
    note = ""
    if unit is None and dates.nanoseconds.count():
        # Beside dates, a small number is no time of 1970: it is a day as Excel counts them, or stands for none.
        small = (parts["whole"].abs() < _EARLY).fill_null(False)
        parts = parts.with_columns(pl.when(~small).then("whole").alias("whole"))
        if small.any():
            note = ", and no number as Excel counts days or as stands for a missing date"
    if not parts["whole"].count():
        return Times(dates.nanoseconds, dates.expected + note)
    numbers = _numbers(parts["whole"], parts["rest"], values, unit, usual)
    if not dates.nanoseconds.count():
        return numbers
    both = pl.select(pl.coalesce(numbers.nanoseconds, dates.nanoseconds)).to_series().alias(values.name)
    return Times(both, numbers.expected + note)


def _by_format(values: pl.Series, time_format: str) -> pl.Series:
    """Times of texts in a format; of dates in numerals, the format says the order and need not say the time of day."""
    codes = re.fullmatch(r"(?:%[YymdHMS])+", time_format)
    if codes:
        # A number has lost zeros in front, and a table library may have given it a fraction.
        width = sum(_DIGITS[code] for code in time_format[1::2])
        values = values.str.strip_chars().str.replace(r"\.0+$", "").str.zfill(width)
    read = values.str.strip_chars().str.to_datetime(time_format, strict=False, time_unit="us")
    # In microseconds there is room for every year, so that none can wrap around.
    times = _scaled(read.to_physical(), TICK["us"])
    if "%.f" in time_format or "%9f" in time_format:
        fine = values.str.strip_chars().str.to_datetime(time_format, strict=False, time_unit="ns").to_physical()
        times = pl.select(pl.when(times.is_not_null()).then(fine)).to_series()
    letters = "".join(re.findall(r"%[-_0]?([dmyeY])", time_format)).replace("e", "d").lower()
    order = {"dmy": "cba", "mdy": "cab", "ymd": "abc"}.get(letters)
    if order is not None and times.null_count() > values.null_count():
        times = pl.select(pl.coalesce(times, _dates(values, order).nanoseconds)).to_series()
    return times.alias(values.name)


def _dates(values: pl.Series, order: str | None) -> Times:
    """Times of dates in numerals; null where there is none.

    Args:
        values: Texts.
        order: Of year, month and day in dates that do not start with a year of four digits, a key of `_ORDERS`; None
            for what the column allows.
    """
    values = _in_numerals(values)
    parts = pl.DataFrame(values.str.extract_groups(_DATE).alias("").struct.unnest())
    parts = parts.with_columns(values.alias("text"))
    if not parts["a"].count():
        expected = f"a date like 2021-03-25, or {_since('s')}"
        return Times(pl.Series(values.name, [None] * len(values), pl.Int64), expected)
    same = pl.col("sep") == pl.col("sep2")
    first_is_year = pl.col("a").str.len_chars() == 4
    iso = parts.select(pl.when(same & first_is_year).then(_day("abc"))).to_series()
    rest = parts.select((same & ~first_is_year).fill_null(False)).to_series()
    expected = f"a date like 2021-03-25, or {_since('s')}"
    if rest.any():
        orders = [order] if order else list(_ORDERS)
        readings = {
            name: parts.select(pl.when(pl.lit(rest) & _may_be(name)).then(_day(name))).to_series() for name in orders
        }
        most = max(reading.count() for reading in readings.values())
        best = [name for name in orders if readings[name].count() == most]
        days = readings[best[0]]
        for name in best[1:]:
            differ = (days != readings[name]).fill_null(False).arg_true()
            if len(differ):
                raise TwoReadingsError(_both(parts.row(int(differ[0]), named=True), best[0], name))
        iso = pl.select(pl.coalesce(iso, days)).to_series()
        expected = f"a date as {_ORDERS[best[0]]}"
    times = parts.select(pl.lit(iso).cast(pl.Int64) * 86400 + _time_of_day()).to_series()
    digits = pl.col("fraction").fill_null("").str.slice(0, 9).str.pad_end(9, "0").cast(pl.Int64)
    scaled = _scaled(times, _SECOND)
    return Times((scaled + parts.select(digits).to_series()).alias(values.name), expected)


def _in_numerals(values: pl.Series) -> pl.Series:
    """Dates with the month in words as year-month-day; other texts as they are."""
    values = values.str.replace(_HAN_DATE, "${1}-${2}-${3} ")
    if not values.str.contains(_SPELT).any():
        return values
    parts = pl.DataFrame(values.str.extract_groups(_SPELT).alias("").struct.unnest())
    month = pl.coalesce("m1", "m2").str.to_lowercase()
    number = month.replace_strict({word: f"{number:02}" for word, number in _MONTHS.items()}, default=None)
    day = pl.coalesce("d1", "d2").str.zfill(2)
    numerals = pl.format("{}-{}-{} {}", "y", number, day, pl.col("rest").fill_null(""))
    return parts.select(pl.coalesce(numerals, pl.lit(values))).to_series()


def _may_be(order: str) -> pl.Expr:
    """The year has two digits or four, and the two others have two at most."""
    year = pl.col(order[0]).str.len_chars().is_in([2, 4])
    return year & (pl.col(order[1]).str.len_chars() <= 2) & (pl.col(order[2]).str.len_chars() <= 2)


def _day(order: str) -> pl.Expr:
    """Days since 1970 of the three numerals; null where there is no such day."""
    number = pl.col(order[0]).cast(pl.Int32)
    short = pl.col(order[0]).str.len_chars() == 2
    # As POSIX has it: 69 to 99 lie in the last century.
    year = pl.when(short).then(number + pl.when(number >= 69).then(1900).otherwise(2000)).otherwise(number)
    text = pl.format("{}-{}-{}", year, *(pl.col(name).str.zfill(2) for name in order[1:]))
    return text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Int32)


def _time_of_day() -> pl.Expr:
    """Seconds since midnight in UTC, whatever the offset; null where there is no such time."""
    hour, minute, second = (pl.col(name).cast(pl.Int64).fill_null(0) for name in ("hour", "minute", "second"))
    half = pl.col("half").str.to_lowercase()
    twelve = pl.when(half == "p").then(hour % 12 + 12).when(half == "a").then(hour % 12).otherwise(hour)
    good = (minute < 60) & (second <= 60) & pl.when(half.is_null()).then(hour < 24).otherwise(hour.is_between(1, 12))
    ahead = pl.col("zone").cast(pl.Int64).fill_null(0) * 3600
    ahead += pl.col("zone_minute").cast(pl.Int64).fill_null(0) * 60
    offset = pl.when(pl.col("sign") == "-").then(-ahead).otherwise(ahead)
    return pl.when(good).then(twelve * 3600 + minute * 60 + second - offset)


def _both(row: dict[str, str | None], first: str, second: str) -> str:
    """What `TwoReadingsError` says of a date; its remedies read the column."""
    text = (row["text"] or "").strip()[:40]

    def said(order: str) -> str:
        numerals = {name: row[name] or "" for name in "abc"}
        year = int(numerals[order[0]])
        year += 0 if len(numerals[order[0]]) == 4 else 1900 if year >= 69 else 2000
        day = date(year, int(numerals[order[1]]), int(numerals[order[2]]))
        return f"{day.day} {day:%B} {day.year} ({_ORDERS[order]})"

    def remedy(order: str) -> str:
        form = _FORMATS[order].format(row["sep"])
        return form if len(row[order[0]] or "") == 4 else form.replace("%Y", "%y")

    return (
        f"can be read two ways: '{text}' as {said(first)} or as {said(second)}; say which: set "
        f"interactions.columns.time_format={remedy(first)} or interactions.columns.time_format={remedy(second)}"
    )
