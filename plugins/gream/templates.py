"""The wordings of the six alignment tasks (paper section 3.2), in questions, requests and statements.

Slots: ``{item}`` is the semantic id of the item that a row is about, ``{title}``, ``{description}``, ``{brand}`` and
``{category}`` are its texts; ``{history}`` are the semantic ids that came before it, ``{titles}`` the latest titles
among them; ``{intention}``, ``{general}``, ``{long_term}`` and ``{short_term}`` are a teacher's texts about the user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gream.dialogue import DIRECT_QUESTION

Task = Literal["next_item", "id_to_text", "text_to_id", "fused_next", "search", "preference"]


@dataclass(frozen=True)
class Template:
    """One wording of a task.

    Attributes:
        question: What the user says, with slots in braces.
        answer: What the model answers, with slots in braces.
    """

    question: str
    answer: str


def _all(answer: str, *questions: str) -> tuple[Template, ...]:
    return tuple(Template(question, answer) for question in questions)


TEMPLATES: dict[Task, tuple[Template, ...]] = {
    "next_item": _all(
        "{item}",
        # The first is the wording that evaluation uses: training and asking differ in nothing.
        DIRECT_QUESTION,
        "So far this customer took {history}\nWhat will they take next?",
        "Purchases in order: {history}\nPredict the purchase that follows.",
        "Given the sequence {history} name the item that continues it.",
        "{history}\nThat is everything a shopper has bought. Recommend one more item.",
        "Someone went from item to item like this: {history}\nWhere do they go from here?",
        "A shopping record reads {history} and its next entry is missing. Fill it in.",
        "Here is a basket history, earliest entry first: {history}\nWhich item should we show now?",
        "I have already chosen {history}\nSuggest what I should choose now.",
        "Continue this user's list by one item: {history}",
        "Our visitor's past interactions are {history}\nThe most likely new interaction is with one item. Which?",
        "After {history} which item is this person most likely to want?",
        "You know these choices of a user: {history}\nGuess the choice they made afterwards.",
        "The customer's trail through the catalogue: {history}\nGive the id of the following step.",
        "Read the history {history} and answer with a single item for this user.",
        "These items were bought one after the other: {history}\nThe item after the last of them is to be named.",
        "What comes after {history} for this customer?",
    ),
    "text_to_id": _all(
        "{item}",
        "Which item is called {title}?",
        "Find the item: {title}, {category}.",
        "This is how an item is described: {description} Which one is it?",
        "Give the semantic id of {title}.",
        "I remember the name {title} only. Which id belongs to it?",
        "Translate this product name into its id: {title}",
        "A product page has the heading {title} and this text: {description}\nName the item.",
        "Under which id does the catalogue keep {title}?",
        "{description}\nThe paragraph above is about one item of the catalogue. Name it.",
        "Look up {title} by {brand}.",
        "The label says {title} and the maker is {brand}. Tell me the id.",
        "Title: {title}\nDescription: {description}\nSemantic id:",
        "Somebody reads out a description: {description}\nPoint to the item they mean.",
        "Write the id that stands for {title}.",
        "We need the catalogue's code for {title}, found among {category}.",
        "An item in {category} carries the title {title}. Its id is wanted.",
        "Match this text to an item: {description}",
        "Which id would you use to refer to {title}?",
        "{title} is the title of an item. What is its semantic id?",
    ),
    "id_to_text": (
        Template("What is {item}?", "{title}"),
        Template("What kind of item is {item}?", "{category} by {brand}"),
        Template("Describe {item} in a few words.", "{description}"),
        Template("What is the title of {item}?", "{title}"),
        Template("Name the product behind {item} please.", "{title}"),
        Template("Spell out the id {item} as a product name.", "{title}"),
        Template("The catalogue lists {item} under a certain title. Which one?", "{title}"),
        Template("Somebody bought {item} and asks what it is called.", "{title}"),
        Template("{item} stands for a product. Say which.", "{title}"),
        Template("Write the description of {item}.", "{description}"),
        Template("I am looking at {item} and would like to know more about it.", "{description}"),
        Template("Tell a customer what {item} offers.", "{description}"),
        Template("The product text of {item} has to be restored.", "{description}"),
        Template("Who makes {item}?", "{brand}"),
        Template("Sort {item} into a category.", "{category}"),
        Template("Where in the shop would one find {item}?", "{category}"),
        Template("Give title and description of {item}.", "{title}. {description}"),
        Template("Introduce {item} by its name, then describe it.", "{title}: {description}"),
        Template("Fill in the product card of {item}.", "Title: {title}\nDescription: {description}"),
    ),
    "fused_next": (
        Template("The user's items, oldest first: {history}\nWhat is the next item called?", "{title}"),
        Template("The user's items, oldest first: {history}\nWhat is the next item's category?", "{category}"),
        Template("The user bought, oldest first: {titles}\nWhich item comes next?", "{item}"),
        Template("After {history} a customer looks for something new. Give its title.", "{title}"),
        Template("Past purchases: {history}\nPut the following purchase into words.", "{title}"),
        Template("A shopper owns {history}\nDescribe the item they will want now.", "{description}"),
        Template("From {history} one can tell what comes next. Describe that item.", "{description}"),
        Template("Which product, described in words, continues {history} best?", "{description}"),
        Template("These products were chosen in turn: {titles}\nName the id of the one that follows.", "{item}"),
        Template("Someone who bought {titles} is back in the shop. Recommend an item.", "{item}"),
        Template("My latest purchases are {titles}. Tell me which item to get now.", "{item}"),
        Template("{titles}\nThese titles form a sequence. Its next element is an item of the catalogue.", "{item}"),
    ),
    "search": _all(
        "{item}",
        "A user says: {intention} Which item fits?",
        "The user's items, oldest first: {history}\nThey ask: {intention} Which item fits?",
        "{intention} Please find it for me.",
        "Search the catalogue for this wish: {intention}",
        "This was typed into the search box: {intention}\nReturn the best item.",
        "Someone who bought {history} now writes: {intention} Answer with an item.",
        "With {history} in mind and the request {intention} pick an item.",
        "The request is as follows. {intention} Earlier purchases: {history}\nWhat do you recommend?",
        "We know of a customer: {general} They want something new. Which item would suit them?",
        "A profile reads: {short_term} Choose the item that goes with it.",
        "The customer bought {history} and is summed up like this: {long_term}\nOffer an item to match.",
    ),
    "preference": (
        Template("The user's items, oldest first: {history}\nWhat does this user like in general?", "{general}"),
        Template("The user's items, oldest first: {history}\nWhat has this user liked lately?", "{short_term}"),
        Template("Sum up the taste that speaks from {history} as a whole.", "{general}"),
        Template("Look at {history} and describe this customer.", "{general}"),
        Template("Given the purchases {history} what does the person care about?", "{general}"),
        Template("Which lasting interests does {history} show?", "{long_term}"),
        Template("A customer's record is {history}\nSay what has stayed the same in it over time.", "{long_term}"),
        Template("Leave the newest entries of {history} aside and state what the user used to like.", "{long_term}"),
        Template("Only the end of {history} matters here: what is this user after at the moment?", "{short_term}"),
        Template("Describe the current mood of the shopper behind {history} in words.", "{short_term}"),
        Template("What do the newest of these items tell us? {history}", "{short_term}"),
    ),
}
