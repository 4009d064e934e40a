"""Two learners for classes: the nearest class mean, and logistic regression.

Dimension key: B tasks, N support points, Q queries, D features, K classes.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.algorithms._checks import check_prompt, parameter
from ico.types import Prompt, PyTree, working_dtype


def class_means(x: Float[Array, "B N D"], y: Float[Array, "B N K"]) -> Float[Array, "B K D"]:
    """The mean of each class's points; zero for a class without. Rows of zeros in y have none."""
    sums_BKD = jnp.einsum("bnk,bnd->bkd", y, x)
    return sums_BKD / jnp.maximum(y.sum(1), 1)[..., None]


def nearest_class_mean(params: PyTree, prompt: Prompt) -> Float[Array, "B Q K"]:
    """Logits `-scale |x_query - mean_k|^2`: the prototypes of Snell et al. 2017 for any inputs.

    Args:
      params: {"scale": optional, a number or [B]; default 1}.
      prompt: x [B, N, D], one-hot y [B, N, K] (zeros: no label, not used), x_query [B, Q, D].

    Raises:
      ValueError: mismatched shapes.
    """
    check_prompt(prompt)
    dtype = working_dtype(*prompt)
    x_BND, y_BNK, query_BQD = (a.astype(dtype) for a in prompt)
    scale = parameter(params, "scale", dtype, (), (len(x_BND),), default=1.0)
    means_BKD = class_means(x_BND, y_BNK)
    # Not the expanded square: it loses digits where means are far from zero.
    gaps_BQKD = query_BQD[:, :, None] - means_BKD[:, None]
    logits_BQK = -jnp.sum(gaps_BQKD**2, axis=-1)
    return (logits_BQK * scale.reshape(-1, 1, 1)).astype(prompt.y.dtype)


def logistic_regression(
    params: PyTree, prompt: Prompt, *, num_steps: int = 200
) -> Float[Array, "B Q K"]:
    """Logits of multinomial logistic regression, fitted to the support points by Nesterov's method.

    `min_W mean CE(W x + b, y) + penalty / 2 |W|^2` over the labelled points; b is not penalised.

    Args:
      params: {"penalty": positive, a number or [B]}.
      prompt: x [B, N, D], one-hot y [B, N, K] (zeros: no label, not used), x_query [B, Q, D].
      num_steps: of the fit.

    Raises:
      ValueError: mismatched shapes.
    """
    check_prompt(prompt)
    dtype = working_dtype(*prompt)
    x_BND, query_BQD = (_with_one(a.astype(dtype)) for a in (prompt.x, prompt.x_query))
    y_BNK = prompt.y.astype(dtype)
    B, D, K = len(x_BND), x_BND.shape[-1], y_BNK.shape[-1]
    penalty_B = jnp.broadcast_to(parameter(params, "penalty", dtype, (), (B,)), (B,))
    share_BN = y_BNK.sum(-1)
    share_BN = share_BN / jnp.maximum(share_BN.sum(-1, keepdims=True), 1)
    penalised_D = jnp.ones(D, dtype).at[-1].set(0)
    # The Hessian is at most half the second moment of the points, plus the penalty.
    size_B = jnp.einsum("bn,bnd->b", share_BN, x_BND**2)
    rate_B11 = (1 / (0.5 * size_B + penalty_B))[:, None, None]

    def gradient(w_BDK):
        gap_BNK = (jax.nn.softmax(x_BND @ w_BDK, axis=-1) - y_BNK) * share_BN[..., None]
        pull_BDK = penalty_B[:, None, None] * penalised_D[None, :, None] * w_BDK
        return jnp.einsum("bnd,bnk->bdk", x_BND, gap_BNK) + pull_BDK

    def step(i, state):
        w_BDK, ahead_BDK = state
        moved_BDK = ahead_BDK - rate_B11 * gradient(ahead_BDK)
        return moved_BDK, moved_BDK + (i / (i + 3.0)) * (moved_BDK - w_BDK)

    start_BDK = jnp.zeros((B, D, K), dtype)
    w_BDK, _ = jax.lax.fori_loop(0, num_steps, step, (start_BDK, start_BDK))
    return (query_BQD @ w_BDK).astype(prompt.y.dtype)


def _with_one(x_BND):
    return jnp.concatenate([x_BND, jnp.ones((*x_BND.shape[:2], 1), x_BND.dtype)], axis=-1)
