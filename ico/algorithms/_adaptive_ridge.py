"""Ridge regression with unknown noise level: ConstRR, AdaRR and TunedRR of 2402.14180.

All three are (S + s I)^-1 b with S = sum x x^T and b = sum y x (section 3.2 of the paper):

- ConstRR: one s for all tasks, that is `ridge` with a tuned "noise_variance";
- AdaRR: s is estimated in each task, from the residuals of ordinary least squares over N - D;
- TunedRR: that estimate times a tuned factor, capped at a tuned maximum.

How the paper tunes is UNVERIFIED; here a grid is refined three times.

Dimension key: B tasks, N context pairs, Q queries, D inputs, G candidates.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ico.algorithms._linear_solve import solve_positive_definite
from ico.algorithms._statistics import statistics
from ico.tasks import NoisyRegression, noisy_context
from ico.types import Prompt, PyTree, Statistics


def ridge_weights(
    statistics: Statistics, noise_variance: Float[Array, "*B"] | float
) -> Float[Array, "B D"]:
    """`(sum x x^T + s I)^-1 sum y x` for noise variance s, a scalar or [B], one per task.

    With w ~ N(0, I) and s the true noise variance of the task this is the posterior mean, the best
    possible predictor on average (the oracle).

    Raises:
      ValueError: a negative noise variance (if it is a Python number).
    """
    if isinstance(noise_variance, (int, float)) and noise_variance < 0:
        raise ValueError(f"noise_variance must be at least 0, not {noise_variance}")
    B, D = statistics.xy.shape
    s_B = jnp.broadcast_to(jnp.asarray(noise_variance, statistics.xy.dtype), (B,))
    if statistics.xx.ndim == 2:
        return statistics.xy / (statistics.xx + s_B[:, None])
    matrix_BDD = statistics.xx + s_B[:, None, None] * jnp.eye(D, dtype=s_B.dtype)[None]
    return solve_positive_definite(matrix_BDD, statistics.xy[..., None])[..., 0]


def estimated_noise_variance(statistics: Statistics, num_context: int) -> Float[Array, "B"]:
    """The sum of squared residuals of ordinary least squares, divided by N - D.

    Raises:
      ValueError: N <= D, where least squares fits the context exactly.
    """
    D = statistics.xy.shape[1]
    if num_context <= D:
        raise ValueError(
            f"a noise variance is estimated from more pairs than inputs, not {num_context} pairs "
            f"of {D} inputs: use longer contexts, or `ico.algorithms.ridge` with a noise variance"
        )
    ols_BD = ridge_weights(statistics, 0.0)
    residual_B = statistics.yy - jnp.sum(ols_BD * statistics.xy, axis=1)
    return jnp.maximum(residual_B, 0) / (num_context - D)


def adaptive_ridge_weights(
    params: PyTree, statistics: Statistics, num_context: int
) -> Float[Array, "B D"]:
    """The weights w with which `adaptive_ridge` predicts <w, x_query>, from statistics."""
    if not isinstance(params, Mapping):
        raise ValueError("params must be a mapping; of the result of `tune_ridge` pass `.tuned`")
    if unknown := sorted(set(params) - {"multiplier", "maximum"}):
        raise ValueError(f"params may hold 'multiplier' and 'maximum', not {unknown}")
    B = len(statistics.yy)
    for name, value in params.items():
        if jnp.shape(value) not in ((), (B,)):
            raise ValueError(f"{name} must be a scalar or [{B}], not of shape {jnp.shape(value)}")
        if isinstance(value, (int, float)) and not value >= 0:
            raise ValueError(f"{name} must be at least 0, not {value}")
    s_B = estimated_noise_variance(statistics, num_context) * params.get("multiplier", 1.0)
    return ridge_weights(statistics, jnp.minimum(s_B, params.get("maximum", jnp.inf)))


def adaptive_ridge(params: PyTree, prompt: Prompt) -> Float[Array, "B Q 1"]:
    """Ridge regression with a noise variance estimated in context: AdaRR, and TunedRR.

    Args:
      params: {} is AdaRR. With "multiplier", a factor of the estimate, and "maximum", its upper
        limit, it is TunedRR.
      prompt: x [B, N, D], y [B, N, 1], x_query [B, Q, D].

    Raises:
      ValueError: mismatched shapes, N <= D, or unknown or negative parameters.
    """
    w_BD = adaptive_ridge_weights(params, statistics(prompt), prompt.x.shape[1])
    return jnp.einsum("bqd,bd->bq", prompt.x_query, w_BD)[..., None]


class TunedRidge(NamedTuple):
    """Parameters that `tune_ridge` found: of `ridge` and of `adaptive_ridge`."""

    constant: dict[str, float]
    tuned: dict[str, float]


def tune_ridge(task: NoisyRegression, *, num_tasks: int = 65_536, seed: int = 0) -> TunedRidge:
    """The best ConstRR and TunedRR for a distribution of tasks; cached.

    They minimise the excess over the oracle, 1/2 |w - w_oracle|^2, in float64 and in the
    eigenbasis of each S, where a solve for another s costs D divisions.

    Args:
      task: the distribution; its batch size and number of queries are ignored.
      num_tasks: number of contexts to tune on.
      seed: of these contexts; evaluate on others.

    Raises:
      ValueError: no more pairs than inputs, or fewer than two contexts.
    """
    if num_tasks < 2:
        raise ValueError(f"num_tasks must be at least 2, not {num_tasks}")
    N, D = task.num_context, task.num_inputs
    if N <= D:
        raise ValueError(
            f"ridge is tuned on more pairs than inputs, not {N} pairs of {D} inputs: raise "
            "num_context above num_inputs"
        )
    constant, multiplier, maximum = _tuned(dataclasses.replace(task, batch_size=num_tasks), seed)
    return TunedRidge({"noise_variance": constant}, {"multiplier": multiplier, "maximum": maximum})


@functools.lru_cache(maxsize=64)
def _tuned(task: NoisyRegression, seed: int) -> tuple[float, float, float]:
    N, D = task.num_context, task.num_inputs
    context = jax.jit(noisy_context, static_argnums=1)(jax.random.key(seed), task)
    sigma_B = np.asarray(task.sigma(context.u), np.float64)
    xx, xy, yy = (
        np.asarray(leaf, np.float64) for leaf in context.at(jnp.asarray(sigma_B, context.u.dtype))
    )
    values_BD, vectors_BDE = np.linalg.eigh(xx)
    b_BD = np.einsum("bde,bd->be", vectors_BDE, xy)
    oracle_BD = b_BD / (values_BD + sigma_B[:, None] ** 2)
    residual_B = np.maximum(yy - np.sum(b_BD**2 / values_BD, axis=1), 0) / (N - D)

    def excess(s_B):
        return 0.5 * np.mean(np.sum((b_BD / (values_BD + s_B[..., None]) - oracle_BD) ** 2, -1))

    # The optimum is below ten times the largest noise variance.
    top = max(1e3, 10 * float(np.max(sigma_B**2)))
    (constant,), _ = _zoom(lambda s: excess(np.full(1, s)), [(1e-8, top)], 25)

    def adapted(multiplier, maximum):
        return excess(np.minimum(multiplier * residual_B, maximum))

    (multiplier, maximum), least = _zoom(adapted, [(0.1, 10.0), (1e-2, top)], 9)
    if adapted(1.0, np.inf) <= least:  # AdaRR itself
        return constant, 1.0, float("inf")
    return constant, multiplier, maximum


def _zoom(loss, ranges, count: int, rounds: int = 4) -> tuple[tuple[float, ...], float]:
    """Minimises a loss on a logarithmic grid, refined around its best point in every round."""
    best, least = (), np.inf
    for _ in range(rounds):
        axes = [np.geomspace(low, high, count) for low, high in ranges]
        for point in np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)):
            if (value := loss(*point)) < least:
                best, least = tuple(float(x) for x in point), value
        steps = [axis[1] / axis[0] for axis in axes]
        ranges = [(x / step, x * step) for x, step in zip(best, steps, strict=True)]
    return best, float(least)
