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
from ico.optim._adafac_mlp import AdafacMLPState
from ico.optim._network import network_init

PyTree = Any


def direction_mlp_init(key: Key[Array, ""], *, hidden: Sequence[int] = (8,)) -> PyTree:
    """What it learns, {"network": ...}: features to `hidden` to one output, for any model."""
    network = network_init(key, (each.NUM_FEATURES + len(each.TIMES), *hidden, 1))
    last = network[f"dense_{len(hidden)}"]
    noise = jax.random.normal(jax.random.fold_in(key, 1), last["kernel"].shape)
    last["kernel"] = 0.1 * noise
    return {"network": network}


def direction_mlp(
    theta: PyTree, learning_rate: float | Float[Array, ""] | optax.Schedule = 1e-3
) -> optax.GradientTransformationExtraArgs:
    """A small network gives a direction; its length in every tensor is the learning rate.

        update = -learning_rate o / rms(o)

    with o the output of a network on the features of `adafac_mlp`, rms over the tensor. What is
    learned carries over to other horizons and sizes, for step and schedule are the user's. In the
    style of Celo2, not its weights. UNVERIFIED: Celo2's features, and how it treats vectors and
    embeddings, which here are tensors like any other.

    Args:
      theta: as of `direction_mlp_init`. Its leaves may be traced.
      learning_rate: root mean square of an update in every tensor, or a schedule of it.

    Returns:
      A transform whose `update` wants parameters. States are float32.

    Raises:
      ValueError: (in `update`) params are missing.
    """

    def init(params):
        return AdafacMLPState(jnp.zeros((), jnp.int32), jax.tree.map(each.moments_of, params))

    def update(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError("direction_mlp needs params: update(grads, state, params)")
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        moments = jax.tree.map(each.move, state.moments, updates, is_leaf=each.is_moments)

        def step(moments, grad, param):
            (o,) = each.output(theta, moments, grad, param, state.count)
            return (o * jnp.negative(rate) * jax.lax.rsqrt(jnp.mean(o * o) + 1e-24)).astype(
                grad.dtype
            )

        steps = jax.tree.map(step, moments, updates, params, is_leaf=each.is_moments)
        return steps, AdafacMLPState(state.count + 1, moments)

    return optax.GradientTransformationExtraArgs(init, update)
