"""What columns of shops are called: words of their names, by what they hold."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Role = Literal["user", "item", "time", "text", "title", "description", "brand", "categories"]

# Words of column names, likeliest first; a name is taken apart at what is no letter, and where a capital begins.
_WORDS: dict[Role, str] = {
    "user": """user customer kunde kunden client cliente klient klant kund kunder buyer member
        account shopper visitor reviewer email mail uid käufer acheteur utilisateur usuario utente
        müşteri asiakas zákazník vásárló πελάτης клиент покупатель пользователь العميل عميل الزبون
        pelanggan 用户 客户 顾客 会员 买家 顧客 会員 購入者 고객 회원""",
    "item": """item product products article artikel stockcode sku asin ean isbn produkt produit
        producto produto prodotto articulo artículo articolo artigo towar ürün tuote zboží termék
        goods stock movie book товар артикул المنتج منتج produk 商品 产品 货号 商品番号 상품 제품""",
    "time": """time timestamp date datetime day created ordered purchased bought when zeit datum
        zeitpunkt bestelldatum fecha data tarih tarihi päivä dátum дата время التاريخ تاريخ tanggal
        时间 日期 日時 日付 날짜 시간 일자 일시""",
    "text": """review comment text rezension kommentar bewertung avis reseña recensione отзыв 评论 评价
        レビュー 리뷰""",
    "title": """title name label titel bezeichnung produktname nom nombre titulo título titolo nome
        nazwa naam omschrijving désignation designation libellé denominación denominazione
        benämning betegnelse adı nimi název név название наименование اسم العنوان nama 标题
        名称 品名 商品名 タイトル 이름 제목 상품명 품명 제품명""",  # noqa: RUF001 - Turkish
    "description": """description desc details body content excerpt summary beschreibung text
        descripcion descripción descrição descrizione opis beskrivning açıklama kuvaus popis leírás
        описание الوصف deskripsi 描述 简介 详情 説明 설명""",  # noqa: RUF001 - Turkish
    "brand": """brand manufacturer maker vendor marke hersteller marque marca merk fabricante
        producent marka varumärke merkki značka márka бренд производитель العلامة الماركة merek
        品牌 厂商 ブランド メーカー 브랜드""",
    "categories": """category categories cat department genre genres group kategorie kategorien
        warengruppe categorie catégorie categoria categoría kategoria kategori luokka kategória
        rayon категория الفئة فئة القسم 类别 分类 类目 カテゴリ 카테고리 분류""",
}
_BY_WORD = {role: {word: at for at, word in enumerate(words.split())} for role, words in _WORDS.items()}
# What is no name of a thing: "product price" is no product.
_OTHER = {"price", "preis", "prix", "precio", "prezzo", "amount", "quantity", "menge", "qty", "total", "count"}
_OTHER |= {"rating", "stars", "score", "url", "image", "anzahl", "cantidad", "quantité", "quantità", "quantidade"}
_OTHER |= {"aantal", "ilość", "adet", "antal", "количество", "цена", "数量", "价格", "価格", "수량", "가격"}


def name_fits(role: Role, name: str) -> float:
    """How well a column's name says that it holds ``role``: 0 not at all, at most 1."""
    words = _words_of(name)
    if not words or set(words) & _OTHER:
        return 0.0
    known = _BY_WORD[role]
    best = 0.0
    for word in words:
        at = known.get(word)
        if at is None:  # compounds, and languages without spaces
            parts = [known[part] for part in known if len(part) >= (4 if part.isascii() else 2) and part in word]
            best = max(best, 0.5 - min(parts) / 200 if parts else 0.0)
        else:
            best = max(best, 1 - at / 100)
    return best / (1 + 0.05 * (len(words) - 1))


def is_amount(name: str) -> bool:
    """Whether a column's name says that it holds a price, a number of pieces or the like."""
    return bool(set(_words_of(name)) & _OTHER)


def _words_of(name: str) -> list[str]:
    name = unicodedata.normalize("NFC", name)
    starts = {0} | {at for at in range(1, len(name)) if name[at].isupper() and name[at - 1].islower()}
    spaced = "".join(" " * (at in starts) + letter for at, letter in enumerate(name))
    return re.findall(r"[^\W\d_]+", spaced.lower())
