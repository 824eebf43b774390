"""The whole way of a small shop: its two tables, ``gream shop``, a list for one customer; seconds, and accuracies.

    python scripts/bench/shop.py [--language german|chinese] [--folder runs/bench-shop]

300 customers, 1,700 products; semicolons, byte order mark, Windows line ends, ``dd.mm.yyyy``, e-mail addresses as
customer numbers, every fiftieth order without one. A customer keeps to three of forty kinds of things, mostly to one
brand, and likes what many like.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from pathlib import Path

CUSTOMERS, PRODUCTS = 300, 1_700


@dataclass(frozen=True)
class Language:
    """What a shop's tables are written in.

    Attributes:
        orders: Head of the orders.
        products: Head of the products.
        title: From brand, kind and look.
        kinds: Of things, by their parts: the first is the category.
        looks: Of which a thing has one.
        brands: Makers.
    """

    orders: str
    products: str
    title: str
    kinds: tuple[tuple[str, ...], tuple[str, ...]]
    looks: tuple[str, ...]
    brands: tuple[str, ...]


LANGUAGES = {
    "german": Language(
        "Bestellnummer;Kunde;Artikelnummer;Bestelldatum;Menge",
        "Artikelnummer;Bezeichnung;Warengruppe;Marke;Preis",
        "{brand} {kind}{part} {look}",
        (
            ("Tee", "Kaffee", "Milch", "Suppen", "Blumen", "Reise", "Wasser", "Kinder"),
            ("kanne", "tasse", "löffel", "dose", "schale"),
        ),
        ("rot", "blau", "grün", "weiß", "schwarz", "gestreift", "aus Glas", "aus Holz", "aus Stahl", "groß", "klein"),
        ("Nord", "Süd", "Ost", "West", "Müller", "Weiß & Söhne"),
    ),
    "chinese": Language(
        "订单号;客户;商品编号;下单时间;数量",
        "商品编号;商品名称;类别;品牌;价格",
        "{brand}{look}{kind}{part}",
        (("茶", "咖啡", "牛奶", "汤", "花", "旅行", "水", "儿童"), ("壶", "杯", "勺", "罐", "碗")),
        ("红色", "蓝色", "绿色", "白色", "黑色", "条纹", "玻璃", "木制", "不锈钢", "大号", "小号"),
        ("北方", "南山", "东风", "西湖", "小米", "白云"),
    ),
}


def generate(language: Language, folder: Path) -> tuple[Path, Path, str]:
    """Write both tables; also gives one of the customers."""
    draw = random.Random(42)
    kinds = list(product(*language.kinds))
    things: dict[int, list[tuple[str, str]]] = {}
    rows = []
    for number in range(PRODUCTS):
        at = number % len(kinds)
        brand, look = draw.choice(language.brands), draw.choice(language.looks)
        title = language.title.format(brand=brand, kind=kinds[at][0], part=kinds[at][1], look=look)
        key = f"A-{1000 + number}"
        things.setdefault(at, []).append((key, brand))
        rows.append(f"{key};{title};{kinds[at][0]}{kinds[at][1]};{brand};{draw.randrange(5, 90)},90")
    orders = []
    for customer in range(CUSTOMERS):
        liked, brand = draw.sample(range(len(kinds)), 3), draw.choice(language.brands)
        day = date(2021, 1, 1) + timedelta(draw.randrange(200))
        for step in range(draw.randrange(6, 21)):
            # One kind after the other, and of a kind one's own brand and what is bought often.
            of_kind = things[liked[step % 3]]
            own = [key for key, maker in of_kind if maker == brand] if draw.random() < 0.6 else []
            choice = own or [key for key, _ in of_kind]
            key = choice[int(draw.random() ** 3 * len(choice))]
            who = f"kunde{customer}@example.org" if draw.random() > 0.02 else ""
            orders.append(f"{9000 + len(orders)};{who};{key};{day:%d.%m.%Y};1")
            day += timedelta(draw.randrange(1, 40))
    draw.shuffle(orders)
    paths = folder / "orders.csv", folder / "products.csv"
    for path, head, lines in zip(paths, (language.orders, language.products), (orders, rows), strict=True):
        path.write_bytes("\ufeff".encode() + "\r\n".join([head, *lines, ""]).encode())
    return *paths, "kunde7@example.org"


def main() -> None:
    """Write the tables and run the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=list(LANGUAGES), default="german")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-shop"))
    options = parser.parse_args()
    folder = options.folder / options.language
    folder.mkdir(parents=True, exist_ok=True)
    orders, products, customer = generate(LANGUAGES[options.language], folder)
    run = folder / "run"
    gream = str(Path(sys.executable).with_name("gream"))
    for command in (
        [gream, "shop", str(orders), str(products), "--run", str(run)],
        [gream, "recommend", "--run", str(run), "--user", customer],
    ):
        start, used = time.monotonic(), os.times()
        status = subprocess.run(command, check=False).returncode
        seconds, now = time.monotonic() - start, os.times()
        cpu = now.children_user + now.children_system - used.children_user - used.children_system
        print(f"gream {command[1]}: exit status {status}, {seconds:.0f} s, {cpu:.0f} s of CPU", flush=True)
        if status:
            raise SystemExit(status)


if __name__ == "__main__":
    main()
