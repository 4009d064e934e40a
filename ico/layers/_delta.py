"""The delta rule, plain and gated: a memory that replaces the value stored under a key.

Dimension key: B batch, T positions, H heads, D key width, V value width, N chunks, C positions in
a chunk, M batch x heads.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ico.layers._chunks import by_head, by_position, decays_by_head, join, split, starts
from ico.layers._gates import check_gates, factors, logarithms
from ico.layers._shapes import check_shapes, check_sides, float_of
from ico.layers._triangular import unit_lower_inverse
from ico.types import working_dtype

Form = Literal["chunked", "recurrent"]


def delta_rule(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B T H D"],
    v: Float[Array, "B T H V"],
    *,
    beta: Float[Array, "B T H"],
    forget: Float[Array, "B T H"] | None = None,
    log_forget: Float[Array, "B T H"] | None = None,
    initial_state: Float[Array, "B H V D"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    form: Form = "chunked",
    chunk_size: int = 64,
    return_state: bool = False,
) -> Float[Array, "B T H V"] | tuple[Float[Array, "B T H V"], Float[Array, "B H V D"]]:
    """One gradient step per position on `1/2 |v_t - S k_t|^2`, from the decayed memory:

        o_t = S_t q_t,    S_t = f_t S_{t-1} + beta_t (v_t - f_t S_{t-1} k_t) k_t^T.

    Without `forget` this is DeltaNet (2102.11174; in chunks, 2406.06484), with it the gated delta
    rule (2412.06464). If `beta |k|^2 <= 2`, no step amplifies the old memory and S grows by at most
    `beta |v| |k|` per position; otherwise S may diverge. This is not checked.

    Args:
      q, k, v: queries, keys [B, T, H, D] and values [B, T, H, V]; any T, V may differ from D.
      beta: the step size [B, T, H]. With beta = 1 a key of unit norm retrieves its new value
        exactly.
      forget: f in [0, 1], [B, T, H]; None forgets nothing. Zero resets S.
      log_forget: log f, in place of f; see `linear_attention`.
      initial_state: S before position 0; None is zero.
      segment_ids: [B, T], equal within each packed sequence. S is reset to zero wherever the id
        changes.
      form: the algorithm; the result is the same:
        "chunked": one state per chunk, from matrix products and a triangular inverse;
        "recurrent": one state per position, as in decoding.
      chunk_size: positions in a chunk, for "chunked".
      return_state: whether to return the final S as well.

    Returns:
      [B, T, H, V] in the dtype of v; with `return_state` also S [B, H, V, D] in float32 or better,
      the precision of the computation. For the backward pass the chunked form stores one state per
      chunk and recomputes the chunks; the recurrent form stores one state per position.

    Raises:
      ValueError: mismatched shapes, an unknown form, chunk_size < 1, forget factors outside [0, 1]
        (if not traced) or given twice.
    """
    check_shapes(q, k, v, causal=True)
    check_sides(q, v, segment_ids, {"initial_state": initial_state})
    check_gates(forget, log_forget, q.shape[:3])
    if beta.shape != q.shape[:3]:
        raise ValueError(f"beta must be {list(q.shape[:3])}, not {list(beta.shape)}")
    if form not in get_args(Form):
        raise ValueError(f"form must be 'chunked' or 'recurrent', not {form!r}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    B, T, H, D = q.shape
    out_dtype, V = float_of(v), v.shape[-1]
    dtype = working_dtype(q, k, v)
    q, k, v, beta = (a.astype(dtype) for a in (q, k, v, beta))
    state = jnp.zeros((B, H, V, D), dtype)
    if initial_state is not None:
        state = initial_state.astype(dtype)
    begins = starts(segment_ids, H)
    if form == "recurrent":
        o, state = _recurrent(q, k, v, beta, factors(forget, log_forget, dtype), begins, state)
    else:
        log = logarithms(forget, log_forget, dtype)
        o, state = _chunked(q, k, v, beta, log, begins, state, min(chunk_size, max(T, 1)))
    o = o.astype(out_dtype)
    return (o, state) if return_state else o


def _recurrent(q, k, v, beta, forget, begins, state):
    """One position per step of a scan."""
    given = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (q, k, v, beta, forget, begins))

    def step(state_BHVD, at):
        q_BHD, k_BHD, v_BHV, beta_BH, f_BH, begins_BH = at
        if begins_BH is not None:
            state_BHVD = jnp.where(begins_BH[..., None, None], 0, state_BHVD)
        if f_BH is not None:
            state_BHVD = f_BH[..., None, None] * state_BHVD
        error = v_BHV - jnp.einsum("bhvd,bhd->bhv", state_BHVD, k_BHD)
        write = beta_BH[..., None, None] * error[..., :, None] * k_BHD[..., None, :]
        state_BHVD = state_BHVD + write
        return state_BHVD, jnp.einsum("bhvd,bhd->bhv", state_BHVD, q_BHD)

    state, o = jax.lax.scan(step, state, given)
    return jnp.moveaxis(o, 0, 1), state


def _chunked(q, k, v, beta, log, begins, state, C):
    """The values u_t that are effectively written solve a triangular system in each chunk:

    u_t + beta_t sum_{s < t} within_ts (k_s . k_t) u_s = beta_t (v_t - into_t S_0 k_t).
    """
    B, T, H, _ = q.shape
    given = jax.tree.map(lambda a: split(a, C), (q, k, v, beta, log, begins))

    @jax.checkpoint
    def step(state_MVD, at):
        q, k, v, beta, log, begins = at
        q, k, v, beta = by_head(q), by_head(k), by_head(v), by_head(beta[..., None])
        dec = decays_by_head(log, begins, k)
        read = jnp.swapaxes(state_MVD, 1, 2)
        solve = unit_lower_inverse(beta * dec.within * (k @ jnp.swapaxes(k, 1, 2)))
        u = solve @ (beta * (v - dec.into[..., None] * (k @ read)))
        scores = dec.within * (q @ jnp.swapaxes(k, 1, 2))
        o = scores @ u + dec.into[..., None] * (q @ read)
        write = jnp.swapaxes(dec.out[..., None] * u, 1, 2) @ k
        return dec.into[..., -1:, None] * state_MVD + write, by_position(o, H)

    last, o = jax.lax.scan(step, state.reshape(B * H, *state.shape[2:]), given)
    return join(o, T), last.reshape(state.shape)
