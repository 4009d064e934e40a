"""Averages of iterates, and the learning-rate schedules that they stand for.

An average of the iterates w_0 ... w_T is a vector of weights [T + 1] that sum to one. Everything
here follows from it: the running mean that computes it (`averaged`), the share of each gradient in
it (`gradient_shares`), and the schedule whose last iterate it is (`equivalent_schedule`).

Sources: Sandler et al. 2023 (2301.02312) for averaging as a schedule; stochastic weight averaging:
Izmailov et al. 2018 (1803.05407); LAWA: Kaddour 2022 (2209.14981). The pathwise schedule is derived
here; whether it is the form of the paper's theorem is UNVERIFIED.

T is the number of steps, so there are T + 1 iterates.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ico.optim._averaging import averaging
from ico.optim._by_group import check_floating, in_float32
from ico.optim._with_loss import Optimizer, with_loss

PyTree = Any


@dataclasses.dataclass(frozen=True)
class EMA:
    """The exponential moving average, `x <- decay x + (1 - decay) w`, started at w_0."""

    decay: float

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be in [0, 1), not {self.decay}")

    def weights(self, num_steps: int) -> Float[np.ndarray, "iterates"]:
        """Of the iterates 0 ... num_steps."""
        weights = (1 - self.decay) * self.decay ** np.arange(num_steps, -1.0, -1.0)
        weights[0] = self.decay**num_steps
        return weights


@dataclasses.dataclass(frozen=True)
class SWA:
    """The uniform mean of the last iterates: w_T, w_{T - every}, ..., `last` of them.

    With `last=None` of all after w_0: Polyak's mean.
    """

    last: int | None = None
    every: int = 1

    def __post_init__(self):
        if self.every < 1 or (self.last is not None and self.last < 1):
            raise ValueError(f"last and every must be at least 1, not {self.last}, {self.every}")

    def weights(self, num_steps: int) -> Float[np.ndarray, "iterates"]:
        """Of the iterates 0 ... num_steps; ValueError if those wanted reach back beyond w_0."""
        count = len(range(num_steps, 0, -self.every)) if self.last is None else self.last
        first = num_steps - (count - 1) * self.every
        if first < 0 or not count:
            raise ValueError(f"{self} needs more than {num_steps} steps")
        weights = np.zeros(num_steps + 1)
        weights[first :: self.every] = 1 / count
        return weights


@dataclasses.dataclass(frozen=True)
class TwoPoint:
    """The mean of two iterates, `gap` steps apart: w_T and w_{T - gap}."""

    gap: int

    def __post_init__(self):
        if self.gap < 1:
            raise ValueError(f"gap must be at least 1, not {self.gap}")

    def weights(self, num_steps: int) -> Float[np.ndarray, "iterates"]:
        """Of the iterates 0 ... num_steps; ValueError if the gap reaches back beyond w_0."""
        return SWA(2, self.gap).weights(num_steps)


Average = EMA | SWA | TwoPoint


def averaged(
    inner: Optimizer, average: Average, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that carries an average of its iterates; `eval_params` gives it out.

    The iterates move as without it. It is `averaging` with the weight
    `c_t = w_{t+1} / (w_0 + ... + w_{t+1})`, so it costs one copy of the parameters whatever the
    average, and between its first step and its last it holds that of the iterates so far.

    Args:
      inner: any optimizer.
      average: of which iterates.
      num_steps: T, when the average is wanted. An `EMA` is right after any number of steps.

    Raises:
      ValueError: the average needs more steps.
    """
    if isinstance(average, EMA):
        return averaging(inner, weight=1 - average.decay)
    weights = average.weights(num_steps)
    so_far = np.cumsum(weights)
    shares = np.divide(weights, so_far, out=np.zeros_like(weights), where=so_far > 0)
    table = jnp.asarray(shares[1:], jnp.float32)
    return averaging(inner, weight=lambda count: table[jnp.minimum(count, num_steps - 1)])


def gradient_shares(
    average: Average | Float[np.ndarray, "iterates"], num_steps: int
) -> Float[np.ndarray, "steps"]:
    """c_s: how much of the update of step s is in the average, `sum of w_t over t > s`.

    For plain SGD, whatever the loss, with the gradients g_s of the run itself:
    `average = w_0 - sum_s rate_s c_s g_s`. It is exact for recorded gradients only: another run
    with the rates `rate_s c_s` meets other gradients and ends elsewhere.

    Args:
      average: or its weights.
      num_steps: T.
    """
    weights = _weights(average, num_steps)
    return np.cumsum(weights[::-1])[::-1][1:]


def equivalent_schedule(
    average: Average | Float[np.ndarray, "iterates"],
    learning_rate: float | optax.Schedule,
    num_steps: int,
    *,
    curvature: float,
) -> optax.Schedule:
    """The learning rates with which the last iterate of SGD is the average of another run of SGD.

    Exact, path by path, for a quadratic loss of one curvature a whose minimum is drawn anew every
    step (`w <- w - rate a (w - m_s)`, the same m_s in both runs). With S_s the sum of
    `w_t (1 - a rate_{s+1}) ... (1 - a rate_{t-1})` over t > s and `b_s = a rate_s S_s`, the
    share of m_s in the average, the rates are `b_s / (a (1 - sum of b_r over r > s))`. With
    curvature 0 they are `rate_s c_s` (`gradient_shares`). For a loss with many curvatures it is an
    approximation, for it depends on a.

    Args:
      average: or its weights [T + 1].
      learning_rate: of the run that is averaged: plain SGD, without momentum.
      num_steps: T of both runs.
      curvature: a, at least 0.

    Returns:
      A schedule of the steps done; after T it stays.

    Raises:
      ValueError: a negative curvature, or an average that needs more steps.
    """
    rates = _equivalent_rates(average, learning_rate, num_steps, curvature)
    table = jnp.asarray(rates, jnp.promote_types(jnp.float32, jnp.asarray(0.0).dtype))
    return lambda count: table[jnp.clip(count, 0, num_steps - 1)]


def _equivalent_rates(average, learning_rate, num_steps, curvature):
    if curvature < 0:
        raise ValueError(f"curvature must be at least 0, not {curvature}")
    weights, rates = _weights(average, num_steps), _rates(learning_rate, num_steps)
    if curvature == 0:
        return rates * gradient_shares(weights, num_steps)
    found = np.zeros(num_steps)
    reach, later = 0.0, 0.0  # S_s, and the sum of the b_r after it
    for s in reversed(range(num_steps)):
        kept = 1 - curvature * rates[s + 1] if s + 1 < num_steps else 0.0
        reach = weights[s + 1] + kept * reach
        share = curvature * rates[s] * reach
        found[s] = share / (curvature * (1 - later))
        later += share
    return found


def equivalent_average(
    schedule: optax.Schedule,
    learning_rate: float | optax.Schedule,
    num_steps: int,
    *,
    curvature: float,
) -> Float[np.ndarray, "iterates"]:
    """The weights of the average that a schedule mimics: the inverse of `equivalent_schedule`.

    Linear decay to zero, for instance, mimics at curvature 0 the mean of all iterates. Where the
    schedule rises weights are negative.

    Args:
      schedule: of the run whose last iterate is to be had.
      learning_rate: of the run to average; positive.
      num_steps: T of both.
      curvature: a, at least 0.

    Returns:
      The weights of the iterates 0 ... T, which sum to one.

    Raises:
      ValueError: a negative curvature, or a learning rate that is not positive.
    """
    if curvature < 0:
        raise ValueError(f"curvature must be at least 0, not {curvature}")
    target, rates = _rates(schedule, num_steps), _rates(learning_rate, num_steps)
    if (rates <= 0).any():
        raise ValueError("the learning rates of the run to average must be positive")
    # S_s of both runs, b_s / (a rate_s); without a, c_s.
    kept = np.cumprod(np.append(1.0, 1 - curvature * target[:0:-1]))[::-1]
    reach = target * kept / rates
    after = np.append(reach[1:], 0.0)
    later = 1 - curvature * np.append(rates[1:], 0.0)
    weights = reach - later * after
    return np.append(1 - weights.sum(), weights)


def _weights(average, num_steps: int):
    if isinstance(average, EMA | SWA | TwoPoint):
        return average.weights(num_steps)
    weights = np.asarray(average, float)
    if weights.shape != (num_steps + 1,):
        raise ValueError(f"want {num_steps + 1} weights, not {weights.shape}")
    return weights


def _rates(learning_rate, num_steps: int):
    if not callable(learning_rate):
        return np.full(num_steps, float(learning_rate))
    return np.array([float(learning_rate(step)) for step in range(num_steps)])


class WindowState(NamedTuple):
    """State of `latest_averaging`.

    Fields:
      count: steps done.
      window: the latest checkpoints, float32, each leaf [size, ...]; those not yet taken are the
        start.
      inner: state of the inner optimizer.
    """

    count: Int[Array, ""]
    window: PyTree
    inner: optax.OptState

    @property
    def mean(self) -> PyTree:
        """The mean of the window."""
        return jax.tree.map(lambda leaf: leaf.mean(0), self.window)


def latest_averaging(
    inner: Optimizer, size: int, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """LAWA: at any moment the mean of the latest `size` checkpoints, one taken `every` steps.

    The iterates move as without it. It holds `size` copies of the parameters; where only one
    moment is of interest `averaged(inner, SWA(size, every), num_steps)` holds one.

    Raises:
      ValueError: size or every below 1; (in `update`) params are missing.
    """
    if size < 1 or every < 1:
        raise ValueError(f"size and every must be at least 1, not {size} and {every}")
    inner = with_loss(inner)

    def init(params):
        check_floating("latest_averaging", params)
        window = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)) + 0, in_float32(params)
        )
        return WindowState(jnp.zeros((), jnp.int32), window, inner.init(params))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("latest_averaging needs params: update(grads, state, params)")
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        count = state.count + 1
        place = (count // every - 1) % size
        taken = count % every == 0

        def put(window, leaf, update):
            moved = leaf.astype(window.dtype) + update.astype(window.dtype)
            return window.at[place].set(jnp.where(taken, moved, window[place]))

        window = jax.tree.map(put, state.window, params, updates)
        return updates, WindowState(count, window, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
