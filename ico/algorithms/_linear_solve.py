"""Batched solves of small systems, symmetric and positive definite or semidefinite.

Dimension key: B systems, D unknowns, K right-hand sides.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ico.algorithms._least_squares import least_squares

_UNROLLED = 16


def solve_positive_definite(
    matrix_BDD: Float[Array, "B D D"], rhs_BDK: Float[Array, "B D K"]
) -> Float[Array, "B D K"]:
    """Gaussian elimination without pivoting, stable for symmetric positive definite matrices.

    Makes D rank-one updates over the whole batch. XLA's CPU back end calls LAPACK's Cholesky once
    per matrix, which is many times slower for small systems when another process uses the cores.
    A system that is singular to within rounding gets its best solution of smallest norm. The
    derivative is that of the solution, in both modes.
    """

    def solve(_, rhs_BDK):
        x_BDK, regular_B = _eliminated(matrix_BDD, rhs_BDK)

        def with_smallest(state):
            nothing_B = jnp.zeros(len(matrix_BDD), matrix_BDD.dtype)
            smallest_BDK = least_squares(matrix_BDD, nothing_B)(rhs_BDK)
            return jnp.where(regular_B[:, None, None], state[0], smallest_BDK), jnp.array(False)

        # A loop of one step at most: `jax.vmap` of a `jax.lax.cond` would always compute both.
        start = x_BDK, ~jnp.all(regular_B)
        return jax.lax.while_loop(lambda state: state[1], with_smallest, start)[0]

    return jax.lax.custom_linear_solve(
        lambda x_BDK: matrix_BDD @ x_BDK, rhs_BDK, solve, symmetric=True
    )


def _eliminated(matrix_BDD, rhs_BDK) -> tuple[Float[Array, "B D K"], Bool[Array, "B"]]:
    """Solutions, and whether no pivot was lost to rounding."""
    D = matrix_BDD.shape[-1]
    if D <= _UNROLLED:
        x_BDK, pivots_BD = _unrolled(matrix_BDD, rhs_BDK)
    else:
        augmented = jnp.concatenate([matrix_BDD, rhs_BDK], axis=-1)

        def eliminate(j, state):
            a, pivots_BD = state
            pivot_B = a[:, j, j]
            row = a[:, j] / pivot_B[:, None]
            a = a - a[:, :, j][:, :, None] * row[:, None]
            return a.at[:, j].set(row), pivots_BD.at[:, j].set(pivot_B)

        start = augmented, jnp.zeros(matrix_BDD.shape[:2], matrix_BDD.dtype)
        augmented, pivots_BD = jax.lax.fori_loop(0, D, eliminate, start)
        x_BDK = augmented[..., D:]
    diagonal_BD = jnp.diagonal(matrix_BDD, axis1=1, axis2=2)
    least_BD = D * jnp.finfo(matrix_BDD.dtype).eps * diagonal_BD
    return x_BDK, jnp.all(pivots_BD > least_BD, axis=1)


@jax.jit  # without it, eager callers would compile its hundred small steps one by one
def _unrolled(matrix_BDD, rhs_BDK):
    """The same with an unrolled loop on shrinking matrices. The batch is the last axis."""
    D = matrix_BDD.shape[-1]
    left = jnp.moveaxis(jnp.concatenate([matrix_BDD, rhs_BDK], axis=-1), 0, -1)
    rows, pivots = [], []
    for _ in range(D):
        pivots.append(left[0, 0])
        row = left[0] / left[0, 0][None]
        rows.append(row)
        left = left[1:, 1:] - left[1:, 0][:, None] * row[1:][None]
    x: list = [None] * D
    for j in reversed(range(D)):
        x[j] = rows[j][D - j :]
        for m in range(j + 1, D):
            x[j] = x[j] - rows[j][m - j][None] * x[m]
    return jnp.moveaxis(jnp.stack(x), -1, 0), jnp.stack(pivots, axis=-1)
