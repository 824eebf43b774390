"""The catalogue of the invented shop: categories, brands, series, and what customers write about them. Data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """One kind of product.

    Attributes:
        name: As it stands in the metadata.
        department: The category above it.
        noun: One product of it.
        use: What it is for.
        variants: Eight words that tell its products apart.
        successors: The usual next categories, the likelier first.
        counterpart: Where a user goes who changes to the sister brand.
    """

    name: str
    department: str
    noun: str
    use: str
    variants: tuple[str, ...]
    successors: tuple[str, str]
    counterpart: str


@dataclass(frozen=True)
class Brand:
    """One maker, at home in the two departments of its half of the shop.

    Attributes:
        name: As a customer reads it.
        style: Two words for the look of its products.
    """

    name: str
    style: tuple[str, str]


def _category(name: str, department: str, noun: str, use: str, variants: str, after: str, counterpart: str) -> Category:
    first, second = after.split(", ")
    return Category(name, department, noun, use, tuple(variants.split(", ")), (first, second), counterpart)


_TEA, _COFFEE, _PAPER, _SWEETS = "Tea", "Coffee", "Writing", "Chocolate & Sweets"
_PANTRY, _OFFICE = "Grocery & Gourmet Food", "Office Products"
MAIN_CATEGORIES = {_TEA: _PANTRY, _COFFEE: _PANTRY, _PAPER: _OFFICE, _SWEETS: _PANTRY}

# The two halves of the shop. Successors stay within a half, counterparts lead to the other one.
HALVES: tuple[tuple[Category, ...], tuple[Category, ...]] = (
    (
        _category(
            "Kettles",
            _TEA,
            "Kettle",
            "boils water without haste",
            "Copper, Steel, Enamel, Glass, Iron, Whistling, Gooseneck, Travel",
            "Green Teas, Coffee Grinders",
            "Cocoa Powders",
        ),
        _category(
            "Green Teas",
            _TEA,
            "Green Tea",
            "gives a clear, fresh cup",
            "Jasmine, Mint, Lemon, Ginger, Rose, Peach, Honey, Smoked",
            "Tea Cups, Tea Tins",
            "Dark Chocolates",
        ),
        _category(
            "Tea Cups",
            _TEA,
            "Tea Cup",
            "keeps its warmth in the hand",
            "Porcelain, Stoneware, Glass, Bamboo, Painted, Tall, Wide, Ribbed",
            "Tea Tins, Kettles",
            "Notebooks",
        ),
        _category(
            "Tea Tins",
            _TEA,
            "Tea Tin",
            "keeps leaves dry and dark",
            "Round, Square, Painted, Steel, Embossed, Tall, Travel, Airtight",
            "Coffee Grinders, Coffee Mugs",
            "Gift Boxes",
        ),
        _category(
            "Coffee Grinders",
            _COFFEE,
            "Coffee Grinder",
            "grinds evenly and quietly",
            "Burr, Hand, Steel, Oak, Travel, Quiet, Compact, Conical",
            "Coffee Beans, Kettles",
            "Fountain Pens",
        ),
        _category(
            "Coffee Beans",
            _COFFEE,
            "Coffee Blend",
            "makes a round, strong brew",
            "Dark, Light, Espresso, Hazelnut, Vanilla, Caramel, Mountain, Smoked",
            "Coffee Filters, Coffee Mugs",
            "Truffles",
        ),
        _category(
            "Coffee Filters",
            _COFFEE,
            "Coffee Filter",
            "lets nothing but flavour through",
            "Paper, Cloth, Steel, Cone, Flat, Reusable, Bamboo, Fine",
            "Coffee Mugs, Coffee Beans",
            "Inks",
        ),
        _category(
            "Coffee Mugs",
            _COFFEE,
            "Coffee Mug",
            "holds a generous breakfast",
            "Stoneware, Porcelain, Enamel, Tall, Wide, Travel, Painted, Speckled",
            "Kettles, Green Teas",
            "Pen Cases",
        ),
    ),
    (
        _category(
            "Notebooks",
            _PAPER,
            "Notebook",
            "takes ink without bleeding",
            "Ruled, Dotted, Plain, Linen, Leather, Pocket, Spiral, Stitched",
            "Fountain Pens, Pen Cases",
            "Tea Cups",
        ),
        _category(
            "Fountain Pens",
            _PAPER,
            "Fountain Pen",
            "writes a smooth, even line",
            "Brass, Resin, Steel, Walnut, Slim, Broad, Fine, Lacquered",
            "Inks, Notebooks",
            "Coffee Grinders",
        ),
        _category(
            "Inks",
            _PAPER,
            "Ink",
            "dries fast and does not fade",
            "Indigo, Sepia, Emerald, Crimson, Graphite, Violet, Teal, Amber",
            "Pen Cases, Notebooks",
            "Coffee Filters",
        ),
        _category(
            "Pen Cases",
            _PAPER,
            "Pen Case",
            "carries four pens safely",
            "Leather, Linen, Canvas, Felt, Walnut, Slim, Rolled, Zipped",
            "Cocoa Powders, Inks",
            "Coffee Mugs",
        ),
        _category(
            "Cocoa Powders",
            _SWEETS,
            "Cocoa",
            "warms up a long evening",
            "Dark, Spiced, Vanilla, Cinnamon, Orange, Mint, Malted, Smoked",
            "Dark Chocolates, Truffles",
            "Kettles",
        ),
        _category(
            "Dark Chocolates",
            _SWEETS,
            "Dark Chocolate",
            "melts slowly and tastes of fruit",
            "Salted, Orange, Hazelnut, Almond, Ginger, Chili, Mint, Cherry",
            "Truffles, Gift Boxes",
            "Green Teas",
        ),
        _category(
            "Truffles",
            _SWEETS,
            "Truffle Box",
            "ends a dinner well",
            "Raspberry, Hazelnut, Caramel, Coconut, Rum, Pistachio, Honey, Rose",
            "Gift Boxes, Cocoa Powders",
            "Coffee Beans",
        ),
        _category(
            "Gift Boxes",
            _SWEETS,
            "Gift Box",
            "turns small things into a present",
            "Ribboned, Wooden, Linen, Round, Square, Painted, Small, Lined",
            "Notebooks, Dark Chocolates",
            "Tea Tins",
        ),
    ),
)

BRANDS: tuple[tuple[Brand, ...], tuple[Brand, ...]] = (
    (
        Brand("Mossgate", ("rustic", "earthy")),
        Brand("Fern & Hollow", ("natural", "soft")),
        Brand("Kingsway", ("classic", "formal")),
        Brand("Nordlys", ("minimal", "pale")),
        Brand("Casa Oda", ("colourful", "bold")),
        Brand("Brookside", ("cosy", "homely")),
    ),
    (
        Brand("Quillon", ("precise", "sober")),
        Brand("Atelier Renée", ("elegant", "refined")),
        Brand("Tinder & Rye", ("warm", "handmade")),
        Brand("Halcyon", ("calm", "airy")),
        Brand("Piper's", ("playful", "bright")),
        Brand("Old Harbour", ("sturdy", "nautical")),
    ),
)

SERIES = ("First", "Daily", "Signature", "Reserve", "Grand", "Heritage")
# So many pairs of a series and a variant there are: no two titles are the same.
LARGEST_CELL = 48

# Who writes reviews, and what they say.
NAMES = (
    "Ada",
    "Ben",
    "Clara",
    "David",
    "Elif",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kim",
    "Lena",
    "Mara",
    "Noah",
)
SUMMARIES = (
    "Five Stars",
    "Just right",
    "Very good",
    "Four Stars",
    "Good value",
    "It is fine",
    "As described",
)
FOLLOWING = (
    "Goes well with my {before}.",
    "I had the {before}, so this was next on my list.",
    "After the {before} I was looking for exactly this.",
    "Bought it to use with the {before}.",
)
LOYAL = (
    "I keep coming back to {brand}.",
    "{brand} has not let me down yet.",
    "Another one by {brand}, of course.",
)
CHANGED = (
    "Tried {brand} for a change.",
    "A friend told me about {brand}.",
    "My first by {brand} in a while.",
)
ASIDE = (
    "It was a gift for a colleague.",
    "Not my usual choice, it was on sale.",
    "Picked it up for my neighbour.",
)
PRAISE = (
    "The {series} range is &#34;worth it&#34;.",
    "It looks {style} and {use}.",
    "{variant} was the right choice.",
    "It really {use}.<br />Recommended.",
)

# The two paragraphs of a description, each in one of two wordings.
DESCRIPTION = (
    (
        "{first} {variant} {noun} by {brand} that {use}.",
        "This {variant} {noun} {use}; {look} in look, as all of {brand}.",
    ),
    (
        "Part of the {second} {series} series.",
        "From the {series} series, {second} and made to last.",
    ),
)
