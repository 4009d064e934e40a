"""Probes for tokens that alternate between inputs and labels: x_1, y_1, x_2, y_2 ... x_N, y_N.

Source: 2212.07677, section 5 and Fig. 5; the prefix-matching score is Olsson et al., 2022
(2209.11895).

Dimension key: S seeds, T tasks, H heads, N pairs, P = 2 N tokens, Q query tokens.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def attention_to_partner(
    pattern: Float[np.ndarray, "*S P P"],
) -> tuple[Float[np.ndarray, "*S"], Float[np.ndarray, "*S"]]:
    """Mean attention of input tokens to their label, and of label tokens to their input."""
    x_at, y_at = np.arange(0, pattern.shape[-1], 2), np.arange(1, pattern.shape[-1], 2)
    return pattern[..., x_at, y_at].mean(-1), pattern[..., y_at, x_at].mean(-1)


def own_next_other(dependence: Float[Array, "P P"]) -> Float[Array, "3 P-1"]:
    """How much every token but the last depends on its own, the next and (mean) any other input.

    Args:
      dependence: of token (row) on input (column), as `token_dependence` gives it.
    """
    norm = dependence[:-1]
    own, following = jnp.diagonal(norm), jnp.diagonal(norm, offset=1)
    others = (norm.sum(-1) - own - following) / (norm.shape[1] - 2)
    return jnp.stack([own, following, others])


def pair_share(scores: Float[Array, "T H P"], place: Int[Array, "T"]) -> Float[Array, "T"]:
    """The share of a query's absolute scores, mean over heads, that falls on one pair (0 to N - 1).

    With the query an input of the context and its pair the place, the prefix-matching score.
    """
    pairs = jnp.abs(scores.mean(1)).reshape(len(scores), -1, 2).sum(-1)
    share = pairs / pairs.sum(-1, keepdims=True)
    return jnp.take_along_axis(share, place[:, None], axis=1)[:, 0]
