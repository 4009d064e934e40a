"""Queries that repeat an input of the context, for induction-head probes.

Dimension key: B tasks, N context pairs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from ico.types import Prompt


class RepeatedQuery(NamedTuple):
    """A prompt whose one query is the input of the pair `place`; `other` is a random other pair."""

    prompt: Prompt
    place: Int[Array, "B"]
    other: Int[Array, "B"]


def repeated_query(key: Key[Array, ""], prompt: Prompt) -> RepeatedQuery:
    """The prompt with its query replaced by a random input of its own context.

    Raises:
      ValueError: a context of one pair, which has no other.
    """
    B, N = prompt.x.shape[:2]
    if N < 2:
        raise ValueError("a context of one pair has no other pair")
    place_key, shift_key = jax.random.split(key)
    place = jax.random.randint(place_key, (B,), 0, N)
    other = (place + jax.random.randint(shift_key, (B,), 1, N)) % N
    query = jnp.take_along_axis(prompt.x, place[:, None, None], axis=1)
    return RepeatedQuery(prompt._replace(x_query=query), place, other)
