"""Batched solves of small positive definite systems.

Dimension key: B systems, D unknowns, K right-hand sides.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def solve_positive_definite(
    matrix_BDD: Float[Array, "B D D"], rhs_BDK: Float[Array, "B D K"]
) -> Float[Array, "B D K"]:
    """Gauss-Jordan elimination without pivoting, stable for symmetric positive definite matrices.

    D rank-one updates over the whole batch. LAPACK's Cholesky, which XLA calls matrix by matrix on
    CPU, is many times slower on small systems when another process uses the cores.
    """
    D = matrix_BDD.shape[-1]
    augmented = jnp.concatenate([matrix_BDD, rhs_BDK], axis=-1)

    def eliminate(j, a):
        row = a[:, j] / a[:, j, j][:, None]
        a = a - a[:, :, j][:, :, None] * row[:, None]
        return a.at[:, j].set(row)

    return jax.lax.fori_loop(0, D, eliminate, augmented)[..., D:]
