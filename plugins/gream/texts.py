"""Plain text: nothing in it can become a control or id token, and nothing in it is invisible.

Texts of catalogues, users and teachers go through `plain_text` where they enter, and `control_token` looks at them
once more before they become rows and prompts. Both know how control tokens are spelt in general, since the tokenizer
of a run is chosen after its texts are read: ``<|...|>`` as in ChatML, tags such as ``<think>`` and ``<tool_call>``,
semantic ids in both published spellings, and bracketed capitals such as ``[INST]``.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from enum import StrEnum

from gream.errors import GreamError
from gream.semantic_ids.vocabulary import TOKEN_PATTERN


class Change(StrEnum):
    """What `plain_text` takes away."""

    chat = "chat markers"
    semantic_id = "semantic ids"
    tag = "reasoning and tool tags"
    unseen = "invisible characters"


_BRACKETED = r"\[/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_\w+|THINK|PAD|CLS|SEP|MASK|UNK|BOS|EOS)\]"
# A tag without attributes may be a token of some vocabulary, whatever its name.
_TOKEN = re.compile(rf"<\|[^<>|]*\|>|</?[A-Za-z_][\w.:/-]*>|{_BRACKETED}")
# Of tags, those that are no HTML: its elements have no underscore in their names.
_CONTROL_TAG = re.compile(
    r"</?(?:think|thinking|thought|reasoning|reflection|answer|tool|tools|function|s|unk|pad|bos|eos|cls|sep|mask"
    r"|unused\d+|\w*_\w*)/?>",
    re.IGNORECASE,
)
# What every token above begins with, and every character that NFKC makes one of; most texts hold none.
_OPENING = re.compile("[\uff1c\ufe64\uff3b\ufe47]")
# No character before these needs a closer look.
_BEYOND_LATIN = re.compile("[\u034f-\U0010ffff]")
_HALF_MARKER = re.compile(r"<(?=\|)|(?<=\|)>")

# Letters of scripts in which a (non-)joiner between two of them changes what is seen: Arabic to Syriac and Thaana,
# the Indic scripts, Myanmar, Khmer, Mongolian and their presentation forms.
_JOINING = "\u0600-\u0dff\u1000-\u109f\u1780-\u17b3\u17b6-\u17ff\u1810-\u18af\ua8e0-\ua8ff\ufb50-\ufdff\ufe70-\ufefc"
# Signs and pictures, of which emoji are a part; skin tones are among them.
_PICTURE = (
    "\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2900-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Characters that show nothing where they stand: joiners and variation selectors outside the places where they matter.
_UNSEEN = re.compile(
    rf"(?<![{_JOINING}])\u200c|\u200c(?![{_JOINING}])"
    rf"|(?<![{_JOINING}{_PICTURE}\ufe0f])\u200d|\u200d(?![{_JOINING}{_PICTURE}])"
    rf"|(?<![{_PICTURE}0-9#*\u00a9\u00ae])[\ufe0e\ufe0f]|(?<=[0-9#*])[\ufe0e\ufe0f](?!\u20e3)|[\ufe00-\ufe0d]"
    rf"|(?<![{_HAN}])[\U000e0100-\U000e01ef]|(?<![\u1820-\u18aa])[\u180b-\u180d\u180f]"
    r"|[\u034f\u17b4\u17b5]"
)
# Blank signs that are no white space by name.
_BLANK = re.compile("[\u115f\u1160\u2800\u3164\uffa0]")
# Whatever of these is printable by Python's account.
_SUSPECT = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Of category Cf, but seen: Arabic and other signs that stand below the digits after them.
_SEEN = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")


def plain_text(text: str, changes: Counter[Change] | None = None) -> str:
    """``text`` in one line without control tokens and invisible characters; plain text stays as it is.

    Tokens are taken out, also where they are spelt in full-width letters or with invisible characters inside; of half
    a token the parts are set apart, and brackets around capitals become parentheses. Entities are left as they are.

    Args:
        text: Any text.
        changes: Told how many tokens and characters of each kind were taken away.
    """
    while True:
        text = before = " ".join(_without_unseen(text, changes).split())
        if not _may_open(text) and "|>" not in text:
            return text
        if control_token(text) and not _TOKEN.search(text):
            text = unicodedata.normalize("NFKC", text)
        text = _TOKEN.sub(lambda match: _replaced(match[0], changes), text)
        text = _HALF_MARKER.sub(lambda match: "< " if match[0] == "<" else " >", text)
        if text == before:
            return text


def control_token(text: str) -> str | None:
    """The first control or id token in ``text``, as a tokenizer may read it; None where there is none."""
    if not _may_open(text):
        return None
    match = _TOKEN.search(text) or (None if text.isascii() else _TOKEN.search(unicodedata.normalize("NFKC", text)))
    return match[0] if match else None


def _may_open(text: str) -> bool:
    return "<" in text or "[" in text or not (_is_latin(text) or _OPENING.search(text) is None)


def _is_latin(text: str) -> bool:
    return text.isascii() or not _BEYOND_LATIN.search(text)


def refuse_tokens(text: str, place: str) -> None:
    """Hold up a text that should be plain, before it is shown to a model.

    Args:
        text: What `plain_text` has made, or should have.
        place: Where it stands, for the error.

    Raises:
        GreamError: It holds a control or id token.
    """
    token = control_token(text)
    if token is not None:
        raise GreamError(
            f"{place} holds {token[:40]!r}, which a tokenizer may take for a control token; such texts are cleaned by "
            "the stages 'interactions' and 'enrich': run them again"
        )


def _replaced(token: str, changes: Counter[Change] | None) -> str:
    if changes is not None:
        if TOKEN_PATTERN.fullmatch(token):
            changes[Change.semantic_id] += 1
        elif token.startswith("<|"):
            changes[Change.chat] += 1
        elif token.startswith("[") or _CONTROL_TAG.fullmatch(token):
            changes[Change.tag] += 1
    return f" ({token[1:-1]}) " if token.startswith("[") else " "


def _without_unseen(text: str, changes: Counter[Change] | None) -> str:
    if text.isprintable() and (_is_latin(text) or not _SUSPECT.search(text)):
        return text
    length = len(text)
    if not text.isprintable():
        text = "".join(map(_seen, text))
    text, blanks = _BLANK.subn(" ", text)
    # What is gone may have been what made its neighbour seen.
    found = 1
    while found:
        text, found = _UNSEEN.subn("", text)
    if changes is not None:
        changes[Change.unseen] += length - len(text) + blanks
    return text


def _seen(character: str) -> str:
    """``character``, a space for one that separates, nothing for one that only steers how others are shown."""
    if character.isprintable() or character in "\u200c\u200d" or character in _SEEN:
        return character
    return "" if unicodedata.category(character) in ("Cf", "Cs", "Co", "Cn") else " "
