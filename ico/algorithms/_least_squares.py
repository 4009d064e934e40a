"""Regularised least squares without normal equations, for batches of small problems.

The normal equations square the condition number, and with fewer pairs than inputs only the penalty
keeps them from being singular. Here X = L Q, where the rows of Q are an orthonormal basis of those
of X, and L is decomposed into orthonormal columns and a triangle: as many rank-one updates of the
whole batch as X has independent rows. XLA's CPU back end would call LAPACK once per matrix, which
is many times slower for small systems when another process uses the cores.

Dimension key: B systems, N rows, D unknowns, K right-hand sides, R = min(N, D).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Solver = Callable[[Float[Array, "B N K"]], Float[Array, "B D K"]]


def least_squares(x_BND: Float[Array, "B N D"], penalty_B: Float[Array, "B"]) -> Solver:
    """A function from y to `argmin_W |X W - y|^2 + penalty |W|^2`, of several the smallest |W|.

    Accurate to about eps times the condition number of X. Rows that depend on others to within
    rounding (max(N, D) eps of the largest) count as dependent, so few, equal or no rows have the
    answer of the limit. Derivatives are implicit and exist in both modes; those with respect to X
    at a penalty of zero hold where one W is the best.

    Args:
      x_BND: X.
      penalty_B: at least 0.
    """
    # Without a row there is no step to trace; a row of zeros changes nothing.
    B, N, D = x_BND.shape
    given = (x_BND if N else jnp.zeros((B, 1, D), x_BND.dtype)), penalty_B
    q_BRD, v_BNR, t_BRR = _decomposed(*jax.lax.stop_gradient(given))
    v_BNR = v_BNR[:, :N]
    penalty_B11 = penalty_B[:, None, None]

    # With the residual r = y - X W the solution is that of r + X W = a, X^T r - penalty W = b, at
    # a = y and b = 0; the derivative needs other b.
    def multiply(rw):
        r_BNK, w_BDK = rw
        back_BDK = jnp.einsum("bnd,bnk->bdk", x_BND, r_BNK)
        return r_BNK + x_BND @ w_BDK, back_BDK - penalty_B11 * w_BDK

    def solve(_, ab):
        a_BNK, b_BDK = ab
        inside_BRK = q_BRD @ b_BDK
        outside_BDK = b_BDK - jnp.einsum("brd,brk->bdk", q_BRD, inside_BRK)
        z_BRK = jnp.einsum("bnr,bnk->brk", v_BNR, a_BNK)
        z_BRK = t_BRR @ (z_BRK - jnp.einsum("bsr,bsk->brk", t_BRR, inside_BRK))
        w_BDK = jnp.einsum("brd,brk->bdk", q_BRD, z_BRK) - _divided(outside_BDK, penalty_B11)
        return a_BNK - x_BND @ w_BDK, w_BDK

    def solver(y_BNK):
        nothing = jnp.zeros((B, D, y_BNK.shape[-1]), x_BND.dtype)
        return jax.lax.custom_linear_solve(multiply, (y_BNK, nothing), solve, symmetric=True)[1]

    return solver


def _decomposed(x_BND, penalty_B):
    """Q [B, R, D], and of L = X Q^T the factors V [B, N, R] and T [B, R, R].

    [L; sqrt(penalty) I] T has orthonormal columns, of which V is the upper part; so T V^T y are the
    coefficients of the answer in the basis Q, and T T^T is the inverse of L^T L + penalty I.
    """
    q_BRD = _row_basis(x_BND)
    (B, R, _), N = q_BRD.shape, x_BND.shape[1]
    eye_BRR = jnp.broadcast_to(jnp.eye(R, dtype=x_BND.dtype), (B, R, R))
    # One below the other: L, the penalty, and a record of what was combined.
    l_BNR = jnp.einsum("bnd,brd->bnr", x_BND, q_BRD)
    penalty_BRR = jnp.sqrt(penalty_B)[:, None, None] * eye_BRR
    columns_BSR = jnp.concatenate([l_BNR, penalty_BRR, eye_BRR], axis=1)

    def step(i, done_BSR):
        column_BS = columns_BSR[:, :, i]
        for _ in range(2):  # once loses digits where columns are nearly parallel
            along_BR = jnp.einsum("bsr,bs->br", done_BSR[:, : N + R], column_BS[:, : N + R])
            column_BS = column_BS - jnp.einsum("bsr,br->bs", done_BSR, along_BR)
        square_B1 = jnp.sum(column_BS[:, : N + R] ** 2, axis=1, keepdims=True)
        return done_BSR.at[:, :, i].set(_divided(column_BS, jnp.sqrt(square_B1)))

    done_BSR = jax.lax.fori_loop(0, R, step, jnp.zeros_like(columns_BSR))
    return q_BRD, done_BSR[:, :N], done_BSR[:, N + R :]


def _row_basis(x_BND):
    """Q [B, R, D]: rows of X made orthonormal, the largest rest first; zero where none is left."""
    B, N, D = x_BND.shape
    R = min(N, D)
    largest_B1 = jnp.max(jnp.sum(x_BND**2, axis=-1), axis=-1, keepdims=True)
    least_B1 = (max(N, D) * jnp.finfo(x_BND.dtype).eps) ** 2 * largest_B1

    def step(i, state):
        rest_BND, q_BRD = state
        best_B = jnp.argmax(jnp.sum(rest_BND**2, axis=-1), axis=-1)
        row_BD = jnp.take_along_axis(rest_BND, best_B[:, None, None], axis=1)[:, 0]
        row_BD = row_BD - jnp.einsum("brd,bre,be->bd", q_BRD, q_BRD, row_BD)
        square_B1 = jnp.sum(row_BD**2, axis=-1, keepdims=True)
        row_BD = jnp.where(square_B1 > least_B1, _divided(row_BD, jnp.sqrt(square_B1)), 0)
        rest_BND = rest_BND - (rest_BND @ row_BD[..., None]) * row_BD[:, None]
        return rest_BND, q_BRD.at[:, i].set(row_BD)

    return jax.lax.fori_loop(0, R, step, (x_BND, jnp.zeros((B, R, D), x_BND.dtype)))[1]


def _divided(a, b):
    """a / b, and zero where b is zero."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)
