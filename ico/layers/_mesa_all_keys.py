"""The mesa layer without an order: one least-squares map from all keys to all values.

Dimension key: B batch, T queries, S keys, H heads, D key width, V value width.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.layers._shapes import check_shapes, float_of
from ico.layers._whitening import whitening
from ico.types import working_dtype


def mesa_all_keys(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    v: Float[Array, "B S H V"],
    *,
    lam: Float[Array, "H"] | Float[Array, "H D"] | Float[Array, "H D D"],
) -> Float[Array, "B T H V"]:
    """`o_t = Phi q_t`, Phi = argmin 1/2 sum_s |v_s - Phi k_s|^2 + 1 / (2 lam) |Phi|^2.

    What `ico.layers.mesa` (2309.05858) gives at its last position, for every query: an in-context
    ridge regression, for sets instead of sequences.

    Args:
      q, k, v: queries [B, T, H, D], keys [B, S, H, D], values [B, S, H, V].
      lam: the regulariser's inverse for each head, as of `ico.layers.mesa`: a positive number, a
        diagonal [D], or a symmetric positive definite matrix [D, D].

    Returns:
      [B, T, H, V] in the dtype of v, computed in float32 or better.

    Raises:
      ValueError: mismatched shapes.
    """
    check_shapes(q, k, v, causal=False)
    S, (_, _, H, D) = k.shape[1], q.shape
    if lam.shape not in ((H,), (H, D), (H, D, D)):
        raise ValueError(f"lam {lam.shape} must be [H], [H, D] or [H, D, D], H = {H}, D = {D}")
    out_dtype, dtype = float_of(v), working_dtype(q, k, v)
    q, k, v = (a.astype(dtype) for a in (q, k, v))
    lam_HDD = _matrices(lam.astype(dtype), D)
    # The smaller of two systems: (K^T K + lam^-1)^-1 K^T = lam K^T (K lam K^T + I)^-1.
    if D <= S or not S:
        memory_BHDV = jnp.einsum("bshd,bshv->bhdv", k, v)
        penalty_HDD = jnp.einsum("hcd,hce->hde", *[whitening(lam_HDD)] * 2)
        gram_BHDD = jnp.einsum("bshd,bshe->bhde", k, k) + penalty_HDD[None]
        return jnp.einsum("bthd,bhdv->bthv", q, _solved(gram_BHDD, memory_BHDV)).astype(out_dtype)
    scaled_BSHD = jnp.einsum("bshd,hde->bshe", k, lam_HDD)
    gram_BHSS = jnp.einsum("bshd,brhd->bhsr", scaled_BSHD, k)
    gram_BHSS = gram_BHSS + jnp.eye(S, dtype=dtype)[None, None]
    solved_BHSV = _solved(gram_BHSS, jnp.swapaxes(v, 1, 2))
    scores_BHTS = jnp.einsum("bthd,bshd->bhts", q, scaled_BSHD)
    return jnp.einsum("bhts,bhsv->bthv", scores_BHTS, solved_BHSV).astype(out_dtype)


def _solved(gram, right):
    w = whitening(gram)
    return jnp.swapaxes(w, -1, -2) @ (w @ right)


def _matrices(lam, D):
    if lam.ndim == 3:
        return lam
    diagonal_HD = jnp.broadcast_to(lam.reshape(len(lam), -1), (len(lam), D))
    return diagonal_HD[:, :, None] * jnp.eye(D, dtype=lam.dtype)[None]
