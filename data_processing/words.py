"""Words of a text in any script, for whatever compares texts.

Scripts without spaces between words (Chinese, Japanese, Thai ...), and Korean, whose words carry endings, give every
two neighbouring characters in place of words: no dictionary is needed, and two texts that share a word share its parts.
An emoji is a word of its own.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

# Han, kana, Hangul, Thai, Lao, Tibetan, Myanmar, Khmer.
SPACELESS = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u3041-\u3096\u309d-\u30fa\u30fc-\u30ff"
    "\u31f0-\u31ff\uac00-\ud7a3\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0f40-\u0fbc\u1000-\u1049\u1050-\u109f"
    "\u1780-\u17d3"
)
_EMOJI = "\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
# Signs above, below and after letters, which are no letters by themselves.
_SIGNS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8"
    "\u06ea-\u06ed\u0900-\u0963\u0966-\u0dff\u180b-\u180d\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
)
_WORD = re.compile(rf"[{SPACELESS}]+|[{_EMOJI}]|(?:[^\W{SPACELESS}]|[{_SIGNS}])+")
_ASCII_WORD = re.compile(r"\w+")
_NO_SPACES = re.compile(f"[{SPACELESS}]")
_ALONE = re.compile(f"[{SPACELESS}{_EMOJI}]")
_WIDE = re.compile("[\uff01-\uffef]")


def words_of(text: str) -> tuple[str, ...]:
    """Words in lower case, in order; see above for scripts without spaces."""
    if text.isascii():
        return tuple(_ASCII_WORD.findall(text.lower()))
    # Full-width letters and half-width kana are other spellings; elsewhere compatibility forms would join words.
    text = unicodedata.normalize("NFKC" if _WIDE.search(text) else "NFC", text).casefold()
    words: list[str] = []
    for run in _WORD.findall(text):
        if len(run) > 1 and is_spaceless(run):
            words += [first + second for first, second in pairwise(run)]
        else:
            words.append(run)
    return tuple(words)


def is_spaceless(word: str) -> bool:
    """Whether a word of `words_of` is of a script without spaces."""
    return _NO_SPACES.match(word) is not None


def telling_words(text: str) -> list[str]:
    """Words of a text without those that say nothing in English, and without single letters."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return [word for word in words_of(text) if word not in ENGLISH_STOP_WORDS and (len(word) > 1 or _ALONE.match(word))]


def terms_of(text: str) -> list[str]:
    """What a text is about: its telling words, and every two of them in a row."""
    words = telling_words(text)
    return words + [f"{first} {second}" for first, second in pairwise(words)]
