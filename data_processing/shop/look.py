"""What two tables of a shop hold: format, columns, times, told from names and values, and shown before it is used."""

from __future__ import annotations

import csv
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from gream.config import parse_config
from gream.errors import GreamError

from ..readers.fields import present
from ..readers.files import bounded
from ..readers.formats import Columns
from ..readers.table import csv_records, decoded_lines, first_rows, is_parquet
from ..readers.times import TwoReadingsError, read_times
from .names import Role, is_amount, is_doubtful, is_sure, name_fits, same_name

_DELIMITERS = (",", ";", "\t", "|")
# Records at the start of a file that are looked at; more of the products, so that most of what is ordered is there.
_SAMPLE, _PRODUCTS = 2000, 200_000
# Share of values that must be times, or be described, for a column to be one of times, or of items.
_MOST = 0.8
# Share of products that a column of unknown name must tell apart in words to be one of titles.
_SPEAKS = 0.3
_SCRIPTS = {
    "CJK": "Chinese characters",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "THAI": "Thai",
    "ARABIC": "Arabic letters",
    "HEBREW": "Hebrew letters",
    "CYRILLIC": "Cyrillic letters",
    "GREEK": "Greek letters",
    "DEVANAGARI": "Devanagari",
    "LATIN": "Latin letters",
}


@dataclass(frozen=True)
class Sample:
    """The start of a table.

    Attributes:
        path: The file.
        kind: "Parquet", or "CSV" with its delimiter.
        delimiter: Of CSV.
        frame: Its first records; texts where the file is CSV. Of columns of one name the first, none without a name.
        doubled: Names that several columns have.
    """

    path: Path
    kind: str
    delimiter: str | None
    frame: pl.DataFrame
    doubled: frozenset[str] = frozenset()

    def texts(self, column: str) -> pl.Series:
        """The values that are there, as text."""
        values = self.frame[column]
        if values.dtype.is_nested():
            values = pl.Series(column, [str(value) if value is not None else None for value in values.to_list()])
        found = values.cast(pl.String, strict=False).str.strip_chars()
        return found.filter(pl.select(present(pl.lit(found))).to_series())


@dataclass(frozen=True)
class Look:
    """What was found.

    Attributes:
        orders: Interactions.
        products: Items; the orders' own file where there is no other.
        columns: What is in which column.
        script: Of the titles.
        doubts: Fields of `Columns` guessed by what is left, from a column whose name rather says something else.
    """

    orders: Sample
    products: Sample
    columns: Columns
    script: str
    doubts: frozenset[str]

    def lines(self) -> list[str]:
        """The guess for people, with examples."""
        rows = (
            ("customer", self.orders, "user"),
            ("product", self.orders, "item"),
            ("time", self.orders, "time"),
            ("review text", self.orders, "text"),
            ("product id", self.products, "item_id"),
            ("title", self.products, "title"),
            ("description", self.products, "description"),
            ("brand", self.products, "brand"),
            ("category", self.products, "categories"),
        )
        found = [f"orders:   {self.orders.path} ({self.orders.kind})"]
        found.append(f"products: {self.products.path} ({self.products.kind}); titles in {self.script}")
        for what, sample, field in rows:
            column: str | None = getattr(self.columns, field)
            if column is None or (what == "title" and column == self.columns.item_id):
                found.append(f"  {what:<12} none" + (", ids in their place: columns.title=COLUMN" if column else ""))
                continue
            examples = ", ".join(bounded(text, 30) for text in sample.texts(column).unique(maintain_order=True)[:3])
            doubt = f"; in doubt, else: columns.{field}=COLUMN" if field in self.doubts else ""
            found.append(f"  {what:<12} {column:<20} e.g. {examples}{doubt}")
        return found


def look_at(orders: Path, products: Path | None, said: dict[str, str]) -> Look:
    """Guess what the tables hold.

    Args:
        orders: A row per purchase, click or rating.
        products: A row per product; None where the orders say what there is to say.
        said: Names of columns by the fields of `Columns`; they are not guessed.

    Raises:
        GreamError: A file cannot be read, or a column cannot be told; says how to name it.
    """
    order_table = _sample(orders, _SAMPLE)
    product_table = order_table if products is None else _sample(products, _PRODUCTS)
    for field, column in said.items():
        table = order_table if field in _OF_ORDERS else product_table
        if field in Columns.model_fields and field not in _NO_COLUMNS and column not in table.frame.columns:
            raise GreamError(f"{table.path}: has no column '{column}', but {bounded(', '.join(table.frame.columns))}")
    found, doubts = dict(said), dict.fromkeys(("user", "item", "time"), False)
    if "item" not in found or "item_id" not in found:
        item, item_id, doubts["item"] = _item_columns(order_table, product_table, found)
        found.setdefault("item", item)
        found.setdefault("item_id", item_id)
    if "user" not in found:
        found["user"], doubts["user"] = _user_column(order_table, found)
    if "time" not in found:
        found["time"], doubts["time"] = _time_column(order_table, found)
    taken = {found["item_id"]} if products is not None else {found[role] for role in ("user", "item", "time")}
    told = _told_by(product_table, found["item_id"])
    for role in _TEXTS:
        guess = None if role in found else _text_column(product_table, role, taken | told)
        if guess is not None:
            found[role] = guess
        taken.add(found.get(role, ""))
    if "title" not in found:
        taken -= {found.get("description")} - set(said.values())
        # A shop that knows nothing of its products but an id for each.
        found["title"] = _speaking_column(product_table, found["item_id"], taken | told) or found["item_id"]
        if found.get("description") == found["title"]:
            del found["description"]
    if products is not None and "text" not in found:
        review = _text_column(order_table, "text", {found[role] for role in ("user", "item", "time")})
        if review is not None:
            found["text"] = review
    if order_table.delimiter == product_table.delimiter and order_table.delimiter is not None:
        found.setdefault("delimiter", order_table.delimiter)
    if "categories" in found:
        found.setdefault("category_separator", _separator(product_table.texts(found["categories"])))
    for field, column in found.items():
        table = order_table if field in _OF_ORDERS else product_table
        if field not in _NO_COLUMNS and column in table.doubled:
            raise GreamError(f"{table.path}:1: two columns are called '{column}'; give them a name each")
    columns = parse_config(Columns, dict(found), source="columns")
    script = _script(product_table.texts(found["title"]))
    return Look(order_table, product_table, columns, script, frozenset(field for field in doubts if doubts[field]))


_OF_ORDERS = ("user", "item", "time", "text")
_TEXTS: tuple[Role, ...] = ("title", "description", "brand", "categories")
_NO_COLUMNS = {"time_unit", "time_format", "category_separator", "delimiter"}


def _sample(path: Path, count: int) -> Sample:
    if is_parquet(path):
        return Sample(path, "Parquet", None, first_rows(path, count))
    lines = list(itertools.islice(decoded_lines(path), count + 1))
    if lines and lines[0].lstrip().startswith(("{", "[")):
        raise GreamError(
            f"{path}: JSON, where a table is needed; write it as CSV or Parquet, or take the stage 'interactions' for "
            "the dumps of Amazon and MovieLens and for published data"
        )
    delimiter = max(_DELIMITERS, key=lambda one: _columns_by(lines, one))
    records = [record for _, record in csv_records(path, lines, delimiter, strict=False) if record]
    names = [name.strip() for name in records[0]] if records else []
    places: dict[str, int] = {}
    for at, name in enumerate(names):
        # The numbers of rows that pandas writes, and what a delimiter at the end of a line makes, have no name.
        if name:
            places.setdefault(name, at)
    if len(records) < 2 or len(places) < 2:
        raise GreamError(f"{path}: no table of two columns and more with their names in the first line")
    end = max(places.values()) + 1
    whole = [record for record in records[1:] if len(record) >= end and not any(record[len(names) :])]
    rows = [[record[at] for at in places.values()] for record in whole]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(places, pl.String), orient="row")
    doubled = frozenset(name for name in places if names.count(name) > 1)
    return Sample(path, f"CSV with {delimiter!r}", delimiter, frame, doubled)


def _columns_by(lines: Sequence[str], delimiter: str) -> float:
    """Columns that a delimiter makes, as far as all lines agree on their number."""
    try:
        widths = Counter(len(record) for record in csv.reader(lines[:200], delimiter=delimiter) if record)
    except csv.Error:
        return 0.0
    width, lines_of_it = widths.most_common(1)[0] if widths else (0, 0)
    return (width - 1) * lines_of_it / max(sum(widths.values()), 1)


# How well a column fits: whether it can be trusted, then what else counts, the most important first.
_Fit = tuple[float, ...]


def _likeliest(table: Sample, field: str, what: str, fits: dict[str, _Fit]) -> tuple[str, bool]:
    """The column that fits best, the first in the file of equal ones, and whether it is in doubt.

    Raises:
        GreamError: No column fits, or of several none can be trusted.
    """
    best = max(fits, key=lambda name: fits[name], default=None)
    if best is None or (not fits[best][0] and len(fits) > 1):
        raise _cannot_tell(table, field, what, fits or table.frame.columns)
    return best, not fits[best][0]


def _time_column(table: Sample, found: dict[str, str]) -> tuple[str, bool]:
    fits: dict[str, _Fit] = {}
    # A day of birth or of registration is the same in all rows of a customer.
    varying = _told_by(table, found["user"])
    for column in table.frame.columns:
        values = table.frame[column]
        texts = table.texts(column)
        if not len(texts) or column in found.values():
            continue
        try:
            times = read_times(values, None, found.get("time_format"))  # type: ignore[arg-type]
            share = times.nanoseconds.count() / len(texts)
        except TwoReadingsError:
            share = 1.0  # a column of times that the owner has to say more about
        named = name_fits("time", column)
        # Every whole number could be a time; without a name, only what does not look like a number is one.
        plain = _share(texts.str.contains(r"^[+-]?\d{1,8}([.,]\d+)?$"))
        if share >= _MOST and (named or not plain):
            number = texts.str.contains(r"^[+-]?\d+([.,]\d+)?$").any()
            trusted = bool(named or not number) and not is_doubtful("time", column)
            fits[column] = (trusted, column in varying, is_sure("time", column), named)
    return _likeliest(table, "time", "of times", fits)


def _item_columns(orders: Sample, products: Sample, said: dict[str, str]) -> tuple[str, str, bool]:
    """Columns of the item in both tables, and whether they are in doubt.

    The pair that agrees best, in values first and in names second.
    """
    taken = {said[role] for role in ("user", "time") if role in said}
    able = [name for name in orders.frame.columns if name not in taken and not is_amount(name)]
    # Where customers are numbered as products are, their values agree as well.
    able = [name for name in able if name_fits("item", name) or not name_fits("user", name)]
    ordered = [said["item"]] if "item" in said else able
    if products is orders:
        if "item" in said:
            return said["item"], said.get("item_id", said["item"]), False
        fits: dict[str, _Fit] = {
            name: (not is_doubtful("item", name), is_sure("item", name), name_fits("item", name))
            for name in ordered
            if name_fits("item", name)
        }
        item, doubt = _likeliest(orders, "item", "of products", fits)
        return item, said.get("item_id", item), doubt
    described = [said["item_id"]] if "item_id" in said else products.frame.columns
    known = {name: set(products.texts(name)) for name in described}
    pairs = []
    for item, item_id in itertools.product(ordered, described):
        values = orders.texts(item)
        if not len(values) or not known[item_id]:
            continue
        share = _share(values.is_in(list(known[item_id])))
        # An id tells products apart; a brand or a category does not.
        apart = len(known[item_id]) / max(len(products.frame), 1)
        named = name_fits("item", item) + name_fits("item", item_id)
        agree = share * apart + 0.2 * (named > 0)
        # Where products are numbered several times over, all numbers agree.
        names = (not is_doubtful("item", item), same_name(item, item_id), same_name(item_id, "id"), named)
        pairs.append((agree, names, share, item, item_id))
    best = max(pairs, key=lambda pair: pair[:2], default=None)
    if best is None or best[2] == 0.0:
        raise GreamError(
            f"{orders.path}: no column shares a value with {products.path}; take both of one shop, or name the "
            "columns: columns.item=COLUMN columns.item_id=COLUMN"
        )
    return best[3], best[4], False


def _user_column(orders: Sample, found: dict[str, str]) -> tuple[str, bool]:
    fits: dict[str, _Fit] = {}
    for column in orders.frame.columns:
        texts = orders.texts(column)
        if column in found.values() or not len(texts):
            continue
        named = name_fits("user", column)
        mails = _share(texts.str.contains(r"^[^@\s]+@[^@\s]+$")) > _MOST
        if named or mails:
            # A customer orders more than once; what is another one in each row is an order, or a visit.
            repeats = texts.n_unique() < len(texts)
            trusted, sure = mails or not is_doubtful("user", column), mails or is_sure("user", column)
            fits[column] = (trusted, sure, repeats, named)
    return _likeliest(orders, "user", "of customers", fits)


def _told_by(table: Sample, item_id: str) -> set[str]:
    """Columns that hold something else from row to row of one product, so that they say nothing about it."""
    rows = table.frame.filter(pl.col(item_id).is_not_null())
    several = rows.group_by(item_id).agg(pl.all().drop_nulls().n_unique(), pl.len().alias("\0rows"))
    several = several.filter(pl.col("\0rows") > 1)
    return {
        name for name in several.columns if name not in (item_id, "\0rows") and _share(several[name] > 1) > 1 - _MOST
    }


def _speaking_column(table: Sample, item_id: str, taken: Iterable[str]) -> str | None:
    """The column that tells products apart in words: titles whose column has a name that is not known."""
    products = replace(table, frame=table.frame.unique(item_id, keep="first", maintain_order=True))
    speaking_most: dict[str, float] = {}
    for name in products.frame.columns:
        texts = products.texts(name)
        if name in taken or is_amount(name) or not len(texts):
            continue
        # A word of two letters and more, and neither a code nor an address.
        speaks = texts.str.contains(r"\p{L}{2}") & ~texts.str.contains(r"^[!-~]*$|://")
        speaking = _share(speaks) * texts.n_unique() / len(products.frame)
        if speaking > _SPEAKS:
            speaking_most[name] = speaking
    return max(speaking_most, key=lambda name: speaking_most[name], default=None)


def _text_column(table: Sample, role: Role, taken: Iterable[str]) -> str | None:
    fits = {}
    for name in table.frame.columns:
        fit = name_fits(role, name)
        texts = table.texts(name)
        if name not in taken and fit and len(texts):
            # The number of a brand says less than its name.
            fits[name] = (not is_doubtful(role, name), _share(texts.str.contains(r"\p{L}")) > 0.5, fit)
    best = max(fits, key=lambda name: fits[name], default=None)
    return None if best is None or (role in ("title", "text") and not fits[best][0]) else best


def _separator(texts: pl.Series) -> str:
    """What stands between categories, where something does in most of them."""
    found = {one: _share(texts.str.contains(one, literal=True)) for one in (" > ", ">", "|", ";", "/", ",")}
    best = max(found, key=lambda one: found[one])
    return best if found[best] > 0.5 else "|"


def _share(found: pl.Series) -> float:
    return int(found.sum()) / max(len(found), 1)


def _script(texts: pl.Series) -> str:
    """The script of most letters."""
    counts: Counter[str] = Counter()
    for letter in itertools.islice((letter for text in texts for letter in text if letter.isalpha()), 20_000):
        counts[_SCRIPTS.get(unicodedata.name(letter, "?").split()[0], "another script")] += 1
    if not counts:
        return "no letters"
    # A title in Japanese is full of Chinese characters, one in Chinese has no kana.
    return "Japanese" if counts["Japanese"] > 0.05 * counts.total() else counts.most_common(1)[0][0]


def _cannot_tell(table: Sample, field: str, what: str, columns: Iterable[str]) -> GreamError:
    names = bounded(", ".join(columns))
    return GreamError(f"{table.path}: which column is {what} cannot be told from {names}; say columns.{field}=COLUMN")
