"""A network for every parameter that gives the direction alone, in the style of Celo2.

Moudgil et al., "Celo2: Towards Learned Optimization Free Lunch" (2026).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from ico.optim import _per_parameter as each

PyTree = Any


def direction_mlp_init(key: Key[Array, ""], *, hidden: Sequence[int] = (8,)) -> PyTree:
    """theta = {"network": ...}, an MLP from features to `hidden` to one output, for any model."""
    return each.theta_init(key, hidden, 1)


def direction_mlp(
    theta: PyTree, learning_rate: float | Float[Array, ""] | optax.Schedule = 1e-3
) -> optax.GradientTransformationExtraArgs:
    """A small network gives a direction; its length in every tensor is the learning rate.

        update = -learning_rate o / rms(o)

    with o the output of a network on the features of `adafac_mlp`, and rms its root mean square
    over the tensor. As the user sets learning rate and schedule, what is learned can serve other
    horizons and sizes. It follows Celo2's design, but has not its weights. UNVERIFIED: Celo2's
    features, and how it treats vectors and embeddings, which here are tensors like any other.

    Args:
      theta: from `direction_mlp_init`, trained. Its leaves may be traced.
      learning_rate: root mean square of every tensor's update, or a schedule.

    Returns:
      A transform whose `update` needs params. Its state is float32. A gradient that is not finite
      moves nothing and is counted in the state (`num_skipped`).

    Raises:
      ValueError: (in `update`) params are missing.
    """

    def step(outputs, count):
        (o,) = outputs
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        return o * jnp.negative(rate) * jax.lax.rsqrt(jnp.mean(o * o) + 1e-24)

    return each.transform("direction_mlp", theta, step)
