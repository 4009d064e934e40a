"""Ridge regression: the posterior mean under a Gaussian prior.

Dimension key: B tasks, N context pairs, Q queries, D inputs, K outputs.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.algorithms._linear_solve import solve_positive_definite
from ico.types import Prompt, PyTree


def ridge(params: PyTree, prompt: Prompt) -> Float[Array, "B Q K"]:
    """`argmin_W sum_i |W x_i - y_i|^2 / s + (W - M) A (W - M)^T`, then `W x_query`.

    This is the posterior mean for noise variance s and the prior W ~ N(M, A^-1) on each row: the
    best predictor there is where that prior is true.

    Args:
      params: {"noise_variance": s, scalar > 0, or [B] one a task;
        optional "precision": A as scalar, [D] or [D, D] (default 1);
        optional "mean": M [K, D] (default 0)}.
      prompt: x [B, N, D], y [B, N, K], x_query [B, Q, D].

    Raises:
      ValueError: a precision that is neither scalar, [D] nor [D, D].
    """
    x_BND, y_BNK, query_BQD = prompt
    B, _, D = x_BND.shape
    noise = jnp.broadcast_to(jnp.asarray(params["noise_variance"], x_BND.dtype), (B,))
    precision = jnp.asarray(params.get("precision", 1.0), x_BND.dtype)
    if precision.ndim < 2:
        precision = jnp.diag(jnp.broadcast_to(precision, (D,)))
    if precision.shape != (D, D):
        raise ValueError(f"precision must be a scalar, [{D}] or [{D}, {D}], not {precision.shape}")
    mean_KD = params.get("mean", jnp.zeros((y_BNK.shape[-1], D), x_BND.dtype))

    residual_BNK = y_BNK - jnp.einsum("bnd,kd->bnk", x_BND, mean_KD)
    # Multiplied through by s, so that a small s loses no digits.
    matrix_BDD = jnp.einsum("bnd,bne->bde", x_BND, x_BND) + noise[:, None, None] * precision[None]
    rhs_BDK = jnp.einsum("bnd,bnk->bdk", x_BND, residual_BNK)
    w_BDK = solve_positive_definite(matrix_BDD, rhs_BDK) + mean_KD.T[None]
    return jnp.einsum("bqd,bdk->bqk", query_BQD, w_BDK)
