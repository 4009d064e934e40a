"""A network for every parameter, in the style of AdafacMLP.

Metz et al. 2022, "Practical tradeoffs between memory, compute, and performance in learned
optimizers", arXiv 2203.11860; `small_fc_lopt` of learned_optimization.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from ico.optim import _per_parameter as each

PyTree = Any
_SCALE = 1e-3  # of an update, and of the exponent of its length


def adafac_mlp_init(key: Key[Array, ""], *, hidden: Sequence[int] = (4, 4)) -> PyTree:
    """theta = {"network": ...}, an MLP with 30 features, `hidden`, two outputs; for any model."""
    return each.theta_init(key, hidden, 2)


def adafac_mlp(
    theta: PyTree, *, learning_rate: float | Float[Array, ""] | optax.Schedule = 1.0
) -> optax.GradientTransformationExtraArgs:
    """A small network gives every parameter its update: `-1e-3 o_1 exp(1e-3 o_2)`.

    Its features are the gradient, the parameter, momenta at three decay rates, second moments,
    plain and factored as Adafactor's, each brought to unit mean square over its tensor, and time at
    eleven scales. It follows AdafacMLP's design, but has neither its weights nor exactly its
    features; theta is meant to be meta-trained by `ico.metatrain`.

    Args:
      theta: from `adafac_mlp_init`, trained. Its leaves may be traced.
      learning_rate: a factor on all updates, or a schedule; 1 is as trained.

    Returns:
      A transform whose `update` needs params. Its state is float32. A gradient that is not finite
      moves nothing and is counted in the state (`num_skipped`).

    Raises:
      ValueError: (in `update`) params are missing.
    """

    def step(outputs, count):
        direction, magnitude = outputs
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        return jnp.negative(rate) * _SCALE * direction * jnp.exp(_SCALE * magnitude)

    return each.transform("adafac_mlp", theta, step)
