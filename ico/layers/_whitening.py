"""The factor that whitens a symmetric positive definite matrix, by products and whole rows.

XLA's CPU back end calls LAPACK's Cholesky and triangular solve once per matrix, which is many times
slower for small matrices and collapses when another process uses the cores.

Dimension key: ... batch, C rows.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_NOTHING = 16  # a pivot up to this many rounding errors counts as zero (the diagonal is one)
_BASE = 16  # up to this many rows are eliminated one by one


def whitening(matrix: Float[Array, "... C C"]) -> Float[Array, "... C C"]:
    """The lower triangular W with `W matrix W^T = I`: the inverse of the Cholesky factor.

    The two halves are whitened in turn and joined by matrix products.

    Args:
      matrix: symmetric positive definite, with any number of rows.

    The matrix may be numerically singular: where a pivot is within the rounding errors of its
    diagonal entry, the row of W is zero, and W^T W inverts the matrix on the other rows.
    """
    batch, C = matrix.shape[:-2], matrix.shape[-1]
    info, n = jnp.finfo(matrix.dtype), math.prod(batch)
    matrix = matrix.reshape(n, C, C)
    # Scaled to a diagonal of ones, so that rounding errors have one size in all rows.
    scale = jax.lax.rsqrt(jnp.maximum(jnp.diagonal(matrix, axis1=1, axis2=2), info.tiny))
    matrix = scale[:, :, None] * matrix * scale[:, None]
    return (_halves(matrix) * scale[:, None]).reshape(*batch, C, C)


def _halves(matrix_NCC):
    C = matrix_NCC.shape[-1]
    if C <= _BASE:
        return _eliminated(matrix_NCC)
    half = _BASE * math.ceil(C / (2 * _BASE))
    first = _halves(matrix_NCC[:, :half, :half])
    below = matrix_NCC[:, half:, :half] @ jnp.swapaxes(first, 1, 2)
    rest = matrix_NCC[:, half:, half:] - below @ jnp.swapaxes(below, 1, 2)
    second = _halves(rest)
    corner = -second @ (below @ first)
    top = jnp.pad(first, ((0, 0), (0, 0), (0, C - half)))
    return jnp.concatenate([top, jnp.concatenate([corner, second], axis=2)], axis=1)


def _eliminated(matrix_NCC):
    """Elimination, one row per step. The batch is the last axis, so updates vectorise."""
    C, N = matrix_NCC.shape[-1], matrix_NCC.shape[0]
    left_CCN = jnp.moveaxis(matrix_NCC, 0, -1)
    eye = jnp.eye(C, dtype=matrix_NCC.dtype)[:, :, None]
    joined = jnp.concatenate([left_CCN, jnp.broadcast_to(eye, (C, C, N))], axis=1)
    place, eps = jnp.arange(C), jnp.finfo(matrix_NCC.dtype).eps

    def eliminate(j, a):
        row = jax.lax.dynamic_index_in_dim(a, j, 0, keepdims=False)  # [2C, N]
        pivot = jax.lax.dynamic_index_in_dim(row, j, 0, keepdims=False)
        # Dividing rounding errors by the root of a rounding error would amplify them.
        row = row * jnp.where(pivot > _NOTHING * eps, jax.lax.rsqrt(pivot), 0)[None]
        # By symmetry row j, scaled, is also the column below the pivot.
        factor = jnp.where((place > j)[:, None], row[:C], 0)
        a = a - factor[:, None] * row[None]
        return jax.lax.dynamic_update_index_in_dim(a, row, j, 0)

    joined = jax.lax.fori_loop(0, C, eliminate, joined)
    return jnp.moveaxis(joined[:, C:], -1, 0)


@jax.custom_jvp
def inverse(matrix: Float[Array, "... D D"]) -> Float[Array, "... D D"]:
    """The inverse of symmetric positive definite matrices; its derivative is symmetric."""
    w = whitening(matrix)
    return jnp.swapaxes(w, -1, -2) @ w


@inverse.defjvp
def _inverse_derivative(primals, tangents):
    found = inverse(*primals)
    return found, inverse_cotangent(found, tangents[0])


def inverse_cotangent(
    found: Float[Array, "... D D"], cotangent: Float[Array, "... D D"]
) -> Float[Array, "... D D"]:
    """The symmetric cotangent of a matrix, from its inverse and the cotangent of the inverse.

    The map is its own transpose: it also takes a tangent of the matrix to that of the inverse.
    """
    back = -(found @ cotangent @ found)
    return (back + jnp.swapaxes(back, -1, -2)) / 2
