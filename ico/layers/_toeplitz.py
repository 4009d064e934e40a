"""Matrices over positions that depend on the distance between query and key alone.

Dimension key: H heads, R coefficients, T queries, S keys.
"""

import numpy as np
from jaxtyping import Array, Float


def toeplitz(coefficients_HR: Float[Array, "H R"], T: int, S: int) -> Float[Array, "H T S"]:
    """`out[h, i, j] = c[h, j - i]`, for use as a bias or gate of attention.

    The coefficients are stored in the order of the distance from key to query, j - i, from
    -(R - 1) / 2 to (R - 1) / 2, so that the middle one belongs to a token itself and the ones
    before it to the past. For sequences of up to N positions R = 2 N - 1.

    Args:
      coefficients_HR: c, for each head; R is odd.
      T, S: number of queries and of keys; both start at position 0.

    Returns:
      [H, T, S]; `out[None]` has the shape that `ico.layers.softmax_attention` takes.

    Raises:
      ValueError: R is even, or too small for T or S.

    >>> import jax.numpy as jnp
    >>> toeplitz(jnp.array([[1.0, 2.0, 3.0, 4.0, 5.0]]), 2, 3)[0].tolist()
    [[3.0, 4.0, 5.0], [2.0, 3.0, 4.0]]
    """
    R = coefficients_HR.shape[-1]
    if R % 2 == 0 or max(T, S) > (R + 1) // 2:
        raise ValueError(
            f"{max(T, S)} positions need {2 * max(T, S) - 1} coefficients or a larger odd number, "
            f"not {R}"
        )
    distance_TS = np.arange(S)[None, :] - np.arange(T)[:, None]
    return coefficients_HR[:, distance_TS + R // 2]
