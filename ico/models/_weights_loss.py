"""Training and evaluation of models that fit a linear model in context, by its weights.

Dimension key: B tasks, D inputs, L layers.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ico.algorithms import OracleContexts, excess
from ico.types import PyTree, Statistics

_LOST = 1e8  # a context whose loss is beyond it does not count


@functools.partial(jax.jit, static_argnums=(0, 3))
def weights_of(
    model: nn.Module, params: PyTree, statistics: Statistics, all_layers: bool = False
) -> Float[Array, "*L B D"]:
    """The weights that a model (`DiagonalLinearTransformer` ...) fits, or those of every layer."""
    found = model.apply({"params": params}, statistics, method="weights", all_layers=all_layers)
    return cast(Array, found)


class OneSeed(NamedTuple):
    """A model with the parameters of one of its seeds."""

    model: nn.Module
    params: PyTree
    seed: int

    def weights(self, statistics: Statistics, all_layers: bool = False) -> Float[Array, "*L B D"]:
        """As `weights_of`."""
        return weights_of(self.model, self.params, statistics, all_layers)


def init_weights_model(model: nn.Module, num_inputs: int, key: jax.Array) -> PyTree:
    """Initial parameters of such a model for D inputs."""
    D = num_inputs
    shapes = Statistics(jnp.zeros((1, D, D)), jnp.zeros((1, D)), jnp.zeros(1))
    return model.init(key, shapes, method="weights")["params"]


@functools.lru_cache(maxsize=32)
def weights_loss(model: nn.Module, far: float) -> Callable[..., tuple[Array, dict[str, Any]]]:
    """The training loss (params, contexts) -> mean excess over the oracle, large ones tamed.

    A loss l counts as `far log(1 + l / far)`, and one beyond 1e8 not at all. Every layer cubes what
    it is given, so that an untamed model of seven layers maps some contexts beyond all numbers, and
    one of them would be the whole gradient. Losses of trained models are far below.

    Args:
      model: with a method `weights(statistics)`.
      far: where losses begin to count less.

    Returns:
      The same function for equal models: (params, `OracleContexts`) -> (loss, {"lost": share of
      contexts left out}).
    """

    def loss(params, contexts: OracleContexts, *_):
        def losses(statistics):
            w = model.apply({"params": params}, statistics, method="weights")
            return excess(cast(Array, w), contexts.oracle)

        # Looked for first, for what is infinite has no gradient to leave out afterwards.
        kept = jax.lax.stop_gradient(losses(contexts.statistics)) < _LOST
        statistics = jax.tree.map(
            lambda leaf: jnp.where(kept.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0),
            contexts.statistics,
        )
        tamed = far * jnp.log1p(losses(statistics) / far)
        return jnp.mean(tamed), {"lost": 1 - jnp.mean(kept)}

    return loss
