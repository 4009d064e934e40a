"""Ridge regression with a noise variance that is estimated in context (2402.14180, section 3.2).

Dimension key: B tasks, N context pairs, Q queries, D inputs.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.algorithms._linear_solve import solve_positive_definite
from ico.algorithms._statistics import statistics
from ico.types import Prompt, PyTree, Statistics


def ridge_weights(
    statistics: Statistics, noise_variance: Float[Array, "*B"] | float
) -> Float[Array, "B D"]:
    """`(sum x x^T + s I)^-1 sum y x` for noise variance s, a scalar or [B], one per task.

    With w ~ N(0, I) and s the true noise variance of the task this is the posterior mean, the best
    possible predictor on average (the oracle). Without noise it is least squares, and of several
    best weights the smallest. Sums of products have the squared condition number of the inputs:
    from a prompt, `ridge` is more accurate.

    Raises:
      ValueError: a negative noise variance (if it is a Python number).
    """
    if isinstance(noise_variance, (int, float)) and noise_variance < 0:
        raise ValueError(f"noise_variance must be at least 0, not {noise_variance}")
    B, D = statistics.xy.shape
    s_B = jnp.broadcast_to(jnp.asarray(noise_variance, statistics.xy.dtype), (B,))
    if statistics.xx.ndim == 2:
        scale_BD = statistics.xx + s_B[:, None]
        return jnp.where(scale_BD > 0, statistics.xy / jnp.where(scale_BD > 0, scale_BD, 1), 0)
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
    """As `adaptive_ridge`, on the statistics of contexts: the weights that answer any query.

    Args:
      params: as for `adaptive_ridge`.
      statistics: of B contexts.
      num_context: N, the pairs that they are sums over.

    Raises:
      ValueError: N <= D, or other or negative parameters.
    """
    if not isinstance(params, Mapping):
        raise ValueError(f"params must be a mapping such as {{'multiplier': 1.5}}, not {params!r}")
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
    """Ridge regression whose noise variance is estimated in each context.

    Args:
      params: {} takes the estimate as it is (AdaRR of the paper); "multiplier" scales it and
        "maximum" caps it (TunedRR).
      prompt: x [B, N, D], y [B, N, 1], x_query [B, Q, D].

    Raises:
      ValueError: mismatched shapes, N <= D, or unknown or negative parameters.
    """
    w_BD = adaptive_ridge_weights(params, statistics(prompt), prompt.x.shape[1])
    return jnp.einsum("bqd,bd->bq", prompt.x_query, w_BD)[..., None]
