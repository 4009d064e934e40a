"""A network for every parameter, in the style of AdafacMLP.

Metz et al. 2022, "Practical tradeoffs between memory, compute, and performance in learned
optimizers", arXiv 2203.11860; `small_fc_lopt` of learned_optimization.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from ico.optim import _per_parameter as each
from ico.optim._network import network_init

PyTree = Any
_SCALE = 1e-3  # of the step, and of the exponent of its length


class AdafacMLPState(NamedTuple):
    """Steps done, and a tree like the parameters with `Moments` in place of each."""

    count: Int[Array, ""]
    moments: PyTree


def adafac_mlp_init(key: Key[Array, ""], *, hidden: Sequence[int] = (4, 4)) -> PyTree:
    """What it learns, {"network": ...}: 37 features to `hidden` to two outputs, for any model."""
    widths = (each.NUM_FEATURES + len(each.TIMES), *hidden, 2)
    network = network_init(key, widths)
    # Zero at the end would stand still and show nothing of the layers before.
    last = network[f"dense_{len(hidden)}"]
    noise = jax.random.normal(jax.random.fold_in(key, 1), last["kernel"].shape)
    last["kernel"] = 0.1 * noise
    return {"network": network}


def adafac_mlp(
    theta: PyTree, *, learning_rate: float | Float[Array, ""] = 1.0
) -> optax.GradientTransformationExtraArgs:
    """A small network gives every parameter its update: `-1e-3 o_1 exp(1e-3 o_2)`.

    Its features are the gradient, the parameter, momenta at three rates, second moments, plain and
    factored as Adafactor's, each brought to unit mean square over its tensor, and time at eleven
    scales. In the style of AdafacMLP, not its weights nor its features one by one; here theta is
    meant to be meta-trained by `ico.metatrain`.

    Args:
      theta: as of `adafac_mlp_init`. Its leaves may be traced.
      learning_rate: a factor on all updates; one is as trained.

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
            raise ValueError("adafac_mlp needs params: update(grads, state, params)")
        moments = jax.tree.map(each.move, state.moments, updates, is_leaf=each.is_moments)

        def step(moments, grad, param):
            direction, magnitude = each.output(theta, moments, grad, param, state.count)
            step = -learning_rate * _SCALE * direction * jnp.exp(_SCALE * magnitude)
            return step.astype(grad.dtype)

        steps = jax.tree.map(step, moments, updates, params, is_leaf=each.is_moments)
        return steps, AdafacMLPState(state.count + 1, moments)

    return optax.GradientTransformationExtraArgs(init, update)
