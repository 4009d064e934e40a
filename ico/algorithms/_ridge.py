"""Ridge regression: the posterior mean under a Gaussian prior.

Dimension key: B tasks, N context pairs, Q queries, D inputs, K outputs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ico.algorithms._checks import check_prompt, parameter
from ico.algorithms._least_squares import least_squares
from ico.types import Prompt, PyTree, working_dtype


def ridge(params: PyTree, prompt: Prompt) -> Float[Array, "B Q K"]:
    """`argmin_W sum_i |W x_i - y_i|^2 / s + (W - M) A (W - M)^T`, then `W x_query`.

    This is the posterior mean under noise of variance s and the prior N(M, A^-1) on each row of W:
    the best possible predictor if tasks are drawn from that prior. The normal equations are not
    formed, so it is accurate for any s; where s is zero it is the limit, which of all best fits is
    the one nearest to M.

    Args:
      params: {"noise_variance": s, scalar or [B], one per task, at least 0;
        optional "precision": A as scalar, [D] or [D, D], positive definite (default 1);
        optional "mean": M [K, D] (default 0)}.
      prompt: x [B, N, D], y [B, N, K], x_query [B, Q, D]; any number of pairs, none included.

    Returns:
      Predictions in the dtype of y, computed in float32 or better.

    Raises:
      ValueError: mismatched shapes, a negative noise variance or a precision that is not positive
        (if not traced).
    """
    check_prompt(prompt)
    B, _, D = prompt.x.shape
    K, dtype = prompt.y.shape[-1], working_dtype(*prompt)
    x_BND, y_BNK, query_BQD = (a.astype(dtype) for a in prompt)
    noise_B = jnp.broadcast_to(parameter(params, "noise_variance", dtype, (), (B,)), (B,))
    precision = parameter(params, "precision", dtype, (), (D,), (D, D), default=1.0)
    mean_KD = parameter(params, "mean", dtype, (K, D), default=jnp.zeros((K, D)))
    _check_positive(noise_B, precision)

    answer_BQK = jnp.einsum("bqd,kd->bqk", query_BQD, mean_KD)
    y_BNK = y_BNK - jnp.einsum("bnd,kd->bnk", x_BND, mean_KD)
    if precision.ndim:
        # In the coordinates in which the prior has unit variance.
        x_BND, query_BQD = (_whitened(a, precision) for a in (x_BND, query_BQD))
    else:
        noise_B = noise_B * precision
    answer_BQK = answer_BQK + query_BQD @ least_squares(x_BND, noise_B)(y_BNK)
    return answer_BQK.astype(prompt.y.dtype)


def _whitened(x_BND, precision):
    """x C^-T, where C C^T is the precision: a weight vector is C^-T times one of variance 1."""
    if precision.ndim == 1:
        return x_BND / jnp.sqrt(precision)[None, None]
    inverse_DD = jax.scipy.linalg.solve_triangular(
        jnp.linalg.cholesky(precision), jnp.eye(len(precision), dtype=precision.dtype), lower=True
    )
    return jnp.einsum("bnd,ed->bne", x_BND, inverse_DD)


def _check_positive(noise_B, precision):
    """Raises ValueError for values that are known to be no variance or no precision."""
    if not isinstance(noise_B, jax.core.Tracer) and not np.all(np.asarray(noise_B) >= 0):
        raise ValueError("noise_variance must be at least 0")
    if isinstance(precision, jax.core.Tracer):
        return
    known = np.asarray(precision, np.float64)
    if known.ndim == 2:
        if not np.all(np.isfinite(known)) or np.linalg.eigvalsh(known).min(initial=1) <= 0:
            raise ValueError("precision must be positive definite: give directions a small value")
    elif not np.all(known > 0 if known.ndim else known >= 0):
        raise ValueError("precision must be positive: give directions without a prior a small one")
