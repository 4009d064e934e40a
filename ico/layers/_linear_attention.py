"""Linear attention: one operator, three forms that agree exactly.

Dimension key: B batch, T queries, S keys, H heads, D key width, V value width,
N chunks, C positions in a chunk.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.layers._shapes import check_shapes

Form = Literal["parallel", "chunked", "recurrent"]


def linear_attention(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    v: Float[Array, "B S H V"],
    *,
    causal: bool = True,
    form: Form = "chunked",
    chunk_size: int = 64,
) -> Float[Array, "B T H V"]:
    """Unscaled linear attention, `o_t = sum_i v_i (k_i . q_t)`.

    The sum runs over i <= t if `causal`, else over all keys. This is the operator of
    "Transformers learn in-context by gradient descent" (2212.07677, Eq. 3 without softmax):
    no scaling, no normaliser, no feature map.

    Args:
      q: queries [B, T, H, D].
      k: keys [B, S, H, D]; S == T if causal.
      v: values [B, S, H, V]; V may differ from D.
      causal: whether position t sees only keys up to and including t.
      form: how it is computed, never what:
        "parallel" goes through the T x S scores (quadratic in length, best when short);
        "chunked" through a state a chunk (linear time and memory, best from a few hundred on);
        "recurrent" through a state a position (constant memory forward: what decoding does).
      chunk_size: positions in a chunk, for "chunked". Any length is allowed; a tail that does not
        fill its chunk is padded with zeros, which add nothing to a sum.

    Returns:
      [B, T, H, V].

    Raises:
      ValueError: a shape that does not fit, an unknown form, chunk_size < 1.
    """
    check_shapes(q, k, v, causal=causal)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    if form == "parallel":
        return _parallel(q, k, v, causal=causal)
    if form == "recurrent":
        return _recurrent(q, k, v, causal=causal)
    if form == "chunked":
        if causal:
            return _chunked_causal(q, k, v, chunk_size=min(chunk_size, max(q.shape[1], 1)))
        # Without a mask the sum over keys factors: one D x V state serves every query.
        return jnp.einsum("bthd,bhdv->bthv", q, jnp.einsum("bshd,bshv->bhdv", k, v))
    raise ValueError(f"form must be 'parallel', 'chunked' or 'recurrent', not {form!r}")


def _parallel(q, k, v, *, causal):
    scores_BHTS = jnp.einsum("bthd,bshd->bhts", q, k)
    if causal:
        scores_BHTS = jnp.where(jnp.tri(q.shape[1], dtype=bool)[None, None], scores_BHTS, 0)
    return jnp.einsum("bhts,bshv->bthv", scores_BHTS, v)


def _recurrent(q, k, v, *, causal):
    B, _, H, D = k.shape
    state_BHDV = jnp.zeros((B, H, D, v.shape[-1]), jnp.result_type(k, v))

    def write(state, kv_t):
        k_BHD, v_BHV = kv_t
        return state + k_BHD[..., :, None] * v_BHV[..., None, :]

    def read(state, q_BHD):
        return jnp.einsum("bhd,bhdv->bhv", q_BHD, state)

    # Time leads, for scan.
    q, k, v = (jnp.moveaxis(a, 1, 0) for a in (q, k, v))
    if causal:

        def step(state, qkv_t):
            state = write(state, qkv_t[1:])
            return state, read(state, qkv_t[0])

        _, o = jax.lax.scan(step, state_BHDV, (q, k, v))
    else:
        state_BHDV, _ = jax.lax.scan(lambda s, kv: (write(s, kv), None), state_BHDV, (k, v))
        o = jax.vmap(read, in_axes=(None, 0))(state_BHDV, q)
    return jnp.moveaxis(o, 0, 1)


def _chunked_causal(q, k, v, *, chunk_size):
    T = q.shape[1]
    C = chunk_size
    N = -(-T // C)

    def chunk(
        a,
    ):  # [B, T, H, E] -> [B, H, N, C, E], so that every product below is one batched gemm
        a = jnp.pad(a, ((0, 0), (0, N * C - T), (0, 0), (0, 0)))
        return jnp.moveaxis(a.reshape(a.shape[0], N, C, *a.shape[2:]), 3, 1)

    q, k, v = chunk(q), chunk(k), chunk(v)
    # Inside a chunk: masked scores, C x C. Before it: the summed states of all chunks before.
    scores_BHNCS = jnp.einsum("bhncd,bhnsd->bhncs", q, k)
    scores_BHNCS = jnp.where(jnp.tri(C, dtype=bool)[None, None, None], scores_BHNCS, 0)
    within = jnp.einsum("bhncs,bhnsv->bhncv", scores_BHNCS, v)
    state_BHNDV = jnp.einsum("bhncd,bhncv->bhndv", k, v)
    # Shifted, not subtracted: sum minus own would leave rounding errors of the present in the past.
    before_BHNDV = jnp.cumsum(state_BHNDV[:, :, :-1], axis=2)
    before_BHNDV = jnp.pad(before_BHNDV, ((0, 0), (0, 0), (1, 0), (0, 0), (0, 0)))
    o = within + jnp.einsum("bhncd,bhndv->bhncv", q, before_BHNDV)
    o = jnp.moveaxis(o, 1, 3)
    return o.reshape(o.shape[0], N * C, *o.shape[3:])[:, :T]
