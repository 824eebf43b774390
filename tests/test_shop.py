"""A shop's two tables: columns are told in several languages, sizes fit, and a changed recipe is taken as it is."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
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


# What a column holds, by customer and order.
HOLDS: dict[str, Callable[[int, int], object]] = {
    "id": lambda user, _: f"u{user}",
    "shared": lambda user, _: "AB"[user % 2],
    "row": lambda user, order: f"s{user}-{order}",
    "day": lambda _, order: f"2021-03-{20 + order}",
    "later": lambda _, order: f"2021-04-{20 + order}",
    "constant": lambda user, _: f"1980-01-{20 + user}",
    "sku": lambda user, order: f"p{(user + order) % 8}",
    "name": lambda user, order: f"Tea pot {(user + order) % 8}",
    "number": lambda user, order: (user + order) % 8 + 1,
    "back": lambda user, order: 8 - (user + order) % 8,
    "ean": lambda user, order: 4_006_381_333_900 + (user + order) % 8,
}
ORDERS = [(user, order) for order in range(5) for user in range(6)]
PRODUCTS = [(number, 0) for number in range(8)]


def write_table(path: Path, head: str, rows: list[tuple[int, int]] = ORDERS) -> Path:
    """A name of ``head`` has behind it what its column holds."""
    columns = [column.rsplit(":", 1) for column in head.split(", ")]
    lines = [",".join(str(HOLDS[held](*row)) for _, held in columns) for row in rows]
    path.write_text("\n".join([",".join(name for name, _ in columns), *lines]), encoding="utf-8")
    return path


@pytest.mark.parametrize("back", [False, True], ids=["forth", "back"])
@pytest.mark.parametrize(
    ("head", "user", "time"),
    [
        ("customer_id:id, customer_city:shared, customer_state:shared, date:day, sku:sku", "customer_id", "date"),
        (
            "Customer ID:id, Customer Segment:shared, Order Date:day, Ship Date:later, sku:sku",
            "Customer ID",
            "Order Date",
        ),
        ("client_id:id, client_type:shared, client_since:constant, date:day, sku:sku", "client_id", "date"),
        (
            "kunde:id, kunde_ort:shared, Kundenname:shared, Kaufdatum:day, Lieferdatum:later, sku:sku",
            "kunde",
            "Kaufdatum",
        ),
        ("user_id:id, user_session:row, event_time:day, sku:sku", "user_id", "event_time"),
        ("customer_id:row, customer_unique_id:id, order_purchase_timestamp:day, sku:sku", "customer_unique_id", None),
        (
            "username:id, customer_name:shared, registration_date:constant, order_date:day, sku:sku",
            "username",
            "order_date",
        ),
        ("user:id, contract_date:constant, basket_date:day, sku:sku", "user", None),
        ("buyer:id, zahl:ean, moment:day, sku:sku", "buyer", None),
        ("会員名:shared, 会員番号:id, 登録日時:constant, 注文日時:day, sku:sku", "会員番号", "注文日時"),
        ("ville_client:shared, code_client:id, date_livraison:later, date_commande:day, sku:sku", "code_client", None),
    ],
)
def test_an_id_goes_before_a_city_and_an_order_before_its_delivery(
    tmp_path: Path, head: str, user: str, time: str | None, *, back: bool
) -> None:
    columns = head.split(", ")
    orders = write_table(tmp_path / "orders.csv", ", ".join(columns[::-1] if back else columns))
    look = look_at(orders, None, {})
    day = next(column.removesuffix(":day") for column in columns if column.endswith(":day"))
    assert (look.columns.user, look.columns.item, look.columns.time) == (user, "sku", time or day)
    assert "in doubt" not in "\n".join(look.lines())


def test_of_equal_columns_the_first_is_taken(tmp_path: Path) -> None:
    path = write_table(tmp_path / "orders.csv", "a_user:id, b_user:id, a_date:day, b_date:day, a_sku:sku, b_sku:sku")
    look = look_at(path, None, {}).columns
    assert (look.user, look.time, look.item) == ("a_user", "a_date", "a_sku")


def test_a_column_taken_in_doubt_is_shown_as_such(tmp_path: Path) -> None:
    orders = write_table(tmp_path / "orders.csv", "customer_name:shared, ship_date:day, product_name:sku")
    lines = [line for line in look_at(orders, None, {}).lines() if "in doubt" in line]
    assert [line.split()[:2] for line in lines] == [
        ["customer", "customer_name"],
        ["product", "product_name"],
        ["time", "ship_date"],
    ]
    assert lines[0].endswith("; in doubt, else: columns.user=COLUMN")
    said = look_at(orders, None, {"user": "customer_name", "item": "product_name", "time": "ship_date"})
    assert "in doubt" not in "\n".join(said.lines())


@pytest.mark.parametrize(
    ("orders", "products", "pair"),
    [
        ("product_id:number", "variant_id:back, id:number, title:name", "product_id id"),
        ("product_id:number", "variant_id:back, item_id:back, product_id:number", "product_id product_id"),
        ("code:number", "alpha:number, beta:back", "code alpha"),
        ("kunde:number, artikel:number", "titel:name, artikel:back", "artikel artikel"),
        ("product_name:name, product_id:number", "id:number, product_name:name", "product_id id"),
        ("order_id:number, strekkode:ean", "strekkode:ean, navn:name", "strekkode strekkode"),
    ],
)
def test_numbers_of_products_are_told_apart(tmp_path: Path, orders: str, products: str, pair: str) -> None:
    bought = write_table(tmp_path / "orders.csv", f"{orders}, user:id, kjøpt:day")
    found = look_at(bought, write_table(tmp_path / "products.csv", products, PRODUCTS), {}).columns
    assert f"{found.item} {found.item_id}" == pair


def test_names_go_before_numbers_of_brands_and_categories(tmp_path: Path) -> None:
    orders = write_table(tmp_path / "orders.csv", "user:id, date:day, sku:sku, comment_id:row")
    head = "sku:sku, category_id:number, category:number, category_name:shared, brand_id:number, brand_name:shared, "
    head += "product_name:name"
    columns = look_at(orders, write_table(tmp_path / "products.csv", head, PRODUCTS), {}).columns
    found = (columns.title, columns.brand, columns.categories, columns.text)
    assert found == ("product_name", "brand_name", "category_name", None)


@pytest.mark.parametrize(
    ("head", "row"),
    [(",{}", "7,{}"), ("{},", "{},"), ("{},", "{}"), ("{},,x", "{},7,8"), ("{},note,note", "{},a,b")],
)
def test_columns_that_are_not_needed_may_have_no_name_or_the_same(tmp_path: Path, head: str, row: str) -> None:
    plain = write_table(tmp_path / "plain.csv", "customer_id:id, date:day, sku:sku").read_text().splitlines()
    orders = tmp_path / "orders.csv"
    orders.write_text("\n".join([head.format(plain[0]), *map(row.format, plain[1:])]))
    look = look_at(orders, None, {})
    assert (look.columns.user, look.columns.time, look.columns.item) == ("customer_id", "date", "sku")
    assert measure_shop(look).customers == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Datum;Kunde\n1;M\xfcller\n", r"orders\.csv:2: not UTF-8 .*iconv -f WINDOWS-1252"),
        (
            "a,user,c\nA1,2,3\nA1,2,4\n",
            r"orders\.csv: which column is of times cannot be told from a, user, c; say columns\.time=",
        ),
        ("date,x,y\n2021-03-25,2,3\n", r"no column shares a value with"),
        ("date,product,y\n2021-03-25,A1,3\n", r"which column is of customers cannot be told from date, product, y"),
        ('{"user": 1}\n{"user": 2}\n', r"orders\.csv: JSON, where a table is needed"),
        ("date,user,sku,date\n2021-03-25,2,A1,3\n", r"orders\.csv:1: two columns are called 'date'"),
        (
            "date,product,customer_city,customer_state\n2021-03-25,A1,Ulm,BW\n",
            r"which column is of customers cannot be told from customer_city, customer_state; say columns\.user=",
        ),
        (
            "user,product,ship_date,date_of_birth\n2,A1,2021-03-25,1980-01-01\n",
            r"which column is of times cannot be told from ship_date, date_of_birth; say columns\.time=",
        ),
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
