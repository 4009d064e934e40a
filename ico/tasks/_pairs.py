"""Regressions as pairs in a row, x_1, y_1, x_2 ...: for models of sequences.

Source: 2309.05858, section 4.

Dimension key: B sequences, P pairs, D inputs and outputs, F tokens of the prefix, T tokens.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class RotationPairs:
    """`y = W x + noise e`, x uniform in (-1, 1), W a rotation or reflection of each sequence.

    Fields:
      batch_size, num_pairs, num_inputs: B, P, D.
      noise: a standard deviation.

    Raises:
      ValueError: a size below one, or a negative noise.
    """

    batch_size: int = 256
    num_pairs: int = 68
    num_inputs: int = 10
    noise: float = 0.01

    def __post_init__(self):
        for name in ("batch_size", "num_pairs", "num_inputs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise is a standard deviation, at least 0, not {self.noise}")


class Pairs(NamedTuple):
    """Inputs and outputs of regressions, one regression a sequence."""

    x: Float[Array, "B P D"]
    y: Float[Array, "B P D"]


def rotation_pairs(key: Key[Array, ""], config: RotationPairs) -> Pairs:
    """Draws regressions."""
    keys, D = jax.random.split(key, 3), config.num_inputs
    w_BDD = jax.random.orthogonal(keys[0], D, shape=(config.batch_size,))
    shape = (config.batch_size, config.num_pairs, D)
    x = jax.random.uniform(keys[1], shape, minval=-1, maxval=1)
    y = jnp.einsum("bij,bpj->bpi", w_BDD, x) + config.noise * jax.random.normal(keys[2], shape)
    return Pairs(x, y)


def pairs_in_a_row(
    pairs: Pairs,
    separator: Float[Array, "D"] | None = None,
    prefix: Float[Array, "F D"] | None = None,
) -> tuple[Float[Array, "B T D"], Int[np.ndarray, "P"]]:
    """Tokens x_1, y_1, (separator,) x_2 ..., and the positions of the x, at which y is predicted.

    Args:
      pairs: of regressions.
      separator: a token behind every pair.
      prefix: tokens before all.
    """
    B, P, D = pairs.x.shape
    parts = [pairs.x, pairs.y]
    if separator is not None:
        parts.append(jnp.broadcast_to(separator[None, None], (B, P, D)))
    tokens = jnp.stack(parts, axis=2).reshape(B, P * len(parts), D)
    first = 0
    if prefix is not None:
        first = len(prefix)
        before = jnp.broadcast_to(prefix[None], (B, *prefix.shape))
        tokens = jnp.concatenate([before, tokens], axis=1)
    return tokens, first + len(parts) * np.arange(P)
