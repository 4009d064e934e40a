"""Explicit predictors of the next vector of a sequence, from the pairs that came before.

At position t the pairs (x_{s-1}, y_s), s <= t, are known, and the prediction is W x_t.

Source: 2309.05858, sections 3 and 4.

Dimension key: B sequences, T positions, E input width, D output width, R regularisers.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_INVERSES = np.geomspace(1e-1, 1e6, 57)


def next_vector_gd(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """`sum_{s <= t} x_s x_{s-1}^T x_t`: one step of gradient descent from W = 0, at rate one.

    Of the loss `1/2 sum_{s <= t} |x_s - W x_{s-1}|^2`. The prediction is linear in the rate.
    """
    before_BTD = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
    scores_BTS = jnp.tril(jnp.einsum("btd,bsd->bts", x, before_BTD))
    return jnp.einsum("bts,bsd->btd", scores_BTS, x)


def next_vector_ridge(
    x: Float[Any, "B T E"],
    y: Float[Any, "B T D"],
    inverses: Sequence[float] | Float[np.ndarray, "R"],
) -> Float[np.ndarray, "R B T D"]:
    """`W = argmin sum_{s <= t} |y_s - W x_{s-1}|^2 + |W|^2 / inverse`, applied to x_t, in float64.

    Every pair up to the present is counted, the newest included. NumPy, a sequence at a time: many
    small eigendecompositions, for which one BLAS thread is fastest.

    Args:
      x: what the prediction is made from: the vectors themselves, or features of them.
      y: the vectors.
      inverses: of the regularisers, which are tried at the cost of one.
    """
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    before = np.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
    predictions = np.empty((len(inverses), *y.shape))
    for b in range(len(x)):
        gram_TEE = np.cumsum(before[b, :, :, None] * before[b, :, None], axis=0)
        cross_TDE = np.cumsum(y[b, :, :, None] * before[b, :, None], axis=0)
        values, vectors = np.linalg.eigh(gram_TEE)
        weights, query = cross_TDE @ vectors, (x[b, :, None] @ vectors)[:, 0]
        for r, inverse in enumerate(inverses):
            solved = query / (np.maximum(values, 0) + 1 / inverse)
            predictions[r, b] = (weights @ solved[..., None])[..., 0]
    return predictions


def tuned_next_vector_ridge(
    test: tuple[Any, Any, Any],
    other: tuple[Any, Any, Any],
    inverses: Sequence[float] | Float[np.ndarray, "R"] = _INVERSES,
) -> tuple[Float[np.ndarray, "B T"], float]:
    """`next_vector_ridge` with the regulariser that is best for other sequences.

    Args:
      test: x [B, T, E] and y [B, T, D] as `next_vector_ridge` takes them, and what follows each
        position [B, T, D].
      other: the same of the sequences that the regulariser is chosen on.
      inverses: of the regularisers that are tried; by default 57 from 0.1 to a million.

    Returns:
      Losses on `test`, 1/2 |error|^2 [B, T], and the inverse of the regulariser.
    """

    def losses(some, x, y, targets):
        error = next_vector_ridge(x, y, some) - np.asarray(targets, np.float64)
        return 0.5 * np.sum(error**2, axis=-1)

    tried = losses(inverses, *other)
    best = float(inverses[int(np.argmin(tried.mean((1, 2))))])
    return losses([best], *test)[0], best


def preconditioned_inputs(
    x: Float[Array, "B T D"], ridge: float | Float[Array, ""]
) -> Float[Array, "B T D"]:
    """`(sum_{s < t} x_s x_s^T + ridge)^-1 x_t`: what ridge regression multiplies the targets by.

    Raises:
      ValueError: ridge not positive (if not traced): the first vectors would have no inverse.
    """
    if not isinstance(ridge, jax.core.Tracer) and not ridge > 0:
        raise ValueError(f"ridge must be positive, not {ridge}")
    outer_BTDD = jnp.einsum("btd,bte->btde", x, x)
    gram_BTDD = jnp.cumsum(outer_BTDD, axis=1) - outer_BTDD
    eye_DD = jnp.eye(x.shape[-1], dtype=x.dtype)
    return jnp.linalg.solve(gram_BTDD + ridge * eye_DD[None, None], x[..., None])[..., 0]
