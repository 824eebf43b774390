"""What columns of shops are called: words of their names, by what they hold."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Role = Literal["user", "item", "time", "text", "title", "description", "brand", "categories"]

# Words of column names, likeliest first; a name is taken apart at what is no letter, and where a capital begins.
_WORDS: dict[Role, str] = {
    "user": """user customer kunde kunden client cliente klant buyer member account shopper visitor reviewer email mail
        uid käufer acheteur utilisateur usuario utente клиент покупатель пользователь
        用户 客户 顾客 会员 买家 顧客 会員 購入者 고객 회원""",
    "item": """item product products article artikel sku asin ean isbn produkt produit producto prodotto articulo
        artículo articolo goods movie book товар артикул 商品 产品 货号 商品番号 상품 제품""",
    "time": """time timestamp date datetime day created ordered purchased bought when zeit datum zeitpunkt bestelldatum
        fecha data дата время 时间 日期 日時 日付 날짜 시간""",
    "text": """review comment text rezension kommentar bewertung avis reseña recensione отзыв
        评论 评价 レビュー 리뷰""",
    "title": """title name label titel bezeichnung produktname nom nombre titulo título titolo nome название
        наименование 标题 名称 品名 商品名 タイトル 이름 제목""",
    "description": """description desc details beschreibung text descripcion descripción descrizione описание
        描述 简介 详情 説明 설명""",
    "brand": """brand manufacturer maker vendor marke hersteller marque marca fabricante бренд производитель
        品牌 厂商 ブランド メーカー 브랜드""",
    "categories": """category categories cat department genre genres group kategorie kategorien warengruppe categorie
        catégorie categoria categoría rayon категория 类别 分类 类目 カテゴリ 카테고리""",
}
_BY_WORD = {role: {word: at for at, word in enumerate(words.split())} for role, words in _WORDS.items()}
# What is no name of a thing: "product price" is no product.
_OTHER = {"price", "preis", "prix", "precio", "prezzo", "amount", "quantity", "menge", "qty", "total", "count"}
_OTHER |= {"rating", "stars", "score", "url", "image"}


def name_fits(role: Role, name: str) -> float:
    """How well a column's name says that it holds ``role``: 0 not at all, at most 1."""
    name = unicodedata.normalize("NFC", name)
    starts = {0} | {at for at in range(1, len(name)) if name[at].isupper() and name[at - 1].islower()}
    spaced = "".join(" " * (at in starts) + letter for at, letter in enumerate(name))
    words = re.findall(r"[^\W\d_]+", spaced.lower())
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
