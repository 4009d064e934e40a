"""Ridge regression: the posterior mean under a Gaussian prior.

Dimension key: B tasks, N context pairs, Q queries, D inputs, K outputs.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.algorithms._checks import check_prompt, parameter
from ico.algorithms._linear_solve import solve_positive_definite
from ico.types import Prompt, PyTree


def ridge(params: PyTree, prompt: Prompt) -> Float[Array, "B Q K"]:
    """`argmin_W sum_i |W x_i - y_i|^2 / s + (W - M) A (W - M)^T`, then `W x_query`.

    This is the posterior mean under noise of variance s and the prior N(M, A^-1) on each row of W:
    the best possible predictor if tasks are drawn from that prior.

    Args:
      params: {"noise_variance": s, scalar > 0, or [B], one per task;
        optional "precision": A as scalar, [D] or [D, D] (default 1);
        optional "mean": M [K, D] (default 0)}.
      prompt: x [B, N, D], y [B, N, K], x_query [B, Q, D].

    Raises:
      ValueError: mismatched shapes.
    """
    check_prompt(prompt)
    x_BND, y_BNK, query_BQD = prompt
    B, _, D = x_BND.shape
    K, dtype = y_BNK.shape[-1], x_BND.dtype
    noise = jnp.broadcast_to(parameter(params, "noise_variance", dtype, (), (B,)), (B,))
    precision = parameter(params, "precision", dtype, (), (D,), (D, D), default=1.0)
    if precision.ndim < 2:
        precision = jnp.diag(jnp.broadcast_to(precision, (D,)))
    mean_KD = parameter(params, "mean", dtype, (K, D), default=jnp.zeros((K, D)))

    residual_BNK = y_BNK - jnp.einsum("bnd,kd->bnk", x_BND, mean_KD)
    # The normal equations are multiplied by s, so that a small s costs no precision.
    matrix_BDD = jnp.einsum("bnd,bne->bde", x_BND, x_BND) + noise[:, None, None] * precision[None]
    rhs_BDK = jnp.einsum("bnd,bnk->bdk", x_BND, residual_BNK)
    w_BDK = solve_positive_definite(matrix_BDD, rhs_BDK) + mean_KD.T[None]
    return jnp.einsum("bqd,bdk->bqk", query_BQD, w_BDK)
