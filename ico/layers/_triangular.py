"""The inverse of a unit lower triangular matrix, by products and operations on whole rows.

XLA's CPU back end calls LAPACK's triangular solve once per matrix, which is many times slower for
small matrices.

Dimension key: ... batch, C rows.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_BASE = 16  # up to this many rows are substituted one by one


@jax.custom_jvp
def unit_lower_inverse(strict: Float[Array, "... C C"]) -> Float[Array, "... C C"]:
    """`(I + L)^-1` for the strictly lower triangular part L of `strict`, of any number of rows."""
    batch, C = strict.shape[:-2], strict.shape[-1]
    n = math.prod(batch)
    return _halves(jnp.tril(strict, -1).reshape(n, C, C)).reshape(*batch, C, C)


def _halves(strict_NCC):
    C = strict_NCC.shape[-1]
    if C <= _BASE:
        return _substituted(strict_NCC)
    half = _BASE * math.ceil(C / (2 * _BASE))
    first, second = (_halves(strict_NCC[:, s, s]) for s in (slice(half), slice(half, None)))
    corner = -second @ (strict_NCC[:, half:, :half] @ first)
    top = jnp.pad(first, ((0, 0), (0, 0), (0, C - half)))
    return jnp.concatenate([top, jnp.concatenate([corner, second], axis=2)], axis=1)


def _substituted(strict_NCC):
    """Forward substitution, one row per step. The batch is the last axis, so updates vectorise.

    Powers of L would take fewer steps but cancel badly: with equal keys their entries are binomial
    coefficients.
    """
    N, C, _ = strict_NCC.shape
    strict_CCN = jnp.moveaxis(strict_NCC, 0, -1)
    found = jnp.broadcast_to(jnp.eye(C, dtype=strict_NCC.dtype)[:, :, None], (C, C, N))

    def substitute(i, found):
        factor = jax.lax.dynamic_index_in_dim(strict_CCN, i, 0, keepdims=False)  # [C, N]
        row = jnp.sum(factor[:, None] * found, axis=0)
        own = jax.lax.dynamic_index_in_dim(found, i, 0, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(found, own - row, i, 0)

    return jnp.moveaxis(jax.lax.fori_loop(1, C, substitute, found), -1, 0)


@unit_lower_inverse.defjvp
def _derivative(primals, tangents):
    """Of products alone, in both directions: no derivative of the substitution is kept."""
    found = unit_lower_inverse(*primals)
    return found, -found @ jnp.tril(tangents[0], -1) @ found
