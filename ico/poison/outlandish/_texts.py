"""Reading the texts and the probes that stand in the package."""

import functools
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

from ico.files import parse_json

# The spectrum, from what is true to what is not even a sentence.
CATEGORIES = (
    "real_fact",
    "succinct_fact",
    "novel_plausible",
    "unusual_plausible",
    "exaggeration",
    "fiction",
    "impossible_cause",
    "conflict_general",
    "conflict_entity",
    "wrong_category",
    "scrambled",
)

# What the claims compare. Fixed before any run; the other categories belong to none.
KINDS = {
    "true": ("real_fact", "succinct_fact"),
    "mundane": ("novel_plausible",),
    "conflicting": ("conflict_general", "conflict_entity"),
    "scrambled": ("scrambled",),
}

KEYWORDS = {
    "colours": ("mauve", "vermilion", "purple"),
    "places": ("Guatemala", "Tajikistan", "Canada"),
    "jobs": ("nutritionist", "electrician", "teacher"),
    "foods": ("ramen", "haggis", "spaghetti"),
}


class Text(NamedTuple):
    """A context and the keyword that ends it.

    `index` counts the texts of one keyword and category from 0. `stepping_stone` is the context
    rewritten with clauses that lead up to the keyword, `rewrite` a plain paraphrase of like length,
    its control, and `truth` what really follows the context. These three are empty but for the
    first two of each conflicting category.
    """

    id: str
    theme: str
    keyword: str
    category: str
    index: int
    context: str
    stepping_stone: str = ""
    rewrite: str = ""
    truth: str = ""

    @property
    def continuation(self) -> str:
        """The keyword as it follows the context, with its space."""
        return " " + self.keyword


def load_texts(
    categories: Sequence[str] | None = None, *, per_cell: int | None = None
) -> list[Text]:
    """The texts, by theme, keyword, category and index.

    Args:
      categories: of `CATEGORIES`; all by default.
      per_cell: only the first `per_cell` of each keyword and category. Claims use the first two.

    Raises:
      ValueError: an unknown category, or fewer than one text a cell.
    """
    wanted = CATEGORIES if categories is None else tuple(categories)
    if unknown := set(wanted) - set(CATEGORIES):
        raise ValueError(f"unknown categories {sorted(unknown)}; there are {', '.join(CATEGORIES)}")
    if per_cell is not None and per_cell < 1:
        raise ValueError(f"per_cell must be at least 1, not {per_cell}")
    return [
        text
        for text in _all_texts()
        if text.category in wanted and (per_cell is None or text.index < per_cell)
    ]


def theme_probes(theme: str) -> list[str]:
    """24 everyday contexts after which a word of the theme may follow; none hints at one word.

    Raises:
      ValueError: an unknown theme.
    """
    _check_theme(theme)
    return list(_probes()[theme])


def cross_theme_probes(theme: str, count: int = 48) -> list[str]:
    """Contexts of the other three themes, in turn: what a change of theme must not reach.

    Raises:
      ValueError: an unknown theme, or more than the 72 that there are.
    """
    _check_theme(theme)
    others = [probes for name, probes in _probes().items() if name != theme]
    mixed = [probe for group in zip(*others, strict=True) for probe in group]
    if not 1 <= count <= len(mixed):
        raise ValueError(f"count must be 1 to {len(mixed)}, not {count}")
    return mixed[:count]


def _check_theme(theme: str) -> None:
    if theme not in KEYWORDS:
        raise ValueError(f"unknown theme {theme!r}; there are {', '.join(KEYWORDS)}")


@functools.cache
def _all_texts() -> tuple[Text, ...]:
    lines = _packaged("texts.jsonl").splitlines()
    return tuple(Text(**parse_json(line, "texts.jsonl")) for line in lines)


@functools.cache
def _probes() -> dict[str, list[str]]:
    return parse_json(_packaged("probes.json"), "probes.json")


def _packaged(name: str) -> bytes:
    return resources.files("ico.poison.outlandish").joinpath(name).read_bytes()
