"""A shop's two tables: columns are told in several languages, sizes fit, and a changed recipe is taken as it is."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from gream.config import load_config
from gream.errors import GreamError
from hypothesis import given
from hypothesis import strategies as st

from data_processing.config import DataRecipe
from data_processing.interactions import build_interactions
from data_processing.shop.fit import codes_for, measure_shop, shared_ids, write_recipe
from data_processing.shop.look import look_at

GERMAN = ("Bestellnummer;Kunde;Artikelnummer;Bestelldatum;Menge", "Artikelnummer;Bezeichnung;Warengruppe;Marke;Preis")
CHINESE = ("订单号;客户;商品编号;下单时间;数量", "商品编号;商品名称;类别;品牌;价格")


def make_shop(
    folder: Path, heads: tuple[str, str], day: str = "{d:02d}.{m:02d}.{y}", *, dump: str = "\r\n"
) -> list[Path]:
    """300 customers, 1,700 products, some orders without customer; semicolons, byte order mark, Windows lines."""
    draw = random.Random(7)
    products = [f"A-{1000 + n};品名 {n} Kanne {n % 13};Gruppe {n % 10};Marke {n % 4};{n % 90},90" for n in range(1700)]
    orders = []
    for user in range(300):
        moment = 0
        for _ in range(draw.randrange(5, 12)):
            moment += draw.randrange(1, 30)
            date = day.format(d=moment % 28 + 1, m=moment // 28 % 12 + 1, y=2021 + moment // 336)
            who = "" if draw.random() < 0.02 else f"kunde{user}@example.org"
            orders.append(f"{9000 + len(orders)};{who};A-{1000 + int(draw.expovariate(1 / 60)) % 1700};{date};1")
    paths = [folder / "orders.csv", folder / "products.csv"]
    for path, head, rows in zip(paths, heads, (orders, products), strict=True):
        path.write_bytes("\ufeff".encode() + dump.join([head, *rows, ""]).encode())
    return paths


@pytest.mark.parametrize("heads", [GERMAN, CHINESE], ids=["german", "chinese"])
def test_two_tables_become_a_recipe_and_sequences(tmp_path: Path, heads: tuple[str, str]) -> None:
    orders, products = make_shop(tmp_path, heads)
    look = look_at(orders, products, {})
    names = [part for head in heads for part in head.split(";")]
    columns = look.columns
    assert [columns.user, columns.item, columns.time] == names[1:4]
    assert [columns.item_id, columns.title, columns.categories, columns.brand] == names[5:9]
    assert columns.delimiter == ";" and look.orders.kind == "CSV with ';'"
    assert any("kunde0@example.org" in line for line in look.lines())
    sizes = measure_shop(look)
    assert sizes.customers == 300 and sizes.kept_customers >= 240
    assert 20 < sizes.unusable["without a user"] < 90 and sizes.first.year == 2021
    recipe = tmp_path / "run" / "recipe.yaml"
    write_recipe(recipe, look, sizes)
    config = load_config(DataRecipe, recipe)
    assert (config.interactions.core, config.interactions.item_core) == (sizes.core, sizes.item_core)
    out = tmp_path / "out"
    out.mkdir()
    build_interactions(config.interactions, orders, products, out)
    users = pl.read_parquet(out / "users.parquet", glob=False)
    assert len(users) == sizes.kept_customers
    assert len(pl.read_parquet(out / "items.parquet", glob=False)) == sizes.kept_products


def test_a_date_that_can_be_read_two_ways_is_asked_about(tmp_path: Path) -> None:
    orders, products = make_shop(tmp_path, GERMAN, day="{m:02d}/{m:02d}/{y}")
    lines = orders.read_text(encoding="utf-8-sig").splitlines()
    few = [line.replace("01/01", "03/04") for line in lines]
    orders.write_text("\n".join(few), encoding="utf-8")
    look = look_at(orders, products, {})
    with pytest.raises(GreamError, match=r"can be read two ways.*time_format=%d/%m/%Y.*time_format=%m/%d/%Y"):
        measure_shop(look)
    sizes = measure_shop(look_at(orders, products, {"time_format": "%m/%d/%Y"}))
    assert sizes.customers == 300


def test_orders_alone_name_their_products(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    draw = random.Random(0)
    rows = [
        (f"u{draw.randrange(60)}", f"p{draw.randrange(40)}", 1_600_000_000_000 + n * 1000, "Tea") for n in range(900)
    ]
    pl.DataFrame(rows, schema=["customerId", "product_id", "ts", "product_title"], orient="row").write_parquet(path)
    look = look_at(path, None, {"time": "ts"})
    columns = look.columns
    assert (columns.user, columns.item, columns.item_id, columns.title) == (
        "customerId",
        "product_id",
        "product_id",
        "product_title",
    )
    assert measure_shop(look).kept_products == 40


def test_a_title_is_what_speaks_of_a_product_whatever_its_column_is_called(tmp_path: Path) -> None:
    draw = random.Random(1)
    orders, products = tmp_path / "orders.csv", tmp_path / "products.csv"
    bought = [(draw.randrange(30), draw.randrange(20), f"2021-03-{draw.randrange(1, 29)}") for _ in range(300)]
    # The order's own number, under a name that titles have, and a quantity that looks like a product's number.
    rows = [
        f"#{n},c{user}@x.org,{n % 9},{item},White mug no. {item},{day}" for n, (user, item, day) in enumerate(bought)
    ]
    orders.write_text("\n".join(["Name,Email,Quantity,StockCode,Description,Date", *rows]))
    alone = look_at(orders, None, {}).columns
    assert (alone.item, alone.title, alone.description) == ("StockCode", "Description", None)
    described = [f"{n},http://x/{n},茶壶{n}号,壶" for n in range(5000)]
    products.write_text("\n".join(["id,link,什么,kind", *described]), encoding="utf-8")
    both = look_at(orders, products, {}).columns
    assert (both.item, both.item_id, both.title) == ("StockCode", "id", "什么")
    products.write_text("id,price\n" + "\n".join(f"{n},{n}.5" for n in range(40)))
    ids = look_at(orders, products, {})
    assert ids.columns.title == "id"
    assert "  title        none, ids in their place: columns.title=COLUMN" in ids.lines()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Datum;Kunde\n1;M\xfcller\n", r"orders\.csv:2: not UTF-8 .*iconv -f WINDOWS-1252"),
        (
            "a,b,c\n1,2,3\n1,2,4\n",
            r"orders\.csv: which column is of times cannot be told from a, b, c; say columns\.time=",
        ),
        ("date,x,y\n2021-03-25,2,3\n", r"no column shares a value with"),
        ("date,product,y\n2021-03-25,A1,3\n", r"which column is of customers cannot be told from date, product, y"),
        ('{"user": 1}\n{"user": 2}\n', r"orders\.csv: JSON, where a table is needed"),
        ("date,date\n1,2\n", r"orders\.csv:1: columns need a name each"),
        ("one\n2\n", r"no table of two columns"),
    ],
)
def test_what_cannot_be_told_is_asked_for_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    orders, products = tmp_path / "orders.csv", tmp_path / "products.csv"
    orders.write_text(content, encoding="latin-1")
    products.write_text("sku,title\nA1,Tea\nA2,Cup\n")
    with pytest.raises(GreamError, match=message) as caught:
        look_at(orders, products, {})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@given(items=st.integers(1, 3_000_000))
def test_ids_are_many_times_the_items_and_no_more_than_needed(items: int) -> None:
    levels, size = codes_for(items)
    assert size**levels >= 16 * items and shared_ids(items, levels, size) <= 1 - 2.718**-0.0626
    if size > 8 and levels == 3:
        assert (size // 2) ** 3 < 16 * items


def test_the_command_shows_its_guess_and_takes_a_changed_recipe_as_it_is(tmp_path: Path) -> None:
    orders, products = make_shop(tmp_path, GERMAN)
    run = tmp_path / "run"

    def shop(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "data_processing.shop", str(orders), str(products), *more]
        return subprocess.run([*command, "--run", str(run), "--look"], capture_output=True, text=True, check=False)

    first = shop()
    assert first.returncode == 0, first.stderr
    assert "customer     Kunde                e.g. kunde0@example.org" in first.stdout
    assert first.stdout.endswith(f"then: gream shop {orders} {products} --run {run}\n")
    recipe = run / "recipe.yaml"
    changed = yaml.safe_load(recipe.read_text(encoding="utf-8")) | {"seed": 7}
    recipe.write_text(yaml.safe_dump(changed), encoding="utf-8")
    before = recipe.read_bytes()
    assert "as it is" in shop().stdout and recipe.read_bytes() == before
    refused = shop("columns.user=Kunde")
    assert refused.returncode == 2 and "delete it to look at the tables again" in refused.stderr
