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
        pelanggan username benutzername 用户 客户 顾客 会员 买家 用户名 顧客 会員 購入者 고객 회원""",
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


# What tells one from another, or orders one thing before another: words of names that are most surely meant.
_IDS = """id uid uuid guid nr no num number nummer numer numero número numéro code cod codigo código codice kod kode
    kodu key email mail hash sku ean barcode nomor номер код идентификатор رقم κωδικός
    编号 编码 番号 コード 번호 코드"""
_SURE: dict[Role, str] = {
    "user": _IDS,
    "item": _IDS,
    "time": """order purchase bought created placed bestell kauf auftrag commande achat créé créée pedido compra creado
        orden ordine ordinato acquisto creato encomenda zamówien zakup utworzon aankoop beställ köpt kjøp købt
        sipariş tilaus ostopäivä objedn nákup rendel vásárl παραγγελ αγορά заказ покупк создан طلب شراء pesan
        pembelian 下单 订单 购买 创建 注文 購入 주문 구매""",
}
# Words of names of something else: where a customer lives, when a parcel left, the number of a brand.
_DOUBTFUL: dict[Role, str] = {
    "user": """city town state country region province county district zip postal postcode plz street address location
        area type kind segment gruppe tier class level status rank session agent device browser ip language locale
        gender sex age since birth seller supplier ort stadt land postleit straße adresse typ sprache geschlecht alter
        seit verkäufer lieferant ville pays région prénom sexe langue ciudad país provincia dirección apellido tipo
        sexo edad città paese indirizzo cognome cidade estado endereço miasto kraj adres imię nazwisko stad geslacht
        şehir ülke soyad kaupunki město země jméno příjmení város ország πόλη χώρα όνομα город страна регион область
        адрес имя фамилия фио возраст тип статус مدينة دولة عنوان kota negara alamat jenis 城市 省份 国家 地区 地址
        姓名 昵称 类型 等级 级别 性别 年龄 都道府県 住所 氏名 種別 性別 年齢 名 도시 지역 국가 주소 유형 등급
        성별 나이 명""",
    "time": """birth born dob regist signup joined since ship dispatch deliver arriv updat modif change valid expir end
        due estimated return cancel fulfil last login geburt anmeld liefer versand änder aktualis gültig naissance
        inscription livraison expédition nacimiento envío envio entrega actualiz caduc nascita spedizione consegna
        aggiorn scadenza nascimento cadastro atualiz urodz rejestr wysył dostaw geboorte verzend lever wijzig födels
        uppdater fødsel doğum kayıt teslim kargo güncel syntym rekister toimit narozen doruč születés szállít рожд
        достав отправ обновл измен γέννησ εγγραφ παράδοσ ميلاد تسجيل تسليم شحن تحديث lahir daftar kirim 生日 出生 注册
        发货 送达 配送 收货 更新 修改 有效 截止 誕生 登録 発送 出荷 配達 생일 생년 가입 등록 배송 발송 수정""",  # noqa: RUF001 - Turkish
    **dict.fromkeys(("text", "title", "description", "brand", "categories"), _IDS),
}
# Roles whose words say the same: "customer name" is a name, and many may share it.
_DOUBTFUL_ROLES: dict[Role, tuple[Role, ...]] = {
    "user": ("title", "categories", "time"),
    "item": ("title", "description", "brand", "categories", "time"),
    "title": ("user", "brand", "categories"),
}


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
            parts = [known[part] for part in known if _is_long(part) and part in word]
            best = max(best, 0.5 - min(parts) / 200 if parts else 0.0)
        else:
            best = max(best, 1 - at / 100)
    return best / (1 + 0.05 * (len(words) - 1))


def is_sure(role: Role, name: str) -> bool:
    """Whether a column's name, which fits ``role``, says that it surely is the one: "customer id", "order date"."""
    return _holds(role, _words_of(name), _SURE.get(role, ""))


def is_doubtful(role: Role, name: str) -> bool:
    """Whether a column's name, which fits ``role``, says that it holds something else: "customer city"."""
    # "username" is a word for a user, whatever it ends in.
    words = [word for word in _words_of(name) if word not in _BY_WORD[role]]
    others = _DOUBTFUL_ROLES.get(role, ())
    return _holds(role, words, _DOUBTFUL.get(role, "")) or any(name_fits(other, " ".join(words)) for other in others)


def same_name(one: str, other: str) -> bool:
    """Whether two names have the same words: "ProductID" and "product_id"."""
    return _words_of(one) == _words_of(other)


def is_amount(name: str) -> bool:
    """Whether a column's name says that it holds a price, a number of pieces or the like."""
    return bool(set(_words_of(name)) & _OTHER)


def _holds(role: Role, words: list[str], parts: str) -> bool:
    """Whether one of ``parts`` is a word, a long part of one, or makes one with a word of the role: "kundenort"."""
    known = _BY_WORD[role]
    return any(
        word == part
        or (_is_long(part) and part in word)
        or (word.endswith(part) and word.removesuffix(part) in known)
        or (word.startswith(part) and word.removeprefix(part) in known)
        for word in words
        for part in parts.split()
    )


def _is_long(part: str) -> bool:
    """Whether a part of a word is hardly there by chance."""
    return len(part) >= (4 if part.isascii() else 2)


def _words_of(name: str) -> list[str]:
    name = unicodedata.normalize("NFC", name)
    starts = {0} | {at for at in range(1, len(name)) if name[at].isupper() and name[at - 1].islower()}
    spaced = "".join(" " * (at in starts) + letter for at, letter in enumerate(name))
    return re.findall(r"[^\W\d_]+", spaced.lower())
