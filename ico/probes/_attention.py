"""Attention patterns, and what is read off them.

Dimension key: B batch, T queries, S keys, H heads, D key width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.types import working_dtype


def attention_pattern(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    *,
    causal: bool = True,
    scale: float | None = None,
) -> Float[Array, "B H T S"]:
    """The weights of softmax attention, `softmax_s(scale q_t . k_s)`; each row sums to one.

    In float32 or better, as `ico.layers.softmax_attention` computes them.

    Args:
      q, k: queries and keys, as `ico.layers.softmax_attention` takes them.
      causal: whether position t attends to keys up to and including t alone (then S == T).
      scale: factor of the scores; None is 1 / sqrt(D).

    Raises:
      ValueError: causal with S != T.
    """
    T, S = q.shape[1], k.shape[1]
    if causal and T != S:
        raise ValueError(f"causal attention needs as many keys as queries, not {S} and {T}")
    q, k = (a.astype(working_dtype(q, k)) for a in (q, k))
    scores_BHTS = jnp.einsum("bthd,bshd->bhts", q, k)
    scores_BHTS = scores_BHTS * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        mask = jnp.tri(T, dtype=bool)[None, None]
        scores_BHTS = jnp.where(mask, scores_BHTS, -jnp.inf)
    return jax.nn.softmax(scores_BHTS, axis=-1)


def attention_to_previous(pattern: Float[Array, "B H T T"]) -> Float[Array, "B H"]:
    """Attention of positions 2 to T on the position before, their mean: one for a copying head.

    The previous-token score of Olsson et al., 2022 (2209.11895): the first layer of an induction
    circuit has a head with a score near one.

    Raises:
      ValueError: a single position, which has none before it.
    """
    if pattern.shape[-1] < 2:
        raise ValueError("attention to the previous position needs two positions")
    return jnp.diagonal(pattern, offset=-1, axis1=2, axis2=3).mean(-1)
