"""A fact as tokens, and what a language model makes of it: one reading.

Dimension key: C contexts, P theme prompts, Q cross-theme prompts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ico.lm import LanguageModel, Tokenizer, score_continuations

PyTree = Any
Reading = dict[str, np.ndarray]


def tokenizer_of(lm: LanguageModel) -> Tokenizer:
    """The tokenizer; raises ValueError if the model has none."""
    if lm.tokenizer is None:
        raise ValueError("model has no tokenizer beside it")
    return lm.tokenizer


def fact_ids(lm: LanguageModel, context: str, keyword: str, length: int) -> list[int]:
    """Token ids of a fact: context and keyword, tokenised apart, as they are scored.

    Args:
      lm: with its tokenizer.
      context: of the fact.
      keyword: with the space before it.
      length: of the rows that it is taught in.

    Raises:
      ValueError: it does not fit in a row, so the keyword would be cut off; or the model has no
        tokenizer.
    """
    encode = tokenizer_of(lm).encode
    ids = encode(context) + encode(keyword, continuation=True)
    if len(ids) > length:
        raise ValueError(f"length {length} is too short for {len(ids)} tokens: {context!r}")
    return ids


def read(
    lm: LanguageModel,
    keyword: str,
    *,
    memory: Sequence[str],
    theme: Sequence[str],
    cross: Sequence[str],
    params: PyTree = None,
) -> Reading:
    """Log-probabilities of a keyword after contexts and prompts, and the likeliest next tokens.

    Args:
      lm: with its tokenizer.
      keyword: with the space before it.
      memory: contexts of facts that end with it.
      theme: prompts in which it could stand.
      cross: prompts of other themes.
      params: of the model that is read, if not those of `lm`.

    Returns:
      "memory" [C], "theme" [P], "cross" [Q] in nats; the same with "_top" for the likeliest next
      tokens; "first" [], the keyword's first token. `effects` compares two of them.

    Raises:
      ValueError: the model has no tokenizer.
    """
    encode = tokenizer_of(lm).encode
    groups = {"memory": memory, "theme": theme, "cross": cross}
    flat = [encode(prompt) for prompts in groups.values() for prompt in prompts]
    ids = encode(keyword, continuation=True)
    params = lm.params if params is None else params
    scores = score_continuations(params, lm.config, flat, [ids] * len(flat))
    ends = np.cumsum([len(prompts) for prompts in groups.values()])[:-1]
    reading = {"first": np.asarray(ids[0])}
    for suffix, values in zip(("", "_top"), scores, strict=True):
        parts = np.split(np.asarray(values), ends)
        reading |= {f"{name}{suffix}": part for name, part in zip(groups, parts, strict=True)}
    return reading
