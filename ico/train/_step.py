"""One training step, pure."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from ico.optim import Optimizer, with_loss
from ico.train._state import TrainState

PyTree = Any
Metrics = dict[str, Float[Array, ""]]
Step = Callable[..., tuple[TrainState, Metrics]]

NORMS = ("grad_norm", "update_norm", "param_norm")


def make_step(
    loss_fn: Callable[..., tuple[Float[Array, ""], Metrics]],
    optimizer: Optimizer,
) -> Step:
    """Makes a pure `step(state, batch, *given)` for one seed; `fit` adds the axis.

    Args:
      loss_fn: (params, batch) -> (loss [], dict of scalar metrics); under `fit(given=tree)` it is
        called as (params, batch, tree).
      optimizer: gets `value=loss`, if it takes extra arguments; `optax.MultiSteps` does.

    Returns:
      The step, (state, batch, *given) -> (state, metrics). Its metrics are `loss`, `grad_norm`,
      `update_norm`, `param_norm` (Euclidean, the last after the update) and those of `loss_fn`.

    Raises:
      ValueError: (when traced) a metric of `loss_fn` has one of those four names.
    """
    optimizer = with_loss(optimizer)

    def step(state: TrainState, batch: PyTree, *given: PyTree) -> tuple[TrainState, Metrics]:
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, metrics), grads = gradient(state.params, batch, *given)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, value=loss)
        params = optax.apply_updates(state.params, updates)
        ours = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
        }
        if taken := sorted(ours.keys() & metrics.keys()):
            raise ValueError(f"loss_fn's metrics must not be named {taken}: the step sets these")
        return TrainState(state.step + 1, params, opt_state, state.key), ours | metrics

    step.__dict__["optimizer"] = optimizer  # by which `fit` tells the checkpoints of another apart
    return step
