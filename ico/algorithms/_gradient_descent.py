"""Gradient descent on the context, and GD++.

Dimension key: B tasks, N context pairs, Q queries, D inputs, K outputs, S steps.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.algorithms._checks import check_prompt, parameter
from ico.types import Prompt, PyTree


def _schedules(params, names, num_steps, dtype):
    """Each named parameter as [S]; scalars are repeated."""
    values = {name: parameter(params, name, dtype) for name in names}
    for name, value in values.items():
        if value.ndim > 1:
            raise ValueError(f"{name} must be a scalar or [S], one per step, not {value.shape}")
    lengths = [len(value) for value in values.values() if value.ndim]
    num_steps = max(lengths, default=1) if num_steps is None else num_steps
    for name, value in values.items():
        if value.ndim and len(value) != num_steps:
            raise ValueError(f"there are {num_steps} steps, but {name} has {len(value)} entries")
    return tuple(jnp.broadcast_to(value, (num_steps,)) for value in values.values())


def gd(
    params: PyTree, prompt: Prompt, *, num_steps: int | None = None, all_steps: bool = False
) -> Float[Array, "*S B Q K"]:
    """Gradient descent on `L(W) = 1/(2N) sum_i |W x_i - y_i|^2`, then `W x_query`.

    Source: 2212.07677, Eqs. 1 and 2.

    Args:
      params: {"rate": scalar, or [S], one per step; optional "w0": start [K, D], default zero}.
      prompt: x [B, N, D], y [B, N, K], x_query [B, Q, D].
      num_steps: S; by default the number of rates (1 for a scalar).
      all_steps: return the prediction after each step, [S, B, Q, K].

    Raises:
      ValueError: mismatched shapes, or rates that do not match num_steps.
    """
    check_prompt(prompt)
    x_BND, y_BNK, query_BQD = prompt
    (B, N, D), K = x_BND.shape, y_BNK.shape[-1]
    N = max(N, 1)  # without pairs there is no error to average
    w0 = parameter(params, "w0", x_BND.dtype, (K, D), default=jnp.zeros((K, D)))
    w_BKD = jnp.broadcast_to(w0, (B, K, D))

    def step(w_BKD, rate):
        error_BNK = jnp.einsum("bnd,bkd->bnk", x_BND, w_BKD) - y_BNK
        gradient_BKD = jnp.einsum("bnk,bnd->bkd", error_BNK, x_BND) / N
        w_BKD = w_BKD - rate * gradient_BKD
        return w_BKD, jnp.einsum("bqd,bkd->bqk", query_BQD, w_BKD) if all_steps else None

    (rate_S,) = _schedules(params, ("rate",), num_steps, x_BND.dtype)
    w_BKD, predictions = jax.lax.scan(step, w_BKD, rate_S)
    if all_steps:
        return jnp.asarray(predictions)
    return jnp.einsum("bqd,bkd->bqk", query_BQD, w_BKD)


def gd_plus_plus(
    params: PyTree, prompt: Prompt, *, num_steps: int | None = None, all_steps: bool = False
) -> Float[Array, "*S B Q K"]:
    """GD++: gradient descent that also transforms the inputs, `x <- (I - gamma X^T X) x`.

    The transformation damps the directions in which the context varies most, and so acts as an
    iterated preconditioner (2212.07677, appendix A.10). X^T X is the sum over the current inputs of
    the context, and context and queries are transformed alike. Within a step labels and inputs are
    updated from the same old inputs, as in a transformer layer.

    Args:
      params: {"rate": scalar or [S], "gamma": scalar or [S]}.
      prompt, num_steps, all_steps: see `gd`.

    Raises:
      ValueError: mismatched shapes, or rates or gammas that do not match num_steps.
    """
    check_prompt(prompt)
    x_BND, y_BNK, query_BQD = prompt
    B, N = len(x_BND), max(x_BND.shape[1], 1)  # without pairs there is no error to average

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
    schedule = _schedules(params, ("rate", "gamma"), num_steps, x_BND.dtype)
    carry, predictions = jax.lax.scan(step, (x_BND, y_BNK, query_BQD, start), schedule)
    return jnp.asarray(predictions) if all_steps else carry[-1]
