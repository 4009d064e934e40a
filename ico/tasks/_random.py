"""Fast random numbers for synthetic data.

`jax.random.uniform` computes a threefry block per number, twice what is needed (the price of its
"partitionable" layout), and data generation is most of a training step of a small model. Here one
block gives two numbers, in plain counter mode: the same cipher and distribution, another stream.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend import random as extend_random
from jaxtyping import Array, Float, Key


def uniform(
    key: Key[Array, ""], shape: tuple[int, ...], low: float = 0.0, high: float = 1.0
) -> Float[Array, "..."]:
    """Uniform numbers in [low, high), with 23 random bits each, float32."""
    unit = _bits_to_unit(_bits(key, math.prod(shape)))
    return (low + (high - low) * unit).reshape(shape)


def normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal numbers by inverting their distribution function, float32."""
    # Shifted by half a bit, so that the argument of erf_inv lies strictly inside (-1, 1).
    unit = _bits_to_unit(_bits(key, math.prod(shape))) + 2.0**-24
    return (math.sqrt(2.0) * jax.lax.erf_inv(2.0 * unit - 1.0)).reshape(shape)


def _bits(key, count):
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return jax.random.bits(key, (count,), jnp.uint32)
    words = jax.random.key_data(key)
    counter = jnp.arange(count, dtype=jnp.uint32)
    return extend_random.threefry_2x32((words[0], words[1]), counter)


def _bits_to_unit(bits):
    # 23 bits become the mantissa of a float in [1, 2).
    mantissa = (bits >> 9) | jnp.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1.0
