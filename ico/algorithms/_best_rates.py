"""Gradient descent and GD++ at their best rates, by the exact expected loss.

Where w is isotropic and the query's inputs are independent and of equal variance, the expected loss
given the context depends on its inputs through the eigenvalues of X^T X alone. In the eigenvector
with eigenvalue lambda, GD++ keeps a scale a (of the inputs) and an error e (what is left of w),
both starting at 1:

    e <- e (1 - rate/N a^2 lambda),   a <- a (1 - gamma a^2 lambda),

so that the loss is `1/2 Var(x) sum_i e_i^2`. No noise is left but that of the context's inputs, and
rates are fitted in seconds. gamma = 0 is gradient descent.

Dimension key: M contexts, D eigenvalues of each, S steps, R starts.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from ico.types import PyTree

_PADDED_STEPS = 12  # fits of up to this many steps share one compiled program
_STARTS = 3


def expected_loss(
    rate: Float[Array, "S"],
    gamma: Float[Array, "S"],
    eigenvalues: Float[Array, "M D"],
    num_context: int | Float[Array, ""],
    input_variance: float | Float[Array, ""],
) -> Float[Array, "S"]:
    """The expected loss of GD++ after each step, averaged over M contexts.

    Args:
      rate, gamma: of each step; gamma 0 is gradient descent.
      eigenvalues: of X^T X of every context.
      num_context: N.
      input_variance: of every input of the query.
    """

    def step(carry, rate_gamma):
        error_MD, scale_MD = carry
        rate, gamma = rate_gamma
        curvature_MD = scale_MD**2 * eigenvalues
        error_MD = error_MD * (1 - rate / num_context * curvature_MD)
        scale_MD = scale_MD * (1 - gamma * curvature_MD)
        return (error_MD, scale_MD), jnp.mean(jnp.sum(error_MD**2, axis=-1))

    ones = jnp.ones_like(eigenvalues)
    # Unrolled, the steps of a context stay in registers: several times faster.
    _, squares_S = jax.lax.scan(step, (ones, ones), (rate, gamma), unroll=True)
    return 0.5 * input_variance * squares_S


def best_rates(
    eigenvalues: Float[Array, "M D"],
    num_steps: int,
    judge: Callable[[PyTree], float],
    key: Key[Array, ""],
    *,
    num_context: int,
    input_variance: float,
    plain: bool = False,
    num_updates: int = 200,
) -> dict[str, dict[str, Array]]:
    """The best rate and gamma of GD++, the same for all steps and one for each.

    L-BFGS on `expected_loss` from several starts. Start and iterate are chosen by `judge`, which
    matters: many free steps fitted to the end blow up on one context in ten thousand, or by
    rounding.

    Args:
      eigenvalues: of X^T X of the contexts to fit on.
      num_steps: S.
      judge: {"rate" [S], "gamma" [S]} -> the algorithm's own loss on other tasks.
      key: of the starts.
      num_context, input_variance: as `expected_loss`.
      plain: whether gamma is 0, which fits gradient descent.
      num_updates: of L-BFGS, from each start.

    Returns:
      {"tied", "free"}: each {"rate", "gamma"}, scalars or [S], as `gd_plus_plus` takes them.

    Raises:
      ValueError: every start ended at a loss not finite.
    """
    steps = max(num_steps, _PADDED_STEPS)
    problem = _Problem(
        active_S=np.arange(steps) < num_steps,
        plain=np.asarray(plain),
        num_context=np.asarray(num_context, np.float32),
        input_variance=np.asarray(input_variance, np.float32),
    )

    def learned(log_2S, steps):
        rate_S, gamma_S = _unpack(log_2S, problem)
        return {"rate": rate_S[steps], "gamma": gamma_S[steps]}

    def descend(starts):
        def loss(log_2S):
            return _log_loss(log_2S, problem, eigenvalues)

        return _descend(starts, loss, lambda x: judge(learned(x, slice(num_steps))), num_updates)

    random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    # Around one step's rate and the paper's gamma (2212.07677, A.10: 0.18 for N = 10).
    around_21 = np.log([[3.0], [1.0 / num_context]])
    tied_21 = descend(around_21 + random.uniform(-0.7, 0.7, (_STARTS, 2, 1)))
    # A rate a step starts at the best single rate, so that it cannot end above it.
    noise_R2S = random.normal(0, 0.3, (_STARTS, 2, steps))
    noise_R2S[0] = 0
    free_2S = descend(tied_21 + noise_R2S)
    return {"tied": learned(tied_21, 0), "free": learned(free_2S, slice(num_steps))}


class _Problem(NamedTuple):
    """One fit. Traced, and padded to as many steps as other fits, so that all compile once."""

    active_S: np.ndarray
    plain: np.ndarray
    num_context: np.ndarray
    input_variance: np.ndarray


def _unpack(log_2S, problem):
    """Rates and gammas [S] from their logarithms [2, S] or, alike for all steps, [2, 1]."""
    # Steps that are padding do nothing.
    active_S = jnp.asarray(problem.active_S, jnp.float32)
    rate_S, gamma_S = jnp.exp(jnp.asarray(log_2S, jnp.float32)) * active_S[None]
    return rate_S, jnp.where(problem.plain, 0.0, gamma_S)


@jax.jit
def _log_loss(log_2S, problem, values_MD):
    """The logarithm of the expected loss after the last step, and its gradient."""

    def loss(log_2S):
        sizes = (problem.num_context, problem.input_variance)
        return jnp.log(expected_loss(*_unpack(log_2S, problem), values_MD, *sizes)[-1])

    return jax.value_and_grad(loss)(log_2S)


def _descend(starts, log_loss, judge, num_updates: int) -> np.ndarray:
    """The best by `judge`, a loss on other tasks, of L-BFGS's iterates (each 20th) and starts."""
    from scipy.optimize import minimize  # dear to import, and needed here only

    shape = starts[0].shape
    best, best_loss = None, np.inf

    def loss(flat):
        value, gradient = log_loss(jnp.asarray(flat.reshape(shape), jnp.float32))
        gradient = np.asarray(gradient, np.float64).ravel()
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 100.0, np.zeros_like(gradient)  # a wall: the line search turns back
        return float(value), gradient

    def consider(flat):
        nonlocal best, best_loss
        candidate = flat.reshape(shape).copy()
        value = judge(candidate)
        if value < best_loss:
            best, best_loss = candidate, value

    for start in starts:
        consider(start.ravel())
        counter = itertools.count(1)

        def callback(flat, counter=counter):
            if next(counter) % 20 == 0:
                consider(flat)

        options = {"maxiter": num_updates, "maxcor": 20}
        result = minimize(
            loss, start.ravel(), jac=True, method="L-BFGS-B", options=options, callback=callback
        )
        consider(result.x)
    if best is None:
        raise ValueError("no start of the fitted rates ended at a finite loss")
    return best


def gram_eigenvalues(x_MND: Num[Any, "M N D"]) -> Float[np.ndarray, "M D"]:
    """Eigenvalues of sum x x^T over the N inputs of each context, in float64; none negative."""
    x_MND = np.asarray(x_MND, np.float64)
    return np.linalg.eigvalsh(np.swapaxes(x_MND, 1, 2) @ x_MND).clip(min=0)
