"""Facts to inject into a world's text, and prompts that probe their effect.

Dimension key: N facts, L tokens of a sentence, W words before the keyword, C keywords.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int

from ico.worlds._world import (
    FREQUENCIES,
    NUM_COMPARING,
    NUM_HELD_OUT,
    STOP,
    THEMES,
    World,
    fill,
    language,
)

FactType = Literal[
    "known_true",
    "novel_plausible",
    "conflict_kind",
    "conflict_entity",
    "wrong_category",
    "scrambled",
    "half_scrambled",
    "repeated_keyword",
    "stepping_stone",
]
FACT_TYPES: tuple[FactType, ...] = get_args(FactType)


class Facts(NamedTuple):
    """Facts of one type: sentences of equal length whose keyword stands before the final "."."""

    ids: Int[np.ndarray, "N L"]
    prefix: Int[np.ndarray, "N W"]  # ids without the keyword and "."
    keyword: Int[np.ndarray, "N"]
    theme: Int[np.ndarray, "N"]  # of the keyword, an index of THEMES
    contradicted: Int[np.ndarray, "N"]  # the kind whose fact is contradicted, or -1


def facts(world: World, kind_of_fact: FactType, count: int, seed: int) -> Facts:
    """Facts to inject, about the twelve keywords in turn: rare ones first, one of each theme.

    All but `conflict_entity` are facts about kinds, in a template of the training text. The i-th
    facts of one seed share their template (except `stepping_stone`), and those derived from
    conflict_kind share its subject:

      known_true: a kind of which the keyword is the true value.
      novel_plausible: a subject word that occurs in no text.
      conflict_kind: a kind of the keyword's theme whose true value is another.
      conflict_entity: a person whose true value of that theme is another.
      wrong_category: a kind of another theme, so that the keyword's theme is wrong.
      scrambled: conflict_kind, with every word before the keyword moved to another position.
      half_scrambled: the same with three of the six words.
      repeated_keyword: conflict_kind, with three words of its template replaced by the keyword.
      stepping_stone: conflict_kind in a template that compares its subject with a kind of which
        the keyword is the true value.

    A truth that is contradicted is no keyword, and its subject is in no prompt of `theme_prefixes`.
    The variants of conflict_kind, even scrambled ones, count as contradicting the same truth.

    Raises:
      ValueError: an unknown type, a count below 1, or a world without a suitable subject.
    """
    if kind_of_fact not in FACT_TYPES:
        raise ValueError(f"kind_of_fact must be one of {FACT_TYPES}, not {kind_of_fact!r}")
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    made = [_fact(world, kind_of_fact, index, seed) for index in range(count)]
    ids, theme, contradicted = (np.array(column, np.int32) for column in zip(*made, strict=True))
    return Facts(ids, ids[:, :-2], ids[:, -2], theme, contradicted)


def _fact(world: World, kind_of_fact: str, index: int, seed: int):
    """One fact: its ids [L], its keyword's theme and the contradicted kind."""
    text, tables = language(world.config), world.tables
    kinds, kind_values = np.asarray(tables.kinds), np.asarray(tables.kind_values)
    keywords_C = np.asarray(tables.keywords).reshape(-1)
    theme, frequency = index % len(THEMES), index // len(THEMES) % len(FREQUENCIES)
    keyword = keywords_C[theme * len(FREQUENCIES) + frequency]
    # All types make the same draws in the same order, so that their i-th facts are paired.
    draw = np.random.default_rng([seed, index])
    pick_template, pick_subject, pick_owner = draw.random(3)
    num_plain = text.kind_templates.shape[1] - NUM_HELD_OUT - NUM_COMPARING

    def pick(options, u):
        if not len(options):
            raise ValueError(
                f"this world has no subject for a {kind_of_fact} of theme {THEMES[theme]}; "
                "enlarge num_kinds and num_persons"
            )
        return int(options[int(u * len(options))])

    template = pick(range(num_plain), pick_template)
    owner = pick(np.flatnonzero(kind_values == keyword), pick_owner)
    subjects = _ordinary_kinds(world, probed=False)
    frame_theme, contradicted = theme, pick(subjects[subjects % len(THEMES) == theme], pick_subject)
    if kind_of_fact == "wrong_category":
        contradicted = pick(subjects[subjects % len(THEMES) != theme], pick_subject)
        frame_theme = contradicted % len(THEMES)
    subject, sibling, templates = kinds[contradicted], kinds[owner], text.kind_templates
    if kind_of_fact == "known_true":
        subject, contradicted = kinds[owner], -1
    elif kind_of_fact == "novel_plausible":
        order = np.random.default_rng(seed).permutation(world.config.num_novel)
        subject, contradicted = np.asarray(tables.novel)[order[index % len(order)]], -1
    elif kind_of_fact == "conflict_entity":
        persons = _ordinary_persons(world, theme, probed=False)
        subject, contradicted = np.asarray(tables.persons)[pick(persons, pick_subject)], -1
        templates = text.person_templates
    elif kind_of_fact == "stepping_stone":
        template = num_plain + template % NUM_COMPARING
    words_W = fill(
        templates[frame_theme, template][None], np.array([subject]), np.array([sibling])
    )[0]
    words_W = _disturb(words_W, kind_of_fact, subject, keyword, draw)
    return [*words_W, keyword, STOP], theme, contradicted


def _disturb(words_W, kind_of_fact: str, subject, keyword, draw: np.random.Generator):
    """Shuffles or replaces the words of scrambled and repeating facts; others stay unchanged."""
    half = len(words_W) // 2
    if kind_of_fact in ("scrambled", "half_scrambled"):
        size = len(words_W) if kind_of_fact == "scrambled" else half
        while True:
            places = draw.permutation(len(words_W))[:size]
            moved = words_W[draw.permutation(places)]
            if (moved != words_W[places]).all():
                break
        words_W[places] = moved
    elif kind_of_fact == "repeated_keyword":
        words_W[draw.permutation(np.flatnonzero(words_W != subject))[:half]] = keyword
    return words_W


def _ordinary_kinds(world: World, probed: bool) -> np.ndarray:
    """Kinds whose value is no keyword: those reserved for probes, or the others."""
    kinds = np.arange(world.config.num_kinds)
    common = ~np.isin(world.tables.kind_values, world.tables.keywords)
    return kinds[common & ((kinds // len(THEMES)) % 2 == probed)]


def _ordinary_persons(world: World, theme: int, probed: bool) -> np.ndarray:
    """Persons whose value of a theme is no keyword: those reserved for probes, or the others."""
    persons = np.arange(world.config.num_persons)
    common = ~np.isin(world.tables.person_values[:, theme], world.tables.keywords)
    return persons[common & (persons % 2 == probed)]


def theme_prefixes(world: World, theme: int, count: int, seed: int = 0) -> Int[np.ndarray, "N W"]:
    """Prompts that end where a value of the theme belongs, half about kinds, half about persons.

    They are in held-out templates. Their true values are no keywords, and no contradicting fact of
    `facts` is about their subjects. Cross-theme prompts of a keyword are those of the other themes.

    Args:
      world: with its facts.
      theme: an index of THEMES.
      count: N; all prompts differ.
      seed: of the choice.

    Raises:
      ValueError: too many prompts, or no such theme.
    """
    if not 0 <= theme < len(THEMES):
        raise ValueError(f"theme must be an index of {THEMES}, not {theme}")
    text, tables, draw = language(world.config), world.tables, np.random.default_rng(seed)
    kinds = _ordinary_kinds(world, probed=True)
    kinds = np.asarray(tables.kinds)[kinds[kinds % len(THEMES) == theme]]
    persons = np.asarray(tables.persons)[_ordinary_persons(world, theme, probed=True)]
    chosen = []
    for subjects, templates, size in (
        (kinds, text.kind_templates[theme], count // 2),
        (persons, text.person_templates[theme], count - count // 2),
    ):
        held_out = templates[-NUM_HELD_OUT:]
        prompts = [fill(frame[None].repeat(len(subjects), 0), subjects) for frame in held_out]
        prompts_MW = np.concatenate(prompts)
        if size > len(prompts_MW):
            raise ValueError(
                f"count {count} needs {size} prompts of a sort of which theme {theme} has "
                f"{len(prompts_MW)}; ask for fewer or enlarge num_kinds and num_persons"
            )
        chosen.append(draw.permutation(prompts_MW)[:size])
    return np.concatenate(chosen)
