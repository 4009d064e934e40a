"""The parameters to evaluate, for optimizers that average their iterates."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ico.optim._averaging import AveragingState
from ico.optim._iterate_averages import WindowState

PyTree = Any


def eval_params(state: optax.OptState, params: PyTree) -> PyTree:
    """The averaged parameters if the optimizer keeps an average, else params.

    Finds `ico.optim.averaging` (which L3RS uses with `average`), `latest_averaging` and
    `optax.contrib.schedule_free`, also inside of other transforms (`chain`, `inject_hyperparams`,
    `MultiSteps`). The one that averages must be that of all parameters, and no other transform may
    change its updates.

    Args:
      state: of the optimizer.
      params: those trained, after the same step.

    Returns:
      A tree like params, of the same types.

    Raises:
      ValueError: several optimizers in the state average, or one that averages other parameters.
    """
    kinds = AveragingState, WindowState, optax.contrib.ScheduleFreeState
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kinds))
    found = [part for part in parts if isinstance(part, kinds)]
    if len(found) > 1:
        raise ValueError(f"{len(found)} optimizers of this state average: which is to be taken?")
    if not found:
        return params
    part: Any = found[0]
    is_ours = isinstance(part, AveragingState | WindowState)
    like = part.mean if is_ours else part.z
    if jax.tree.map(jnp.shape, like) != jax.tree.map(jnp.shape, params):
        raise ValueError("the optimizer that averages is not that of all these parameters")
    if is_ours:
        return jax.tree.map(lambda x, y: x.astype(y.dtype), like, params)
    return optax.contrib.schedule_free_eval_params(part, params)
