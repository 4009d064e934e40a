"""Iterative solvers made of matrix products: the mesa layer by a few steps of linear attention.

Stacked linear self-attention layers can do this (2309.05858, Proposition 2 and appendix): a step
multiplies each query by its own `H_t = sum k k^T`, which is one linear attention whose values are
the keys. `mesa` solves the same systems exactly.

Dimension key: B batch, T positions, H heads, D key width, S steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ico.layers._gates import check_gates, logarithms
from ico.layers._linear_attention import linear_attention
from ico.layers._shapes import check_shapes
from ico.types import working_dtype


class ChebyshevSteps(NamedTuple):
    """Coefficients of a second-order iteration, learned or from `chebyshev_steps`.

    Fields:
      rate: alpha, the factor of the residual.
      momentum: beta, the factor of the previous change; without effect in the first step.
    """

    rate: Float[Array, "S H"]
    momentum: Float[Array, "S H"]


def chebyshev_queries(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B T H D"],
    *,
    reg: Float[Array, "H"],
    steps: ChebyshevSteps,
    forget: Float[Array, "B T H"] | None = None,
    log_forget: Float[Array, "B T H"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    chunk_size: int = 64,
) -> Float[Array, "B T H D"]:
    """Approximates `x_t = (H_t + reg)^-1 q_t`, H_t the (forgotten) sum of k k^T up to t, by

        x <- x + rate_s (q - (H_t + reg) x) + momentum_s (x - x_before),    from x = 0.

    `linear_attention(x, k, v)` is then an approximate mesa layer. With learned coefficients it is
    the paper's CompressedAlg; with no momentum and one rate it is a Neumann series
    (`neumann_steps`).

    Args:
      q, k: queries and keys [B, T, H, D].
      reg: the regulariser of each head, not subject to forgetting, as in `mesa_cg`.
      steps: coefficients of every step and head.
      forget, log_forget, segment_ids, chunk_size: see `linear_attention`.

    Returns:
      [B, T, H, D] in the dtype of q; computed in float32 or better.

    Raises:
      ValueError: mismatched shapes, no step, or forget factors outside [0, 1] (if not traced) or
        given twice.
    """
    check_shapes(q, k, k, causal=True)
    H = q.shape[2]
    rate, momentum = steps
    if rate.shape != momentum.shape or rate.ndim != 2 or rate.shape[1] != H or not len(rate):
        raise ValueError(f"steps must be [S >= 1, {H}] each, not {rate.shape} and {momentum.shape}")
    if reg.shape != (H,):
        raise ValueError(f"reg must be {[H]}, not {list(reg.shape)}")
    out_dtype = q.dtype
    dtype = working_dtype(q, k)
    q, k, reg, rate, momentum = (a.astype(dtype) for a in (q, k, reg, rate, momentum))
    check_gates(forget, log_forget, q.shape[:3])
    log = logarithms(forget, log_forget, dtype)
    sides = {"log_forget": log, "segment_ids": segment_ids, "chunk_size": chunk_size}
    by_head = (None, None, slice(None), None)

    def step(state, coefficients):
        x, change = state
        rate, momentum = (c[by_head] for c in coefficients)
        hx, _ = linear_attention(x, k, k, return_state=True, **sides)
        change = rate * (q - hx - reg[by_head] * x) + momentum * change
        return (x + change, change), None

    (x, _), _ = jax.lax.scan(step, (jnp.zeros_like(q), jnp.zeros_like(q)), (rate, momentum))
    return x.astype(out_dtype)


def neumann_steps(rate: Float[Array, "H"], num_steps: int) -> ChebyshevSteps:
    """The Neumann series `sum_{s < S} (I - rate A)^s rate q`; converges if rate < 2 / |A|."""
    rates = jnp.broadcast_to(rate, (num_steps, *rate.shape))
    return ChebyshevSteps(rates, jnp.zeros_like(rates))


def chebyshev_steps(low: float, high: float, num_steps: int, num_heads: int) -> ChebyshevSteps:
    """The optimal steps if all that is known is that eigenvalues of H_t + reg lie in [low, high].

    After S steps the error is at most `2 / (c^S + c^-S)` times that of x = 0, in the norm of the
    matrix, with `c = (sqrt(high) + sqrt(low)) / (sqrt(high) - sqrt(low))`.

    Raises:
      ValueError: unless 0 < low < high and num_steps >= 1.
    """
    if not 0 < low < high or num_steps < 1:
        raise ValueError(f"need 0 < low < high and num_steps >= 1, not {low}, {high}, {num_steps}")
    middle, half = (high + low) / 2, (high - low) / 2
    rates, momenta = [1 / middle], [0.0]
    for s in range(1, num_steps):
        # The three-term recursion of Chebyshev polynomials; the second step has twice the weight.
        share = half**2 * rates[-1] / (2 if s == 1 else 4)
        rates.append(1 / (middle - share))
        momenta.append(middle * rates[-1] - 1)
    return ChebyshevSteps(
        *(jnp.asarray(np.tile(np.array(a)[:, None], num_heads)) for a in (rates, momenta))
    )


def newton_inverse(
    matrix: Float[Array, "... D D"], *, num_steps: int = 40
) -> Float[Array, "... D D"]:
    """The inverse of symmetric positive definite matrices by Newton's iteration `X (2 I - A X)`.

    From `X = A / |A|_1^2` it always converges: about `2 log2(condition number) +
    2 log2(|A|_1 / |A|_2)` steps until quadratic convergence sets in, then a handful. The second
    term is at most log2 D. The zero matrix is answered by zero. (Schulz; 2309.05858, appendix.)
    """
    norm = jnp.max(jnp.sum(jnp.abs(matrix), -1), -1)[..., None, None]
    norm = jnp.where(norm > 0, norm, 1)
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    eye = eye.reshape(*[1] * (matrix.ndim - 2), *eye.shape)

    def step(_, x):
        return x @ (2 * eye - matrix @ x)

    return jax.lax.fori_loop(0, num_steps, step, matrix / norm**2)
