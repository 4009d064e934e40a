"""Softmax attention with a mask and two hooks for positions.

Dimension key: B batch, T queries, S keys, H heads, D key width, V value width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ico.layers._shapes import check_scores, check_shapes, float_of
from ico.types import working_dtype


def softmax_attention(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    v: Float[Array, "B S H V"],
    *,
    causal: bool = True,
    scale: float | None = None,
    mask: Bool[Array, "#B #H #T #S"] | None = None,
    bias: Float[Array, "#B #H #T #S"] | None = None,
    gate: Float[Array, "#B #H #T #S"] | None = None,
) -> Float[Array, "B T H V"]:
    """`o_t = sum_i gate_ti softmax_i(scale q_t . k_i + bias_ti) v_i` (Vaswani et al. 2017).

    `mask`, `bias` and `gate` have four axes [B, H, T, S], each of which may be 1. A bias that
    depends on i - t is a relative position bias; a Toeplitz gate (`ico.layers.toeplitz`) makes it
    URPE attention (Luo et al. 2022, 2205.13401), which unlike any bias can tell identical tokens
    apart, for its weights need not sum to one.

    Args:
      q, k, v: queries [B, T, H, D], keys [B, S, H, D], values [B, S, H, V].
      causal: whether position t sees only keys up to and including t (then S == T).
      scale: factor of the scores; None is 1 / sqrt(D).
      mask: True where a query may see a key, in addition to `causal`. A query that may see no key
        gets zeros, and passes no gradient.
      bias: added to the scores; finite (to hide keys use `mask`).
      gate: multiplies the weights after the softmax.

    Returns:
      [B, T, H, V] in the dtype of v, computed in float32 or better.

    Raises:
      ValueError: mismatched shapes, causal with S != T, or no key to attend to.
    """
    check_shapes(q, k, v, causal=causal)
    check_scores(q, k, {"mask": mask, "bias": bias, "gate": gate})
    if k.shape[1] == 0:
        raise ValueError("k is empty: softmax attention needs at least one key")
    out_dtype, dtype = float_of(v), working_dtype(q, k, v)
    q, k, v = (a.astype(dtype) for a in (q, k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores_BHTS = jnp.einsum("bthd,bshd->bhts", q * scale, k)
    if bias is not None:
        scores_BHTS = scores_BHTS + bias.astype(scores_BHTS.dtype)
    past = jnp.tri(q.shape[1], dtype=bool)[None, None] if causal else None
    if mask is not None:
        weights_BHTS = _masked_softmax(scores_BHTS, mask if past is None else past & mask)
    else:
        if past is not None:
            scores_BHTS = jnp.where(past, scores_BHTS, -jnp.inf)
        weights_BHTS = jax.nn.softmax(scores_BHTS, axis=-1)
    if gate is not None:
        weights_BHTS = weights_BHTS * gate.astype(weights_BHTS.dtype)
    return jnp.einsum("bhts,bshv->bthv", weights_BHTS, v).astype(out_dtype)


def _masked_softmax(scores_BHTS, seen):
    """Softmax over the keys that are seen; zeros, with no gradient, for a query that sees none."""
    sees_any = jnp.any(seen, axis=-1, keepdims=True)
    # A row of -inf alone would be NaN, and so would its gradient, whatever replaces it afterwards.
    scores_BHTS = jnp.where(seen | ~sees_any, scores_BHTS, -jnp.inf)
    return jnp.where(sees_any, jax.nn.softmax(scores_BHTS, axis=-1), 0)
