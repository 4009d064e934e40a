"""A running mean of an optimizer's iterates: EMA, SWA, Polyak's mean, schedule-free optimizers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ico.optim._by_group import check_floating, in_float32
from ico.optim._with_loss import Optimizer, with_loss

PyTree = Any
# A number, or a schedule of the steps done.
Coefficient = float | Float[Array, ""] | optax.Schedule


class AveragingState(NamedTuple):
    """State of `averaging`.

    Fields:
      count: steps done.
      iterate: z, float32; None where it is the parameters themselves (`interpolation=0`).
      mean: x, float32: the parameters to evaluate (`ico.optim.eval_params`).
      inner: state of the inner optimizer.
    """

    count: Int[Array, ""]
    iterate: PyTree
    mean: PyTree
    inner: optax.OptState


class Coefficients(NamedTuple):
    """The coefficients of one step, each a scalar or a tree of scalars like the parameters.

    Fields:
      weight: c_t, of the newest iterate in the mean.
      interpolation: b, of the mean in the parameters.
    """

    weight: PyTree
    interpolation: PyTree


def uniform_weight(count: ArrayLike) -> Float[Array, ""]:
    """`1 / (count + 1)`: with it as c_t the mean is that of all iterates after the start."""
    return 1.0 / (jnp.asarray(count, jnp.float32) + 1.0)


def averaging(
    inner: Optimizer,
    weight: Coefficient = uniform_weight,
    interpolation: Coefficient = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Averages the iterates of any optimizer.

        z <- z + update,   x <- x + c_t (z - x),   parameters = b x + (1 - b) z

    z, the iterate, is moved by the inner optimizer; x is its running mean, and what is to be
    evaluated: `ico.optim.eval_params(state, params)`. Gradients are taken at the parameters.

    - b = 0 and c_t = 1 - decay: exponential moving average (EMA).
    - b = 0 and c_t = 1 / (t + 1): the uniform mean (Polyak and Juditsky 1992); with a schedule that
      is zero between the steps to average, stochastic weight averaging (SWA, 1803.05407).
    - b = 0.9 and c_t = 1 / (t + 1): schedule-free optimizers (Defazio et al. 2024, 2405.15682).

    The mean starts at the parameters; c_0 = 1 forgets them, a constant does not. With b = 0 the
    parameters are the iterate and the inner optimizer's updates pass unchanged, so training is the
    same with and without the wrapper, and only the mean is stored. With another b z is stored too,
    and the inner optimizer should have no momentum, for b gives one.

    No other transform may change the updates after this one, so it is last in a chain.

    Args:
      inner: the optimizer whose iterates are averaged. It gets gradients and parameters in float32
        or better, and all extra arguments, `value=loss` among them.
      weight: c_t in [0, 1], a number or a schedule of the steps done, 0 at the first.
      interpolation: b in [0, 1), likewise.

    Returns:
      A transform whose `update` needs params. Its state is float32 or better, its updates have the
      type of the gradients.

    Raises:
      ValueError: a coefficient (a number, not traced) out of range; (in `init`) parameters that are
        not floating-point; (in `update`) params are missing.

    Example:
      >>> import ico, jax.numpy as jnp, optax
      >>> optimizer = ico.optim.averaging(optax.sgd(1.0), weight=0.5)  # EMA with decay 0.5
      >>> params = jnp.array(0.0)
      >>> state = optimizer.init(params)
      >>> for _ in range(2):
      ...     updates, state = optimizer.update(jnp.array(-1.0), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(params, ico.optim.eval_params(state, params))
      2.0 1.25
    """
    for name, value in (("weight", weight), ("interpolation", interpolation)):
        if isinstance(value, int | float) and not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], not {value}")

    def coefficients(count, inner_state, params):
        del inner_state, params
        return Coefficients(_at(weight, count), _at(interpolation, count))

    stores_iterate = not (isinstance(interpolation, int | float) and interpolation == 0)
    return _averaging(inner, coefficients, stores_iterate)


def averaging_by(
    inner: Optimizer,
    coefficients: Callable[[Int[Array, ""], optax.OptState, PyTree], Coefficients],
) -> optax.GradientTransformationExtraArgs:
    """`averaging` whose coefficients an optimizer chooses itself, if need be for every parameter.

    Args:
      inner: the optimizer whose iterates are averaged.
      coefficients: (steps done before this one, the inner optimizer's state after this step,
        params) -> `Coefficients`; `L3RS` reads them from its state.

    Returns, Raises: as `averaging`.
    """
    return _averaging(inner, coefficients, stores_iterate=True)


def _averaging(inner, coefficients, stores_iterate: bool):
    inner = with_loss(inner)

    def init(params):
        check_floating("averaging", params)
        params = in_float32(params)
        # Copies, so that parameters may be donated.
        iterate = jax.tree.map(jnp.array, params) if stores_iterate else None
        mean = jax.tree.map(jnp.array, params)
        return AveragingState(jnp.zeros((), jnp.int32), iterate, mean, inner.init(params))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("averaging needs params: update(grads, state, params)")
        types = jax.tree.map(lambda a: a.dtype, updates)
        updates, params = in_float32(updates), in_float32(params)
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        weight, interpolation = coefficients(state.count, inner_state, params)
        start = state.iterate if stores_iterate else params
        iterate = jax.tree.map(jnp.add, start, updates)
        mean = _interpolate(state.mean, iterate, weight)
        if stores_iterate:
            moved = _interpolate(iterate, mean, interpolation)
            updates = jax.tree.map(jnp.subtract, moved, params)
        updates = jax.tree.map(lambda u, kind: u.astype(kind), updates, types)
        iterate = iterate if stores_iterate else None
        return updates, AveragingState(state.count + 1, iterate, mean, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _at(coefficient: Coefficient, count):
    return coefficient(count) if callable(coefficient) else coefficient


def _interpolate(start: PyTree, end: PyTree, share: PyTree) -> PyTree:
    """`start + share (end - start)`; the share is a scalar, or a tree of scalars like the others.

    In the type of `start`: states keep theirs.
    """
    share = jax.tree.broadcast(share, start)
    return jax.tree.map(lambda a, b, c: (a + c * (b - a)).astype(a.dtype), start, end, share)
