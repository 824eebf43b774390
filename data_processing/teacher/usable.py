"""Which answers of a language model are texts about what was asked; small models often answer something else.

A text that cannot be used raises `UnusableAnswerError`: its reason is written for people, and what it asks for is
written for the model that has to answer once more, in words that may stand in an answer.
"""

from __future__ import annotations

import re

from ..readers.text import clean_text
from ..tables import Item
from ..words import is_spaceless, telling_words
from .filters import FUNCTION_WORDS, words_of
from .questions import UnusableAnswerError

# So many words of a question in a row are not chance.
_ECHO_WORDS = 6

_QUOTED = re.compile(r"^[\"“](.*)[\"”]$")
_THINKING = re.compile(r"^.*</think>", re.DOTALL)
_NOTHING = re.compile(
    r"(n/?a|none|null|nothing|unknown|undefined|not (available|applicable|specified|known)|no (description|title|brand)"
    r"( available)?|\(?unknown\)?)",
    re.IGNORECASE,
)


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_VERY = r"((so|very|really|truly|terribly|deeply|just|only) )?"
_CANNOT = r"\b(i|we) (can ?not|can't|could not|couldn't|won't|will not|do not|don't|did not|didn't) "
# Apologies and refusals: at the beginning of a text, or by the one who writes it.
_REFUSAL = _any_of(
    rf"^\W*((oh|well|unfortunately|regrettably)\W+)?((i'?m|i am|we'?re|we are) )?{_VERY}(sorry|afraid)\b",
    r"^\W*((please|my|our) )?(accept )?(my |our )?(apolog\w+|pardon|forgive|excuse me|unfortunately|regrettably)\b",
    rf"\b(i|we)('m| am|'re| are) {_VERY}(sorry|afraid|unable|not able|not allowed|an? (ai|assistant|language model))\b",
    r"\b(i|we) (\w+ )?(\w+ )?apologi[sz]e\b",
    r"\b(my|our|sincere) apologies\b",
    r"\bas an? (ai|artificial intelligence|(large )?language model|assistant)\b",
    rf"{_CANNOT}(help|assist|provide|comply|fulfill?|answer|write (a|the|this|one)|create (a|the)|generate|access)\b",
    rf"{_CANNOT}have (enough |any |access|the )(information|details|data|reviews|to)?",
    r"^\W*(抱歉|对不起|對不起|很遗憾|很遺憾|申し訳|すみません|ごめん|죄송|미안|ขออภัย|ขอโทษ|عذرا|آسف|متأسف|извините|простите)",
    r"^\W*(lo siento|lamento|perdón|disculp|désolé|je suis désolé|malheureusement|es tut mir leid|entschuldig|leider)",
    r"^\W*(mi dispiace|desculpe|sinto muito|lamentamos|к сожалению|maaf|üzgünüm|przepraszam)",
)
_WRITTEN = r"(description|text|information|review|answer|response|sentence|statement|title|version)s?"
_TEXT = rf"({_WRITTEN}|products?|items?)"
_ASKING = r"(request|question|prompt|answer|response|instruction|message|task|data|information|details)s?"
# Talk about the conversation in place of the product.
_TALK = _any_of(
    r"^\W*(sure|certainly|of course|okay|absolutely|understood|got it|no problem|alright)\s*[!,.:]",
    rf"^\W*(here('s| is| are)|below is|this is) ((a|an|the|your|one|my) )?(\w+ )?(\w+ )?{_WRITTEN}\b",
    rf"\b(your|my|previous|above|following|given|provided) {_ASKING}\b",
    rf"\b{_TEXT} (is|was|are|were|has been)( not|n't) (yet )?(been )?(finished|completed?|provided|specified|given)\b",
    rf"\b{_TEXT} (is|are)( not|n't) (enough|sufficient|usable)\b|\b(unfinished|incomplete) {_TEXT}\b",
    rf"\bno {_WRITTEN} (is|are|was|were|has|given|provided|available|yet)\b",
    r"\b(please|kindly) (provide|specify|clarify|answer|rephrase|let me|give me|note that)\b",
    r"\blet me know\b|\bhope (this|that|it) helps\b|\bfeel free to\b|\bhappy to help\b|\bas requested\b",
    r"\b(would|do) you (like|want) me\b|\banswer (once more|again|as the question)\b",
    r"\b(two|2) (to|or|-) (four|4) sentences\b|\bat most \d+ words\b|\bword (count|limit)\b|\bfewer than \d+ words\b",
    r"\b(first|third)[ -]person\b|\bjson\b|\bproduct data\b|\buse words of your own\b|\bthink aloud\b",
)
# Names of the fields of a question, as a question has them.
_FIELD = re.compile(
    r"(^|[\W_])(Title|Brand|Categories|Description|Description so far|Reviews|What the customer wrote about it later)"
    r"[*_]*\s*:|\(unknown\)"
)


def runs_of(*texts: str) -> frozenset[tuple[str, ...]]:
    """Runs of words that give away who repeats ``texts``."""
    return frozenset(run for text in texts for run in _runs(text))


def without_reasoning(answer: str) -> str:
    """An answer without the reasoning that some models write before it.

    Raises:
        UnusableAnswerError: Nothing comes after the reasoning.
    """
    said = _THINKING.sub("", answer)
    if "<think>" in said:
        raise UnusableAnswerError("it holds nothing but reasoning", "Do not think aloud.")
    return said


def usable_text(answer: str, limit: int, asked: frozenset[tuple[str, ...]]) -> str:
    """The answer as one clean line.

    Args:
        answer: What the model said.
        limit: Most characters.
        asked: `runs_of` the question's own wording.

    Raises:
        UnusableAnswerError: It is nothing that a catalogue or a training row can hold.
    """
    said = without_reasoning(answer)
    # Chat markup and semantic ids would be read as tokens, not as text.
    if "<|" in said:
        raise UnusableAnswerError("it contains '<|'")
    text = _QUOTED.sub(r"\1", clean_text(said))
    if not re.search(r"\w", text):
        raise UnusableAnswerError("it is empty")
    straight = text.replace("\u2019", "'")
    if _NOTHING.fullmatch(text.rstrip(".!")) or _REFUSAL.search(straight):
        raise UnusableAnswerError("it says nothing about what was asked")
    if _FIELD.search(text) or not asked.isdisjoint(_runs(text)):
        raise UnusableAnswerError("it repeats the question", "Use words of your own.")
    if _TALK.search(straight):
        raise UnusableAnswerError("it talks about the question")
    if len(text) > limit:
        raise UnusableAnswerError(f"it is longer than {limit} characters", f"Use fewer than {limit // 10} words.")
    return text


def check_about(text: str, item: Item, asked: frozenset[tuple[str, ...]]) -> None:
    """Make sure that a text has to do with an item.

    Args:
        text: From `usable_text`.
        item: What it should be about.
        asked: As for `usable_text`; a word that stands in every question tells nothing.

    Raises:
        UnusableAnswerError: It shares no word with title, brand and categories, or says the title and nothing else.
    """
    said = set(telling_words(text))
    if said <= set(telling_words(item.title)):
        raise UnusableAnswerError("it says no more than the title", "Say more than its name.")
    common = FUNCTION_WORDS | {word for run in asked for word in run}
    names = " ".join((item.title, item.brand, *item.categories))
    wanted = {word for word in telling_words(names) if not word.isdigit()} - common
    # A text in another script than the item's is in another language, of which nothing can be told.
    if {is_spaceless(word) for word in wanted}.isdisjoint(map(is_spaceless, said)):
        return
    if not any(_same(first, second) for first in wanted for second in said):
        raise UnusableAnswerError("it shares no word with title, brand and categories", "Speak of this very product.")


def _runs(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {words[start : start + _ECHO_WORDS] for start in range(len(words) - _ECHO_WORDS + 1)}


def _same(first: str, second: str) -> bool:
    """Whether two words are the same but for their endings."""
    shorter, longer = sorted((first, second), key=len)
    return first == second or (len(shorter) > 3 and longer.startswith(shorter[: max(4, len(shorter) - 2)]))
