"""Gradient descent on the context, and GD++.

Dimension key: B tasks, N context pairs, Q queries, D inputs, K outputs, S steps.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.types import Prompt, PyTree


def _per_step(value, num_steps, dtype):
    """One value a step: a scalar is repeated, [S] stays."""
    # In the prompt's type, or a float64 rate would change the type of the weights under way.
    value = jnp.asarray(value, dtype)
    if value.ndim > 1:
        raise ValueError(f"a rate is a scalar or one a step, not of shape {value.shape}")
    if value.ndim == 1 and num_steps not in (None, value.shape[0]):
        raise ValueError(f"num_steps is {num_steps}, but there are {value.shape[0]} rates")
    if value.ndim == 1:
        return value
    return jnp.broadcast_to(value, (1 if num_steps is None else num_steps,))


def gd(
    params: PyTree, prompt: Prompt, *, num_steps: int | None = None, all_steps: bool = False
) -> Float[Array, "*S B Q K"]:
    """Gradient descent on `L(W) = 1/(2N) sum_i |W x_i - y_i|^2`, then `W x_query`.

    Source: 2212.07677, Eqs. 1 and 2.

    Args:
      params: {"rate": scalar, or [S] one a step; optional "w0": start [K, D], zero by default}.
      prompt: x [B, N, D], y [B, N, K], x_query [B, Q, D].
      num_steps: S; by default the number of rates (1 for a scalar).
      all_steps: return the prediction after each step, [S, B, Q, K].

    Raises:
      ValueError: rates that do not match num_steps.
    """
    x_BND, y_BNK, query_BQD = prompt
    B, N, D = x_BND.shape
    K = y_BNK.shape[-1]
    w0 = params.get("w0", jnp.zeros((K, D), x_BND.dtype))
    w_BKD = jnp.broadcast_to(w0, (B, K, D))

    def step(w_BKD, rate):
        error_BNK = jnp.einsum("bnd,bkd->bnk", x_BND, w_BKD) - y_BNK
        gradient_BKD = jnp.einsum("bnk,bnd->bkd", error_BNK, x_BND) / N
        w_BKD = w_BKD - rate * gradient_BKD
        return w_BKD, jnp.einsum("bqd,bkd->bqk", query_BQD, w_BKD) if all_steps else None

    rate_S = _per_step(params["rate"], num_steps, x_BND.dtype)
    w_BKD, predictions = jax.lax.scan(step, w_BKD, rate_S)
    if all_steps:
        return jnp.asarray(predictions)
    return jnp.einsum("bqd,bkd->bqk", query_BQD, w_BKD)


def gd_plus_plus(
    params: PyTree, prompt: Prompt, *, num_steps: int | None = None, all_steps: bool = False
) -> Float[Array, "*S B Q K"]:
    """GD++: gradient steps on inputs that each step transforms by `x <- (I - gamma X^T X) x`.

    The transformation damps the directions in which the context varies most, and so works as an
    iterated preconditioner (2212.07677, appendix A.10). X^T X is the plain sum over the context's
    current inputs, and the transformation applies to context and queries alike; in a step, label
    and input updates both start from the inputs before it, as in a layer.

    Args:
      params: {"rate": scalar or [S], "gamma": scalar or [S]}.
      prompt, num_steps, all_steps: as in `gd`.

    Raises:
      ValueError: rates or gammas that do not match num_steps.
    """
    x_BND, y_BNK, query_BQD = prompt
    B, N, _ = x_BND.shape
    rate_S, gamma_S = (jnp.asarray(params[name]) for name in ("rate", "gamma"))
    if num_steps is None:
        num_steps = max([a.shape[0] for a in (rate_S, gamma_S) if a.ndim], default=1)

    def step(carry, rate_gamma):
        x_BND, residual_BNK, query_BQD, prediction_BQK = carry
        rate, gamma = rate_gamma
        delta_BKD = rate / N * jnp.einsum("bnk,bnd->bkd", residual_BNK, x_BND)
        prediction_BQK += jnp.einsum("bqd,bkd->bqk", query_BQD, delta_BKD)
        residual_BNK -= jnp.einsum("bnd,bkd->bnk", x_BND, delta_BKD)
        gram_BDD = jnp.einsum("bnd,bne->bde", x_BND, x_BND)
        query_BQD = query_BQD - gamma * jnp.einsum("bqd,bde->bqe", query_BQD, gram_BDD)
        x_BND = x_BND - gamma * jnp.einsum("bnd,bde->bne", x_BND, gram_BDD)
        carry = (x_BND, residual_BNK, query_BQD, prediction_BQK)
        return carry, prediction_BQK if all_steps else None

    start = jnp.zeros((B, query_BQD.shape[1], y_BNK.shape[-1]), x_BND.dtype)
    schedule = tuple(_per_step(a, num_steps, x_BND.dtype) for a in (rate_S, gamma_S))
    carry, predictions = jax.lax.scan(step, (x_BND, y_BNK, query_BQD, start), schedule)
    return jnp.asarray(predictions) if all_steps else carry[-1]
