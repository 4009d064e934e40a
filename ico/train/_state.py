"""The training state: a plain pytree, with an optional seed axis on every leaf."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from ico.optim import Optimizer

PyTree = Any

# Steps count from 0 in int32, so this value of fold_in belongs to no batch. With Threefry
# split(key)[i] == fold_in(key, i): were the initialiser given `key` itself, its subkeys would be
# those of the first batches.
_INIT = np.uint32(2**32 - 1)


class TrainState(NamedTuple):
    """All that a run needs to go on, but for a Stream's position.

    `step` counts the steps done. `key` is a typed key that never changes: the batch of step n is
    `sampler(fold_in(key, n))`, so no number has to be carried from step to step.
    With a seed axis every leaf has a leading dimension S.
    """

    step: Int[Array, "*S"]
    params: PyTree
    opt_state: PyTree
    key: Key[Array, "*S"]


def init_state(
    init_params: Callable[[Key[Array, ""]], PyTree],
    optimizer: Optimizer,
    key: Key[Array, "*S"],
) -> TrainState:
    """Builds the state before step 0.

    Args:
      init_params: key [] -> parameters. It gets a key derived from `key`, apart from all batches'.
      optimizer: gives the optimizer state.
      key: typed key of shape [], or [S] for a state stacked over S seeds.

    Returns:
      A TrainState; seed i of a stacked one equals `init_state(init_params, optimizer, key[i])`.

    Raises:
      TypeError: `key` is not typed (`jax.random.key`).
      ValueError: `key` has more than one axis.
    """
    if not jnp.issubdtype(getattr(key, "dtype", np.float32), jax.dtypes.prng_key):
        raise TypeError("key must be typed: use jax.random.key(seed), not jax.random.PRNGKey")
    if key.ndim > 1:
        raise ValueError(f"key must have shape [] or [S], not {list(key.shape)}")

    def init(key: Key[Array, ""]) -> TrainState:
        params = init_params(jax.random.fold_in(key, _INIT))
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)

    # Compiled whole: op by op, an initialisation is dozens of small compilations.
    return jax.jit(jax.vmap(init) if key.ndim else init)(key)
