"""Linear attention, plain and gated: one operator in three forms that compute the same.

Dimension key: B batch, T queries, S keys, H heads, D key width, V value width,
N chunks, C positions in a chunk, M batch x heads.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ico.layers._chunks import by_head, by_position, decays_by_head, join, split, starts
from ico.layers._gates import check_gates, factors, logarithms
from ico.layers._shapes import check_scores, check_shapes, check_sides, float_of
from ico.types import working_dtype

Form = Literal["parallel", "chunked", "recurrent"]


def linear_attention(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    v: Float[Array, "B S H V"],
    *,
    causal: bool = True,
    forget: Float[Array, "B T H"] | None = None,
    log_forget: Float[Array, "B T H"] | None = None,
    initial_state: Float[Array, "B H V D"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    gate: Float[Array, "#B #H #T #S"] | None = None,
    form: Form = "chunked",
    chunk_size: int = 64,
    return_state: bool = False,
) -> Float[Array, "B T H V"] | tuple[Float[Array, "B T H V"], Float[Array, "B H V D"]]:
    """Unscaled linear attention, `o_t = sum_i v_i (k_i . q_t)`, or with a forget gate

        o_t = S_t q_t,    S_t = f_t S_{t-1} + v_t k_t^T.

    The sum runs over i <= t if `causal`, else over all keys. Without a gate it is the operator of
    "Transformers learn in-context by gradient descent" (2212.07677, Eq. 3 without softmax): no
    scaling, no normaliser, no feature map. With a gate it is gated linear attention with a scalar
    gate per head (2312.06635; Mamba 2's).

    Args:
      q: queries [B, T, H, D].
      k: keys [B, S, H, D]; S == T if causal.
      v: values [B, S, H, V]; V may differ from D.
      causal: whether position t sees only keys up to and including t.
      forget: f in [0, 1], only if causal; None forgets nothing. Zero resets S.
      log_forget: log f, in place of f: `jax.nn.log_sigmoid(logits)` keeps the digits that
        `jax.nn.sigmoid(logits)` rounds away near 0 and 1.
      initial_state: S before position 0, only if causal; None is zero.
      segment_ids: [B, T], equal within each packed sequence, only if causal. S is reset to zero
        wherever the id changes.
      gate: multiplies the scores k_i . q_t, with `form="parallel"` alone; four axes [B, H, T, S],
        each of which may be 1. `ico.layers.toeplitz` makes one of coefficients by distance.
      form: the algorithm; the result is the same:
        "parallel": the T x S matrix of scores (quadratic in length, best for short sequences);
        "chunked": one state per chunk (linear time and memory, best from a few hundred positions);
        "recurrent": one state per position (constant memory in the forward pass, as in decoding).
      chunk_size: positions in a chunk, for "chunked". T need not be a multiple: the last chunk is
        padded with zeros, which add nothing to the sums.
      return_state: whether to return the final S as well, only if causal.

    Returns:
      [B, T, H, V] in the dtype of v; with `return_state` also S [B, H, V, D] in float32 or better,
      the precision of the computation.

    Raises:
      ValueError: mismatched shapes, an unknown form, chunk_size < 1, forget factors outside [0, 1]
        (if not traced) or given twice, forget, initial_state, segment_ids or return_state without
        `causal`, or a gate with a form or a state that cannot have one.
    """
    check_shapes(q, k, v, causal=causal)
    check_sides(q, v, segment_ids, {"initial_state": initial_state})
    check_gates(forget, log_forget, q.shape[:3])
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    if form not in get_args(Form):
        raise ValueError(f"form must be 'parallel', 'chunked' or 'recurrent', not {form!r}")
    if gate is not None:
        check_scores(q, k, {"gate": gate})
        if form != "parallel" or return_state or initial_state is not None:
            raise ValueError("a gate of scores needs form='parallel' and goes with no state")
    out_dtype, dtype = float_of(v), working_dtype(q, k, v)
    q, k, v = (a.astype(dtype) for a in (q, k, v))
    if not causal:
        order = (forget, log_forget, initial_state, segment_ids)
        if return_state or any(a is not None for a in order):
            raise ValueError("forget, initial_state, segment_ids and return_state need causal=True")
        return _all_keys(q, k, v, gate, form).astype(out_dtype)
    B, T, H, D = q.shape
    state = jnp.zeros((B, H, v.shape[-1], D), dtype)
    if initial_state is not None:
        state = initial_state.astype(dtype)
    begins = starts(segment_ids, H)
    if form == "recurrent":
        o, state = _recurrent(q, k, v, factors(forget, log_forget, dtype), begins, state)
    else:
        log = logarithms(forget, log_forget, dtype)
        C = max(T, 1) if form == "parallel" else min(chunk_size, max(T, 1))
        if C >= T > 0 and initial_state is None and not return_state:
            o = _one_chunk(q, k, v, log, begins, gate)
        else:
            o, state = _chunked(q, k, v, log, begins, state, C)
    o = o.astype(out_dtype)
    return (o, state) if return_state else o


def _all_keys(q, k, v, gate, form):
    if form == "parallel":
        scores_BHTS = jnp.einsum("bthd,bshd->bhts", q, k)
        if gate is not None:
            scores_BHTS = scores_BHTS * gate.astype(scores_BHTS.dtype)
        return jnp.einsum("bhts,bshv->bthv", scores_BHTS, v)
    # Without a mask the sum over keys factors: one D x V state serves every query.
    state_BHDV = jnp.einsum("bshd,bshv->bhdv", k, v)
    return jnp.einsum("bthd,bhdv->bthv", q, state_BHDV)


def _recurrent(q, k, v, forget, begins, state):
    """One position per step of a scan."""
    given = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (q, k, v, forget, begins))

    def step(state_BHVD, at):
        q_BHD, k_BHD, v_BHV, f_BH, begins_BH = at
        if begins_BH is not None:
            state_BHVD = jnp.where(begins_BH[..., None, None], 0, state_BHVD)
        if f_BH is not None:
            state_BHVD = f_BH[..., None, None] * state_BHVD
        state_BHVD = state_BHVD + v_BHV[..., :, None] * k_BHD[..., None, :]
        return state_BHVD, jnp.einsum("bhvd,bhd->bhv", state_BHVD, q_BHD)

    state, o = jax.lax.scan(step, state, given)
    return jnp.moveaxis(o, 0, 1), state


def _one_chunk(q, k, v, log, begins, gate):
    """Masked scores only: no initial state is given and no final state is asked for."""
    within = decays_by_head(log, begins, by_head(k)).within
    scores_BHTS = jnp.einsum("bthd,bshd->bhts", q, k)
    if within.shape[0] != 1:
        scores_BHTS = within.reshape(scores_BHTS.shape) * scores_BHTS
    else:
        scores_BHTS = within[None] * scores_BHTS
    if gate is not None:
        scores_BHTS = scores_BHTS * gate.astype(scores_BHTS.dtype)
    return jnp.einsum("bhts,bshv->bthv", scores_BHTS, v)


def _chunked(q, k, v, log, begins, state, C):
    """One chunk per step of a scan: masked scores inside, a product with the state before it."""
    B, T, H, _ = q.shape
    given = jax.tree.map(lambda a: split(a, C), (q, k, v, log, begins))

    def step(state_MVD, at):
        q, k, v, log, begins = at
        q, k, v = by_head(q), by_head(k), by_head(v)
        dec = decays_by_head(log, begins, k)
        scores = dec.within * (q @ jnp.swapaxes(k, 1, 2))
        o = scores @ v + dec.into[..., None] * (q @ jnp.swapaxes(state_MVD, 1, 2))
        write = jnp.swapaxes(dec.out[..., None] * v, 1, 2) @ k
        return dec.into[..., -1:, None] * state_MVD + write, by_position(o, H)

    last, o = jax.lax.scan(step, state.reshape(B * H, *state.shape[2:]), given)
    return join(o, T), last.reshape(state.shape)
