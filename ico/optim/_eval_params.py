"""Where to evaluate, for optimizers that average what they step."""

from typing import Any

import jax
import optax

from ico.optim._l3rs import L3RSState, mean_of_iterates

PyTree = Any


def eval_params(state: optax.OptState, params: PyTree) -> PyTree:
    """The parameters to use and to test, of any optimizer; most have no others than those trained.

    Of `ico.optim.l3rs(average=True)` and `optax.contrib.schedule_free` they are the mean of the
    iterates. The optimizer may be inside of others (`chain`, `inject_hyperparams`, `MultiSteps`),
    of which none may move the parameters after it, and must be that of all parameters.

    Args:
      state: of the optimizer.
      params: those trained, of the same step.

    Raises:
      ValueError: several optimizers in the state average.
    """
    kinds = L3RSState, optax.contrib.ScheduleFreeState
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kinds))
    found = [part for part in parts if isinstance(part, kinds) and _averages(part)]
    if len(found) > 1:
        raise ValueError(f"{len(found)} optimizers of this state average: which is to be taken?")
    if not found:
        return params
    if isinstance(found[0], L3RSState):
        mean = mean_of_iterates(found[0], params)
        return jax.tree.map(lambda x, y: x.astype(y.dtype), mean, params)
    return optax.contrib.schedule_free_eval_params(found[0], params)


def _averages(part) -> bool:
    return not isinstance(part, L3RSState) or part.iterate is not None
