"""Stage ``synthesize``: a dump of an invented shop in the raw Amazon-2018 format, with preferences planted in it.

The shop sells 16 categories under up to 12 brands; titles and descriptions name both. A user walks through it:

- from an item of one category to one of the category's two usual successors, of the same brand;
- or, leaving the brand, mostly to its sister brand, into the category's counterpart, and else back to a favourite;
- within brand and category to any item, now and then to the next series up (First, Daily, Signature, ...);
- and sometimes, aside from the walk, to an item of no meaning: what a denoised history leaves out.

So category and brand of the last items tell much about the next one, and which items they were tells little: each pair
of items is bought in turn too rarely to be counted. What the filters of later stages are for is there too: repeated
reviews, users and items with few reviews, items without metadata, same-day reviews, markup and entities in texts.
"""

from __future__ import annotations

import gzip
import html
import itertools
import json
import random
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gream.config import Config
from pydantic import Field

from .invented import (
    ASIDE,
    BRANDS,
    CHANGED,
    DESCRIPTION,
    FOLLOWING,
    HALVES,
    LARGEST_CELL,
    LOYAL,
    MAIN_CATEGORIES,
    NAMES,
    PRAISE,
    SERIES,
    SUMMARIES,
    Brand,
    Category,
)

# Probabilities of the walk that is planted, given that the brand is kept, or left.
FIRST_SUCCESSOR = 0.8
SECOND_SUCCESSOR = 0.15
SISTER_BRAND = 0.8
# Of taking the next series up where a brand and category has it, instead of any item of the two.
NEXT_SERIES = 0.2
# Exponent of the Pareto distribution of how much items appeal: few stand out, none is forgotten.
APPEAL_TAIL = 2.2

# Flaws, each as a share: of reviews, users or items.
REPEATED_REVIEWS = 0.015
SAME_DAY = 0.12
ORPHAN_REVIEWS = 0.01
ORPHAN_ITEMS = 0.02
SPORADIC_USERS = 0.03
DOUBLE_METADATA = 0.02
LOST_TITLES = 0.01

SHORTEST, LONGEST = 5, 20
_DAY = 86_400
_FIRST_DAY = int(datetime(2014, 1, 1, tzinfo=UTC).timestamp())


class SynthesizeConfig(Config):
    """Size and temper of the invented shop.

    Attributes:
        seed: Seed of every random choice in the invented shop.
        users: Users who write reviews; a few write too few to stay in a 5-core.
        items: Items in the metadata.
        loyalty: Probability of staying with the brand from one item to the next.
        noise: Probability that an item has nothing to do with the one before it.
    """

    seed: int = 42
    users: int = Field(800, ge=50)
    # The lower bound fills two brands; the upper one is what differs in series and variant.
    items: int = Field(800, ge=64, le=3000)
    loyalty: float = Field(0.75, ge=0.0, le=1.0)
    noise: float = Field(0.1, ge=0.0, lt=1.0)


@dataclass(frozen=True)
class Item:
    """One product.

    Attributes:
        number: From 0, in order of cells.
        asin: Its id in the dump.
        half: Which half of the shop it belongs to.
        brand: Index into the half's brands.
        category: What it is.
        series: Index into `SERIES`.
        variant: What tells it apart.
        appeal: Weight in any choice between items.
    """

    number: int
    asin: str
    half: int
    brand: int
    category: Category
    series: int
    variant: str
    appeal: float

    @property
    def maker(self) -> Brand:
        """Its brand."""
        return BRANDS[self.half][self.brand]

    @property
    def title(self) -> str:
        """Its title, as a customer reads it."""
        return f"{self.maker.name} {SERIES[self.series]} {self.variant} {self.category.noun}"


Cell = tuple[int, int, str]  # half, brand, category name


@dataclass(frozen=True)
class Shop:
    """All products.

    Attributes:
        items: Item 0 first.
        appeal: Running sum of their appeal, for draws from all of them.
        cells: Items of each half, brand and category.
        brands: How many brands each half has.
    """

    items: tuple[Item, ...]
    appeal: tuple[float, ...]
    cells: Mapping[Cell, tuple[Item, ...]]
    brands: int


@dataclass(frozen=True)
class Purchase:
    """One step of a user.

    Attributes:
        item: What was bought.
        aside: Whether it is noise.
        before: The item of the walk that led here, if any.
    """

    item: Item
    aside: bool
    before: Item | None


def synthesize(config: SynthesizeConfig, out: Path) -> None:
    """Write ``raw/reviews.json.gz`` and ``raw/meta.json.gz``; the same configuration always makes the same bytes.

    Args:
        config: See `SynthesizeConfig`.
        out: Existing folder to write to.
    """
    folder = out / "raw"
    folder.mkdir(exist_ok=True)
    shop = build_shop(config)
    _write_lines(folder / "meta.json.gz", _metadata(shop, random.Random(f"{config.seed} metadata")))
    _write_lines(folder / "reviews.json.gz", _reviews(config, shop, random.Random(f"{config.seed} reviews")))


def build_shop(config: SynthesizeConfig) -> Shop:
    """Stock the shop: every brand of a half has items in each of its eight categories, about four in each.

    Args:
        config: See `SynthesizeConfig`.
    """
    choose = random.Random(f"{config.seed} shop")
    # About 33 items per brand, as many as 12 brands share of 400.
    brands = min(max(round(config.items / 66), 1), len(BRANDS[0]))
    cells = [
        (half, brand, category)
        for half, categories in enumerate(HALVES)
        for brand in range(brands)
        for category in categories
    ]
    largest = max(len(SERIES), min(2 * config.items // len(cells), LARGEST_CELL))
    sizes = [2] * len(cells)
    while sum(sizes) < config.items:
        cell = choose.randrange(len(cells))
        if sizes[cell] < largest:
            sizes[cell] += 1
    asins = _distinct_ids(config.items, "B", 9, choose)

    items: list[Item] = []
    for (half, brand, category), size in zip(cells, sizes, strict=True):
        variants = choose.sample(category.variants, len(category.variants))
        for rank in range(size):
            number = len(items)
            # Six series and eight variants meet again after 24 items; skipping one variant makes new pairs.
            variant = variants[(rank + rank // 24) % len(variants)]
            series, weight = rank % len(SERIES), choose.paretovariate(APPEAL_TAIL)
            items.append(Item(number, asins[number], half, brand, category, series, variant, weight))
    stocked: dict[Cell, list[Item]] = {}
    for item in items:
        stocked.setdefault((item.half, item.brand, item.category.name), []).append(item)
    appeal = tuple(itertools.accumulate(item.appeal for item in items))
    return Shop(tuple(items), appeal, {cell: tuple(content) for cell, content in stocked.items()}, brands)


def walk(config: SynthesizeConfig, shop: Shop, length: int, choose: random.Random) -> list[Purchase]:
    """One user's purchases, no item twice.

    Args:
        config: See `SynthesizeConfig`.
        shop: From `build_shop`.
        length: How many purchases.
        choose: Source of every choice.
    """
    seen: set[int] = set()
    favourite = (choose.randrange(len(HALVES)), choose.randrange(shop.brands))
    last: Item | None = None
    purchases: list[Purchase] = []
    while len(purchases) < length:
        aside = last is not None and choose.random() < config.noise
        if aside:
            content: Sequence[Item] = choose.choices(shop.items, cum_weights=shop.appeal)
        elif last is None:
            content = shop.cells[(*favourite, choose.choice(HALVES[favourite[0]]).name)]
        else:
            content = shop.cells[_next_cell(config, shop, last, favourite, choose)]
        unseen = [item for item in content if item.number not in seen]
        if not unseen:
            continue
        item = _pick(unseen, None if aside else last, choose)
        seen.add(item.number)
        purchases.append(Purchase(item, aside, last))
        if not aside:
            last = item
    return purchases


def _next_cell(
    config: SynthesizeConfig, shop: Shop, last: Item, favourite: tuple[int, int], choose: random.Random
) -> Cell:
    draw = choose.random()
    if choose.random() < config.loyalty:
        if draw < FIRST_SUCCESSOR:
            name = last.category.successors[0]
        elif draw < FIRST_SUCCESSOR + SECOND_SUCCESSOR:
            name = last.category.successors[1]
        else:
            name = choose.choice(HALVES[last.half]).name
        return last.half, last.brand, name
    if draw < SISTER_BRAND:
        return (*_sister(last, shop), last.category.counterpart)
    return (*favourite, choose.choice(HALVES[favourite[0]]).name)


def _sister(item: Item, shop: Shop) -> tuple[int, int]:
    """The brand of the other half that users of this one change to: a ring through all brands."""
    return 1 - item.half, (item.brand + item.half) % shop.brands


def _pick(unseen: list[Item], last: Item | None, choose: random.Random) -> Item:
    if last is not None and choose.random() < NEXT_SERIES:
        wanted = (last.series + 1) % len(SERIES)
        up = [item for item in unseen if item.series == wanted]
        # Where the series is not made in this category, users begin again at the first.
        unseen = up or [item for item in unseen if item.series == 0] or unseen
    return choose.choices(unseen, [item.appeal for item in unseen])[0]


def _reviews(config: SynthesizeConfig, shop: Shop, choose: random.Random) -> list[dict[str, Any]]:
    """All reviews in order of time, as a shop logs them; reviews of one user and day stay in order of purchase."""
    users = _distinct_ids(config.users, "A", 13, choose)
    orphans = _distinct_ids(max(1, round(ORPHAN_ITEMS * config.items)), "C", 9, choose)
    sporadic = round(SPORADIC_USERS * config.users)
    rows: list[dict[str, Any]] = []
    for number, user in enumerate(users):
        name = f"{choose.choice(NAMES)} {choose.choice(string.ascii_uppercase)}."
        length = choose.randint(1, SHORTEST - 1) if number < sporadic else _draw_length(choose)
        time = _FIRST_DAY + _DAY * choose.randrange(1000)
        purchases = walk(config, shop, length, choose)
        for purchase in purchases:
            rows.append(_review(user, name, purchase.item.asin, time, *_words(purchase, choose), choose))
            if choose.random() < ORPHAN_REVIEWS:
                rows.append(_review(user, name, choose.choice(orphans), time, "No longer sold", "It was good.", choose))
            if choose.random() >= SAME_DAY:
                time += _DAY * (1 + int(choose.expovariate(1 / 25)))
        for purchase in purchases:
            if choose.random() < REPEATED_REVIEWS:
                rows.append(_review(user, name, purchase.item.asin, time, "Again", "Bought it once more.", choose))
    return sorted(rows, key=lambda row: row["unixReviewTime"])


def _draw_length(choose: random.Random) -> int:
    # A geometric tail above the shortest length, cut at the longest: 9 in the mean.
    return min(SHORTEST + int(choose.expovariate(1 / 4.7)), LONGEST)


def _words(purchase: Purchase, choose: random.Random) -> tuple[str, str]:
    """Summary and text of a review: why the item was bought, and a word about it."""
    item, before = purchase.item, purchase.before
    if purchase.aside:
        reasons = [choose.choice(ASIDE)]
    elif before is None:
        reasons = [choose.choice(CHANGED)]
    else:
        reasons = [
            choose.choice(FOLLOWING),
            choose.choice(LOYAL if before.maker == item.maker else CHANGED),
        ]
        # Most reviews give one reason only.
        reasons = reasons if choose.random() < 0.3 else [choose.choice(reasons)]
    text = " ".join([*reasons, choose.choice(PRAISE)]).format(
        before=before.category.noun.lower() if before else "",
        brand=item.maker.name,
        series=SERIES[item.series],
        variant=item.variant,
        style=choose.choice(item.maker.style),
        use=item.category.use,
    )
    return choose.choice(SUMMARIES), text


def _review(
    user: str, name: str, asin: str, time: int, summary: str, text: str, choose: random.Random
) -> dict[str, Any]:
    day = datetime.fromtimestamp(time, tz=UTC)
    row: dict[str, Any] = {
        "overall": float(choose.choices((5, 4, 3, 2, 1), (60, 25, 8, 4, 3))[0]),
        "verified": choose.random() < 0.9,
        "reviewTime": f"{day.month:02d} {day.day}, {day.year}",
        "reviewerID": user,
        "asin": asin,
        "reviewerName": name,
        "reviewText": text,
        "summary": summary,
        "unixReviewTime": time,
    }
    if choose.random() < 0.05:
        row["vote"] = str(choose.randint(2, 30))
    # In the real dump, too, a review without text has no such field.
    if choose.random() < 0.01:
        del row["reviewText"]
    return row


def _metadata(shop: Shop, choose: random.Random) -> Iterable[dict[str, Any]]:
    for item in choose.sample(shop.items, len(shop.items)):
        row = _item_row(item, shop, choose)
        yield row
        if choose.random() < DOUBLE_METADATA:
            yield row


def _item_row(item: Item, shop: Shop, choose: random.Random) -> dict[str, Any]:
    brand, category = item.maker, item.category
    noun = category.noun.lower()
    first, second = choose.sample(brand.style, 2)
    named = {
        "first": first.capitalize(),
        "look": first,
        "second": second,
        "variant": item.variant.lower(),
        "noun": noun,
        "brand": brand.name,
        "use": category.use,
        "series": SERIES[item.series],
    }
    paragraphs = [choose.choice(wordings).format(**named) for wordings in DESCRIPTION]
    title = html.escape(item.title)
    if choose.random() < LOST_TITLES:
        title = '<span class="a-size-medium a-color-secondary"'
    path = [MAIN_CATEGORIES[category.department], category.department, category.name]
    nearby = [other for name in category.successors for other in shop.cells[(item.half, item.brand, name)]]
    return {
        "category": [html.escape(name) for name in path],
        "tech1": "",
        "description": [f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs],
        "fit": "",
        "title": title,
        "also_buy": [other.asin for other in choose.sample(nearby, min(3, len(nearby)))],
        "tech2": "",
        "brand": html.escape(brand.name),
        "feature": [f"{item.variant} {noun}", f"{SERIES[item.series]} series"],
        "rank": [],
        "also_view": [],
        "details": {"ASIN: ": item.asin},
        "main_cat": path[0],
        "similar_item": "",
        "date": "",
        "price": f"${choose.randint(3, 60)}.{choose.choice(('00', '49', '95'))}",
        "asin": item.asin,
        "imageURL": [],
        "imageURLHighRes": [],
    }


def _distinct_ids(count: int, prefix: str, length: int, choose: random.Random) -> list[str]:
    """Ids in the look of the real dump; random, so that their order says nothing about what they stand for."""
    symbols = string.ascii_uppercase + string.digits
    ids: dict[str, None] = {}
    while len(ids) < count:
        ids[prefix + "".join(choose.choices(symbols, k=length))] = None
    return list(ids)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    # Neither name nor time in the gzip header: they would make two equal dumps differ.
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as stream:
        for row in rows:
            stream.write(json.dumps(row).encode() + b"\n")
