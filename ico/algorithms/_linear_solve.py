"""Batched solves of small positive definite systems.

Dimension key: B systems, D unknowns, K right-hand sides.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_UNROLLED = 16


def solve_positive_definite(
    matrix_BDD: Float[Array, "B D D"], rhs_BDK: Float[Array, "B D K"]
) -> Float[Array, "B D K"]:
    """Gaussian elimination without pivoting, stable for symmetric positive definite matrices.

    Makes D rank-one updates over the whole batch. XLA's CPU back end calls LAPACK's Cholesky once
    per matrix, which is many times slower for small systems when another process uses the cores.
    """
    D = matrix_BDD.shape[-1]
    if D <= _UNROLLED:
        return _unrolled(matrix_BDD, rhs_BDK)
    augmented = jnp.concatenate([matrix_BDD, rhs_BDK], axis=-1)

    def eliminate(j, a):
        row = a[:, j] / a[:, j, j][:, None]
        a = a - a[:, :, j][:, :, None] * row[:, None]
        return a.at[:, j].set(row)

    return jax.lax.fori_loop(0, D, eliminate, augmented)[..., D:]


@jax.jit  # without it, eager callers would compile its hundred small steps one by one
def _unrolled(matrix_BDD, rhs_BDK):
    """The same with an unrolled loop on shrinking matrices. The batch is the last axis."""
    D = matrix_BDD.shape[-1]
    left = jnp.moveaxis(jnp.concatenate([matrix_BDD, rhs_BDK], axis=-1), 0, -1)
    rows = []
    for _ in range(D):
        row = left[0] / left[0, 0][None]
        rows.append(row)
        left = left[1:, 1:] - left[1:, 0][:, None] * row[1:][None]
    x: list = [None] * D
    for j in reversed(range(D)):
        x[j] = rows[j][D - j :]
        for m in range(j + 1, D):
            x[j] = x[j] - rows[j][m - j][None] * x[m]
    return jnp.moveaxis(jnp.stack(x), -1, 0)
