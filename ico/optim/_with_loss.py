"""Optimizers that are given the loss, whatever wraps them."""

import inspect
from typing import Any

import optax

Optimizer = optax.GradientTransformation | optax.MultiSteps


def with_loss(optimizer: Optimizer) -> optax.GradientTransformationExtraArgs:
    """The optimizer with an `update` that takes `value=loss` and further arguments.

    `optax.with_extra_args_support` goes by the optimizer's class, and drops the arguments where
    that is another, though `optax.MultiSteps` and its `gradient_transformation()` pass them on.
    This goes by the signature of `update`.

    Args:
      optimizer: any. Wrappers that pass nothing on (`optax.lookahead`) get nothing.

    Example:
      >>> import ico, optax
      >>> twice = ico.optim.with_loss(optax.MultiSteps(optax.adam(0.1), 2))
      >>> params = {"w": 1.0}
      >>> updates, state = twice.update({"w": 0.5}, twice.init(params), params, value=2.0)
    """
    given: Any = optimizer  # optax has no one type for all of these
    parameters = inspect.signature(given.update).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return optax.GradientTransformationExtraArgs(given.init, given.update)
    return optax.with_extra_args_support(given)
