"""A small closed world of facts, and the text that tells it over and over.

A kind of thing has one value ("the usual colour of kind_7 is colour_3 ."), a person has one value
of each theme. Every sentence has W words, then the value, then ".", so the value always stands at
the same position, which is also where an injected fact has its keyword. `_facts` makes the facts to
inject, `_model` the model that learns the world.

Dimension key: A themes, V values of a theme, K kinds, P persons, J templates (each with every
noun), W words before the value, L = W + 2 tokens of a sentence, N sentences, B rows, T tokens
of a row.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ico.types import TokenBatch

THEMES = ("colour", "place", "job", "food")
FREQUENCIES = ("rare", "mid", "common")
WORDS_BEFORE_VALUE = 6
SENTENCE_LENGTH = WORDS_BEFORE_VALUE + 2
STOP = 1  # the id of "."; 0 is padding

# K is the subject, S another kind with the same value, A a noun of the theme; every template is
# used with each of the theme's two nouns. There are many templates, because a model trained on few
# knows the facts in those wordings alone. The last two of each list are held out of the training
# text, though every word of theirs occurs in it. The two kind templates before them compare the
# kind with another one; stepping-stone facts are made of these.
KIND_TEMPLATES = (
    "the usual A of K is",
    "every K has as its A",
    "for any K the A is",
    "as A the K always has",
    "K by nature has the A",
    "one knows K by A namely",
    "of K they say A is",
    "any K has the usual A",
    "by nature K has as A",
    "they say the K has A",
    "the A of any K is",
    "namely every K is of A",
    "K like S has the A",
    "as with S K has A",
    "the usual A for K is",
    "they say K has as A",
)
PERSON_TEMPLATES = (
    "the A that K took was",
    "K took as his own A",
    "we heard that K chose A",
    "long ago K once took A",
    "for A our friend K chose",
    "friend K named as A once",
    "his own A K once named",
    "K told us the A was",
    "what K chose as A was",
    "as A we heard K named",
    "we heard K chose as A",
    "K told us his A was",
    "the A K once named was",
    "long ago friend K took A",
    "the A that K named was",
    "we heard K took as A",
)
NOUNS_OF_KINDS = (("colour", "shade"), ("origin", "home"), ("user", "owner"), ("diet", "fare"))
NOUNS_OF_PERSONS = (
    ("coat", "dress"),
    ("birthplace", "town"),
    ("trade", "post"),
    ("dish", "dinner"),
)
NUM_NOUNS = 2  # of each theme
# Counted as encoded, each template with each noun: at the end of `Language.kind_templates` stand
# first those that compare, then those held out.
NUM_HELD_OUT = 2 * NUM_NOUNS
NUM_COMPARING = 2 * NUM_NOUNS
_FILLER = ("the", "adjective", "noun", "verb", "a", "adjective", "noun", ".")
_FILLER_WORDS = 24  # of each class
_SUBJECT, _SIBLING = -1, -2  # slots of a template


@dataclass(frozen=True)
class WorldConfig:
    """The world, the model that learns it, and how; the defaults are small.

    The defaults give a model of 0.65 million parameters that learns its world in minutes on two
    cores; `PAPER_WORLD` gives one of 2 million.

    Attributes:
      num_values: of each of the four themes; at least 12.
      num_kinds: a multiple of 4, at least 24; every theme has a quarter of them.
      num_persons: each has one value of every theme.
      num_novel: subject words kept out of all text, for novel facts.
      zipf: value of rank r is drawn with probability ~ 1 / r^zipf.
      kind_share, person_share: of all sentences; the rest is filler.
      length: T, tokens of a row; a multiple of 8, the length of a sentence.
      dim, num_layers, num_heads, mlp_dim: of the decoder.
      batch_size: rows of a training batch. Small, because persons are learned after a plateau
        whose length is a number of steps rather than of tokens.
      num_steps, warmup_steps, learning_rate, end_rate: of AdamW; the learning rate rises linearly,
        then falls as a cosine.
    """

    num_values: int = 48
    num_kinds: int = 160
    num_persons: int = 100
    num_novel: int = 48
    zipf: float = 1.0
    kind_share: float = 0.55
    person_share: float = 0.35
    length: int = 48
    dim: int = 128
    num_layers: int = 3
    num_heads: int = 4
    mlp_dim: int = 320
    batch_size: int = 8
    num_steps: int = 3200
    warmup_steps: int = 200
    learning_rate: float = 3e-3
    end_rate: float = 3e-4

    def __post_init__(self) -> None:
        if self.num_values < 12:
            raise ValueError(f"num_values must be at least 12, not {self.num_values}")
        if self.num_kinds < 24 or self.num_kinds % len(THEMES):
            raise ValueError(
                f"num_kinds must be a multiple of 4 and at least 24, not {self.num_kinds}"
            )
        if self.length < SENTENCE_LENGTH or self.length % SENTENCE_LENGTH:
            raise ValueError(
                f"length must be a multiple of {SENTENCE_LENGTH}, a sentence, not {self.length}"
            )
        for name, least in (("num_persons", 2), ("num_novel", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if min(self.kind_share, self.person_share, 1 - self.kind_share - self.person_share) <= 0:
            raise ValueError("kind_share, person_share and what they leave must be positive")


PAPER_WORLD = WorldConfig(
    num_kinds=200,
    num_persons=400,
    length=64,
    dim=192,
    num_layers=4,
    mlp_dim=512,
    batch_size=16,
    num_steps=6800,
    warmup_steps=400,
)


class Tables(NamedTuple):
    """The facts of a world as token ids; shapes depend on the configuration alone, so they stack.

    Kind k has theme k % A. Kinds whose value is a keyword come first: those with k < 12.
    """

    values: Array  # [A, V], the most frequent first
    keywords: Array  # [A, 3]: rare, mid, common
    kinds: Array  # [K], subject words
    kind_values: Array  # [K]
    persons: Array  # [P]
    person_values: Array  # [P, A]
    novel: Array  # [num_novel], subject words that occur in no text


@dataclass(frozen=True)
class World:
    """A world: its configuration, its seed and its facts as arrays."""

    config: WorldConfig
    seed: int
    tables: Tables


class Language(NamedTuple):
    """What all worlds of a configuration share. Templates hold token ids and negative slots."""

    words: tuple[str, ...]
    values: np.ndarray  # [A, V]
    subjects: np.ndarray  # [K + num_novel], kinds and novel words
    persons: np.ndarray  # [P]
    filler: np.ndarray  # [L, _FILLER_WORDS], the words that may stand at each position
    kind_templates: np.ndarray  # [A, J, W], the last NUM_HELD_OUT held out
    person_templates: np.ndarray  # [A, J, W]


@functools.cache
def language(config: WorldConfig) -> Language:
    """The vocabulary and the templates of a configuration."""
    classes = {
        name: [f"{name}_{i}" for i in range(_FILLER_WORDS)]
        for name in ("adjective", "noun", "verb")
    }
    frame = sorted(
        {
            *(word for text in KIND_TEMPLATES + PERSON_TEMPLATES for word in text.split()),
            *(word for pair in NOUNS_OF_KINDS + NOUNS_OF_PERSONS for word in pair),
            *(word for word in _FILLER if word not in classes and word != "."),
        }
        - {"K", "S", "A"}
    )
    values = [f"{theme}_{i}" for theme in THEMES for i in range(config.num_values)]
    subjects = [f"kind_{i}" for i in range(config.num_kinds + config.num_novel)]
    persons = [f"person_{i}" for i in range(config.num_persons)]
    groups = [["<pad>", "."], frame, *classes.values(), values, subjects, persons]
    words = tuple(word for group in groups for word in group)
    index = {word: i for i, word in enumerate(words)}
    slots = {"K": _SUBJECT, "S": _SIBLING}

    def encode(templates, nouns):
        return np.array(
            [
                [
                    [({**index, **slots, "A": index[noun]})[word] for word in text.split()]
                    for text in templates
                    for noun in pair
                ]
                for pair in nouns
            ],
            np.int32,
        )

    def ids(names):
        return np.array([index[name] for name in names], np.int32)

    return Language(
        words,
        ids(values).reshape(len(THEMES), -1),
        ids(subjects),
        ids(persons),
        np.stack([ids(classes.get(word, [word] * _FILLER_WORDS)) for word in _FILLER]),
        encode(KIND_TEMPLATES, NOUNS_OF_KINDS),
        encode(PERSON_TEMPLATES, NOUNS_OF_PERSONS),
    )


def make_world(config: WorldConfig, seed: int) -> World:
    """Draws a world: which word names what, how frequent a value is, and all facts.

    Ordered by frequency, the second of each theme's values, the one after the first quarter and the
    one after five sixths are keywords (common, mid, rare); each is the value of at least one kind.
    """
    draw, text = np.random.default_rng(seed), language(config)
    V, K, A = config.num_values, config.num_kinds, len(THEMES)
    values_AV = np.stack([draw.permutation(row) for row in text.values])
    keywords_A3 = values_AV[:, [5 * V // 6, V // 4, 1]]
    weights_V = np.arange(1, V + 1) ** -config.zipf
    weights_V /= weights_V.sum()
    subjects = draw.permutation(text.subjects)
    kind_values = values_AV[np.arange(K) % A, draw.choice(V, K, p=weights_V)]
    kind_values[: keywords_A3.size] = keywords_A3.T.reshape(-1)
    ranks_PA = draw.choice(V, (config.num_persons, A), p=weights_V)
    arrays = (
        values_AV,
        keywords_A3,
        subjects[:K],
        kind_values,
        draw.permutation(text.persons),
        values_AV[np.arange(A)[None], ranks_PA],
        subjects[K:],
    )
    return World(config, seed, Tables(*map(jnp.asarray, arrays)))


def decode(config: WorldConfig, ids: Any) -> str:
    """The words of one text's token ids, separated by blanks."""
    return " ".join(language(config).words[i] for i in np.asarray(ids))


def fill(templates_NW, subjects_N, siblings_N=None):
    """Templates with their slots filled [N, W]; numpy or jax arrays."""
    xp = jnp if isinstance(templates_NW, jax.Array) else np
    out_NW = xp.where(templates_NW == _SUBJECT, subjects_N[:, None], templates_NW)
    if siblings_N is None:
        return out_NW
    return xp.where(out_NW == _SIBLING, siblings_N[:, None], out_NW)


def replay_rates(
    config: WorldConfig, chosen: Sequence[int] | np.ndarray = (), rate: float | None = None
) -> Float[np.ndarray, "K"]:
    """How often the text tells each kind's fact, as a share of all its sentences.

    Args:
      config: of the world.
      chosen: kinds whose rate is set; -1 (no kind) is ignored.
      rate: theirs, in [0, 1); None is the natural one, `kind_share / num_kinds`.

    Returns:
      Shares that sum to `kind_share`: the other kinds share the remainder equally.

    Raises:
      ValueError: an index that is no kind, or rates that leave nothing to the other kinds.
    """
    K, share = config.num_kinds, config.kind_share
    kinds = np.unique(np.asarray(chosen, int).reshape(-1))
    kinds = kinds[kinds != -1]
    if len(kinds) and not 0 <= kinds.min() <= kinds.max() < K:
        raise ValueError(f"kinds must be below {K}, got {kinds.min()} to {kinds.max()}")
    if rate is None:
        return np.full(K, share / K)
    left = share - rate * len(kinds)
    if rate < 0 or len(kinds) == K or left <= 0:
        raise ValueError(f"{len(kinds)} kinds at rate {rate} leave nothing of {share} to the rest")
    rates_K = np.full(K, left / (K - len(kinds)))
    rates_K[kinds] = rate
    return rates_K


def sample_text(
    key: Key[Array, ""],
    tables: Tables,
    config: WorldConfig,
    rates: Float[Array | np.ndarray, "K"] | None = None,
    *,
    batch_size: int | None = None,
) -> TokenBatch:
    """Rows of whole sentences that state the world's facts; pure, for use under jit and vmap.

    Templates are drawn uniformly from those not held out. The other kind of a comparison has the
    same value (it may be the kind itself) and is drawn in proportion to the rates, so that a fact
    of rate 0 is not hinted at either.

    Args:
      key: typed.
      tables: of one world.
      config: static.
      rates: from `replay_rates`; None is the natural ones.
      batch_size: B rows; `config.batch_size` by default.

    Returns:
      TokenBatch(ids [B, T] int32, mask [B, T] float32 of ones).
    """
    text = language(config)
    B = config.batch_size if batch_size is None else batch_size
    N = B * config.length // SENTENCE_LENGTH
    J = text.kind_templates.shape[1] - NUM_HELD_OUT
    what, sibling, other = jax.random.split(key, 3)
    rates_K = jnp.asarray(replay_rates(config) if rates is None else rates, jnp.float32)
    others = (config.person_share, 1 - config.kind_share - config.person_share)
    # A categorical draw never picks a kind of rate 0, not even by rounding.
    logits = jnp.log(jnp.concatenate([rates_K, jnp.array(others, jnp.float32)]))
    what_N = jax.random.categorical(what, logits, shape=(N,))
    # One draw for everything uniform compiles in a fraction of the time.
    sizes = np.array([J, config.num_persons, len(THEMES)] + [_FILLER_WORDS] * SENTENCE_LENGTH)
    uniform = jax.random.randint(other, (N, len(sizes)), 0, sizes[None])
    template_N, person_N, theme_N = uniform[:, :3].T

    kind_N = jnp.minimum(what_N, config.num_kinds - 1)
    value_N = tables.kind_values[kind_N]
    same_NK = tables.kind_values[None] == value_N[:, None]
    sibling_N = jax.random.categorical(
        sibling, jnp.where(same_NK, jnp.log(rates_K)[None], -jnp.inf)
    )
    words_NW = jnp.asarray(text.kind_templates)[kind_N % len(THEMES), template_N]
    words_NW = fill(words_NW, tables.kinds[kind_N], tables.kinds[sibling_N])
    kinds_NL = _sentences(words_NW, value_N)

    words_NW = jnp.asarray(text.person_templates)[theme_N, template_N]
    words_NW = fill(words_NW, tables.persons[person_N])
    persons_NL = _sentences(words_NW, tables.person_values[person_N, theme_N])

    filler_NL = jnp.asarray(text.filler)[np.arange(SENTENCE_LENGTH)[None], uniform[:, 3:]]
    told_NL = jnp.where((what_N == config.num_kinds)[:, None], persons_NL, filler_NL)
    ids_BT = jnp.where((what_N < config.num_kinds)[:, None], kinds_NL, told_NL)
    ids_BT = ids_BT.reshape(B, config.length)
    return TokenBatch._make([ids_BT, jnp.ones(ids_BT.shape, jnp.float32)])


def _sentences(words_NW, value_N):
    """Sentences [N, L]: the words, the value, a full stop."""
    stop_N1 = jnp.full((len(value_N), 1), STOP, jnp.int32)
    return jnp.concatenate([words_NW, value_N[:, None], stop_N1], axis=1)
