"""The invented shop: its dump looks like a real one, survives the filters, and holds what was planted."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from gream.config import parse_config
from gream.errors import GreamError

from data_processing.interactions import InteractionsConfig, build_interactions
from data_processing.invented import BRANDS, HALVES
from data_processing.synthesize import (
    FIRST_SUCCESSOR,
    NEXT_SERIES,
    SECOND_SUCCESSOR,
    SISTER_BRAND,
    SynthesizeConfig,
    build_shop,
    synthesize,
    walk,
)

SMALL = SynthesizeConfig(users=60, items=80)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the default dump and its interactions."""
    folder = tmp_path_factory.mktemp("run")
    synthesize(SynthesizeConfig(), folder)
    build_interactions(
        InteractionsConfig(), folder / "raw" / "reviews.json.gz", folder / "raw" / "meta.json.gz", folder
    )
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_same_configuration_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name, config in (("a", SMALL), ("b", SMALL), ("c", SMALL.model_copy(update={"seed": 1}))):
        (tmp_path / name).mkdir()
        synthesize(config, tmp_path / name)
        contents.append([(tmp_path / name / "raw" / f).read_bytes() for f in ("reviews.json.gz", "meta.json.gz")])
    assert contents[0] == contents[1]
    assert contents[0][0] != contents[2][0]
    assert contents[0][1] != contents[2][1]


def test_the_dump_has_the_fields_of_the_real_one(run: Path, real_data: Path) -> None:
    real = real_data / "raw_amazon2018"
    for ours, theirs in (("reviews", "Gift_Cards_5"), ("meta", "meta_Gift_Cards")):
        types: dict[str, set[type]] = {}
        for row in rows(real / f"{theirs}.json.gz"):
            for name, value in row.items():
                types.setdefault(name, set()).add(type(value))
        for row in rows(run / "raw" / f"{ours}.json.gz"):
            assert {name: type(value) in types[name] for name, value in row.items()} == dict.fromkeys(row, True)
            always = {"reviewerID", "asin", "unixReviewTime", "overall"} if ours == "reviews" else set(types)
            assert always <= set(row)


def test_dates_are_written_as_in_the_dump(run: Path) -> None:
    for row in rows(run / "raw" / "reviews.json.gz")[:200]:
        month, day, year = row["reviewTime"].replace(",", "").split()
        date = np.datetime64(row["unixReviewTime"], "s")
        assert str(date) == f"{year}-{month}-{int(day):02d}T00:00:00"
        assert (len(month), day[0] != "0") == (2, True)


def test_every_filter_has_something_to_do(run: Path) -> None:
    statistics = json.loads((run / "statistics.json").read_text())
    filters = statistics["filters"]
    assert filters["raw"]["users"] == 800
    assert filters["removed_without_metadata"]["items"] == 16
    assert filters["removed_repetitions"]["interactions"] > 0
    assert filters["removed_by_core"]["users"] >= 24
    assert statistics["titles_replaced"] > 0
    assert statistics["users"] >= 720
    assert statistics["items"] >= 620
    lengths = {int(length) for length in statistics["sequence_lengths"]}
    assert (min(lengths), max(lengths)) == (5, 20)
    assert 8 < statistics["mean_sequence_length"] < 10
    assert statistics["training_reviews_with_text"] > 0.95 * (statistics["interactions"] - 2 * statistics["users"])
    raw = gzip.decompress((run / "raw" / "reviews.json.gz").read_bytes()).decode()
    assert "&#34;" in raw
    assert "<br />" in raw
    interactions = pl.read_parquet(run / "interactions.parquet")
    ties = interactions.group_by("user", "timestamp").len().filter(pl.col("len") > 1)
    assert 0.05 < len(ties) / len(interactions) < 0.15
    asins = [row["asin"] for row in rows(run / "raw" / "meta.json.gz")]
    assert len(asins) > len(set(asins)) == 800


def test_items_say_what_they_are(run: Path) -> None:
    brands = {brand.name for half in BRANDS for brand in half}
    nouns = {category.name: category.noun for half in HALVES for category in half}
    for row in pl.read_parquet(run / "items.parquet").iter_rows(named=True):
        assert row["brand"] in brands
        assert row["categories"][-1] in nouns
        assert row["brand"] in row["title"]
        assert nouns[row["categories"][-1]] in row["title"] or row["title"].startswith(row["categories"][-1])
        assert 40 < len(row["description"]) < 250


@pytest.mark.parametrize("items", [64, 98, 100, 400, 3000])
def test_the_shop_is_stocked(items: int) -> None:
    shop = build_shop(SynthesizeConfig(items=items))
    assert len({item.title for item in shop.items}) == len({item.asin for item in shop.items}) == items
    assert len(shop.cells) == 16 * shop.brands
    assert min(map(len, shop.cells.values())) >= 2


def test_the_map_of_categories_is_closed() -> None:
    for half, other in (HALVES, HALVES[::-1]):
        names = {category.name for category in half}
        assert len(names) == 8
        counterparts = {category.counterpart for category in half}
        assert counterparts == {category.name for category in other}
        for category in half:
            assert set(category.successors) < names - {category.name}
            assert len(set(category.variants)) == 8
        # Following the likelier successor leads through all categories.
        after = {category.name: category.successors[0] for category in half}
        name, seen = half[0].name, set()
        while name not in seen:
            seen.add(name)
            name = after[name]
        assert seen == names


def test_the_walk_keeps_to_its_probabilities() -> None:
    """Long walks through a large shop, where no brand and category runs out of items."""
    config = SynthesizeConfig(items=3000)
    shop = build_shop(config)
    choose = random.Random(0)
    walks = [walk(config, shop, 15, choose) for _ in range(1500)]
    aside = [purchase.aside for steps in walks for purchase in steps[1:]]
    assert abs(np.mean(aside) - config.noise) < 0.01
    # A user's first item is by the favourite brand, which those who leave a brand for no sister return to.
    steps = [
        (purchase.before, purchase.item, purchases[0].item.maker)
        for purchases in walks
        for purchase in purchases
        if not purchase.aside and purchase.before is not None
    ]
    home = np.mean([before.maker == favourite for before, _, favourite in steps])
    returns = (1 - config.loyalty) * (1 - SISTER_BRAND)
    kept = [before.maker == item.maker for before, item, _ in steps]
    assert abs(np.mean(kept) - config.loyalty - returns * home) < 0.015
    for rank, share in enumerate((FIRST_SUCCESSOR, SECOND_SUCCESSOR)):
        rest = config.loyalty * (1 - FIRST_SUCCESSOR - SECOND_SUCCESSOR) / 8 + returns * home / 8
        followed = [
            same and item.category.name == before.category.successors[rank]
            for same, (before, item, _) in zip(kept, steps, strict=True)
        ]
        assert abs(np.mean(followed) - config.loyalty * share - rest) < 0.015
    crossed = [
        item.half != before.half and item.category.name == before.category.counterpart for before, item, _ in steps
    ]
    away = np.mean([favourite not in BRANDS[before.half] for before, _, favourite in steps])
    expected = (1 - config.loyalty) * SISTER_BRAND + returns * away / 8
    assert abs(np.mean(crossed) - expected) < 0.015
    up = [item.series == (before.series + 1) % 6 for before, item, _ in steps]
    assert abs(np.mean(up) - NEXT_SERIES - (1 - NEXT_SERIES) / 6) < 0.05


def test_without_noise_and_with_full_loyalty_a_user_keeps_one_brand() -> None:
    config = SynthesizeConfig(noise=0.0, loyalty=1.0)
    shop = build_shop(config)
    for seed in range(30):
        purchases = walk(config, shop, 20, random.Random(seed))
        assert len({purchase.item.number for purchase in purchases}) == 20
        assert len({purchase.item.maker for purchase in purchases}) == 1
        assert not any(purchase.aside for purchase in purchases)


def test_text_tells_more_than_popularity_and_cooccurrence(run: Path) -> None:
    """Recall@10 on test items, full catalogue, history left out: a learner from item text has room above both."""
    interactions = pl.read_parquet(run / "interactions.parquet")
    items = pl.read_parquet(run / "items.parquet")
    sequences = interactions.group_by("user", maintain_order=True).agg("item")["item"].to_list()
    train = [sequence[:-2] for sequence in sequences]
    count = np.bincount(np.concatenate(train), minlength=len(items)).astype(float)

    bought = np.zeros((len(train), len(items)))
    for user, sequence in enumerate(train):
        bought[user, sequence] = 1
    together = bought.T @ bought
    np.fill_diagonal(together, 0)
    cosine = together / np.sqrt(np.maximum(np.outer(count, count), 1))

    half_of = {brand.name: number for number, half in enumerate(BRANDS) for brand in half}
    brand_of = {brand.name: number for half in BRANDS for number, brand in enumerate(half)}
    categories = {category.name: category for half in HALVES for category in half}
    brand, category = items["brand"].to_list(), [path[-1] for path in items["categories"]]

    loyalty = SynthesizeConfig().loyalty

    def planted(last: int) -> np.ndarray[Any, Any]:
        own = categories[category[last]]
        sister = BRANDS[1 - half_of[brand[last]]][(brand_of[brand[last]] + half_of[brand[last]]) % 6].name
        weight = {
            (brand[last], own.successors[0]): loyalty * FIRST_SUCCESSOR,
            (brand[last], own.successors[1]): loyalty * SECOND_SUCCESSOR,
            (sister, own.counterpart): (1 - loyalty) * SISTER_BRAND,
        }
        scores = [weight.get(cell, 0.0) for cell in zip(brand, category, strict=True)]
        return np.array(scores) * (1 + count / count.max())

    hits = np.zeros(3)
    for sequence in sequences:
        history, target = sequence[:-1], sequence[-1]
        for model, scores in enumerate((count.copy(), cosine[history].sum(0), planted(history[-1]))):
            scores[history] = -1
            hits[model] += (scores > scores[target]).sum() < 10 and scores[target] > 0
    popularity, cooccurrence, oracle = hits / len(sequences)
    assert 0.03 < popularity < 0.1
    assert 0.12 < cooccurrence < 0.23
    assert oracle > 0.5


@pytest.mark.parametrize("wrong", [{"items": 10}, {"users": 3}, {"noise": 1.0}, {"loyalty": 1.5}, {"item": 400}])
def test_impossible_shops_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(GreamError, match=r"recipe\.yaml: (key|unknown key) '" + next(iter(wrong))):
        parse_config(SynthesizeConfig, wrong, source="recipe.yaml")
