"""Learners from Linen modules."""

import functools
from typing import Any

from ico.types import Learner


def learner(model: Any, *, all_layers: bool = False) -> Learner:
    """The pure function `apply(params, prompt) -> prediction` of an in-context model.

    Equal models give the same function, so that jit compiles it once.

    Args:
      model: a module called with a prompt, such as `LinearTransformer`.
      all_layers: whether to predict after every layer, [L, B, Q, K], not only the last, [B, Q, K].
    """
    try:
        return _cached(model, all_layers)
    except TypeError:  # a field that is not hashable, such as a list
        return _learner(model, all_layers)


def _learner(model: Any, all_layers: bool) -> Learner:
    def apply(params, prompt):
        return model.apply({"params": params}, prompt, all_layers=all_layers)

    return apply


_cached = functools.lru_cache(maxsize=256)(_learner)
