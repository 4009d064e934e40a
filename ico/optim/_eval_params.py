"""Where to evaluate, for optimizers that average what they step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ico.optim._l3rs import L3RSState

PyTree = Any


def eval_params(state: optax.OptState, params: PyTree) -> PyTree:
    """The parameters to use and to test, of any optimizer; most have no others than those trained.

    Of `ico.optim.l3rs(average=True)` and `optax.contrib.schedule_free` they are the mean of the
    iterates. The optimizer may be inside of others (`chain`, `inject_hyperparams`, `MultiSteps`),
    and must be that of all parameters; with `schedule_free` no other may move them after it.

    Args:
      state: of the optimizer.
      params: those trained, of the same step.

    Raises:
      ValueError: several optimizers in the state average, or one that averages other parameters.
    """
    kinds = L3RSState, optax.contrib.ScheduleFreeState
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kinds))
    found = [part for part in parts if isinstance(part, kinds) and _averages(part)]
    if len(found) > 1:
        raise ValueError(f"{len(found)} optimizers of this state average: which is to be taken?")
    if not found:
        return params
    part: Any = found[0]
    ours = isinstance(part, L3RSState)
    like = part.mean if ours else part.z
    if jax.tree.map(jnp.shape, like) != jax.tree.map(jnp.shape, params):
        raise ValueError("the optimizer that averages is not that of all these parameters")
    if ours:
        return jax.tree.map(lambda x, y: x.astype(y.dtype), like, params)
    return optax.contrib.schedule_free_eval_params(part, params)


def _averages(part) -> bool:
    return not isinstance(part, L3RSState) or part.mean is not None
