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
    """Elimination without pivoting, stable for symmetric positive definite matrices.

    D rank-one updates over the whole batch. LAPACK's Cholesky, which XLA calls matrix by matrix on
    CPU, is many times slower on small systems when another process uses the cores.
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


@jax.jit  # outside of any jit its hundred small steps would each be compiled
def _unrolled(matrix_BDD, rhs_BDK):
    """The same on what is left of the matrix, the batch last: every update is on whole rows."""
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
