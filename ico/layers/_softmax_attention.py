"""Softmax attention.

Dimension key: B batch, T queries, S keys, H heads, D key width, V value width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.layers._shapes import check_shapes


def softmax_attention(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    v: Float[Array, "B S H V"],
    *,
    causal: bool = True,
    scale: float | None = None,
) -> Float[Array, "B T H V"]:
    """`o_t = sum_i softmax_i(scale q_t . k_i) v_i` (Vaswani et al. 2017).

    Args:
      q, k, v: queries [B, T, H, D], keys [B, S, H, D], values [B, S, H, V].
      causal: whether position t sees only keys up to and including t (then S == T).
      scale: factor of the scores; None is 1 / sqrt(D).

    Returns:
      [B, T, H, V].

    Raises:
      ValueError: mismatched shapes, causal with S != T, or no key to attend to.
    """
    check_shapes(q, k, v, causal=causal)
    T = q.shape[1]
    if k.shape[1] == 0:
        raise ValueError("k is empty: softmax attention needs at least one key")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores_BHTS = jnp.einsum("bthd,bshd->bhts", q * scale, k)
    if causal:
        scores_BHTS = jnp.where(jnp.tri(T, dtype=bool)[None, None], scores_BHTS, -jnp.inf)
    return jnp.einsum("bhts,bshv->bthv", jax.nn.softmax(scores_BHTS, axis=-1), v)
