"""The mesa layer one position at a time, for any forget factor.

With H_t = f_t H_{t-1} + k_t k_t^T, G_t = f_t G_{t-1} + v_t k_t^T and R = H^-1 the layer is
o_t = G_t R_t q_t. A factor of zero restarts from R = r_new and G = 0, and counts as one.

`updated_inverse` is what decoding and the recurrent form do. `chunk_forward` and `chunk_backward`
do so for a chunk of the forms made of products, where those would lose too many digits.

Dimension key: B batch, H heads, M = B H, C positions, D key width, V value width, ... any leading
axes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ico.layers._chunks import by_head, by_position
from ico.layers._gates import resets


class Chunk(NamedTuple):
    """The inputs of one chunk, or with a leading axis N those of all chunks of a sequence.

    `begins` marks where later sequences of a packed row start. `log_forget` is None if nothing is
    forgotten, `begins` if the input is not packed.
    """

    q: Float[Array, "... B C H D"]
    k: Float[Array, "... B C H D"]
    v: Float[Array, "... B C H V"]
    log_forget: Float[Array, "... B C H"] | None
    begins: Bool[Array, "... B C H"] | None


class States(NamedTuple):
    """R = H^-1 and G at one position, such as the start of a chunk."""

    r: Float[Array, "... M D D"]
    g: Float[Array, "... M V D"]


class _Past(NamedTuple):
    """What a position's cotangents are made of: H and G as they decay, and R and G after it."""

    h: Float[Array, "... M D D"]
    g: Float[Array, "... M V D"]
    after: States


def factors_and_resets(log_forget):
    """The factors, one where they are zero, and where that is; (None, None) without gates."""
    if log_forget is None:
        return None, None
    zero = resets(log_forget)
    return jnp.exp(jnp.where(zero, 0, log_forget)), zero


def updated_inverse(
    r: Float[Array, "... D D"], k: Float[Array, "... D"], f: Float[Array, "..."] | None
) -> Float[Array, "... D D"]:
    """`(f R^-1 + k k^T)^-1`, by the formula of Sherman and Morrison; f None is one."""
    # Without this the asymmetry of R from rounding would grow by 1/f per position.
    r = (r + jnp.swapaxes(r, -1, -2)) / 2
    if f is not None:
        return _decayed_inverse(r, k, f)
    rk = jnp.einsum("...de,...e->...d", r, k)
    # |R k|^2 <= tr(R) <k, R k> holds exactly; it fails only where R is all rounding errors.
    most = jnp.maximum(jnp.trace(r, axis1=-2, axis2=-1), jnp.finfo(r.dtype).eps)
    along = jnp.maximum(jnp.sum(k * rk, -1), jnp.sum(rk**2, -1) / most)
    return r - _outer(rk / (1 + along)[..., None], rk)


class _Gain(NamedTuple):
    """g = R' k of the updated R' = `(f R^-1 + k k^T)^-1`, and what it is made of."""

    g: Float[Array, "... D"]
    rk: Float[Array, "... D"]
    along: Float[Array, "..."]  # <k, R k>
    most: Float[Array, "..."]  # by which directions without keys may grow at this position


def _gain(r, k, f) -> _Gain:
    rk = jnp.einsum("...de,...e->...d", r, k)
    k_square, rk_square = (jnp.sum(jax.lax.stop_gradient(a) ** 2, -1) for a in (k, rk))
    # The largest ratio of eigenvalues that R may have. Kantorovich's inequality bounds <k, R k>.
    ratio = 0.1 / jnp.finfo(r.dtype).eps
    along = jnp.maximum(jnp.sum(k * rk, -1), 2 * jnp.sqrt(k_square * rk_square / ratio))
    # In directions without keys R grows by 1/f per position; the bound keeps the ratio.
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)
    largest = jnp.maximum(jnp.max(diagonal, -1), jnp.finfo(r.dtype).tiny)
    least = jnp.maximum(jnp.min(diagonal, -1), largest / ratio) / f
    shown = k_square > 0
    along_k = along / (f + along) / jnp.where(shown, k_square, 1)
    least = jnp.where(shown, jnp.minimum(least, along_k), least)
    bound = jax.lax.stop_gradient(ratio * least / largest)
    return _Gain(rk / (f + along)[..., None], rk, along, jnp.minimum(1 / f, bound))


@jax.custom_jvp
def _decayed_inverse(r, k, f):
    g, rk, _, most = _gain(r, k, f)
    # R's part along k cancels in R - g (R k)^T, and dividing by f would magnify its rounding error.
    # So it is projected twice and added anew: (1 - g k^T) R (1 - k g^T) / f + g g^T (Joseph).
    rest = r - _outer(g, rk)
    rest = rest - _outer(jnp.einsum("...de,...e->...d", rest, k), g)
    return rest * most[..., None, None] + _outer(g, g)


@_decayed_inverse.defjvp
def _decayed_inverse_jvp(primals, tangents):
    """d R' = -R' (d f R^-1 - f R^-1 d R R^-1 + d k k^T + k d k^T) R', without R^-1.

    Where f is small, 1 - g k^T has next to nothing left along k, and that is all rounding error. So
    with f < <k, R k> it is split into P = 1 - R k k^T / <k, R k>, whose part along k is zero, and
    f / <k, R k> of g k^T. Automatic differentiation would divide the rounding error by f^2.
    """
    (r, k, f), (dr, dk, df) = primals, tangents
    g, rk, along, most = _gain(r, k, f)
    after = _decayed_inverse(r, k, f)
    small = f < along
    safe = jnp.where(small, along, 1)
    over = jnp.where(small, 1 / safe, 0)  # of (1 - g k^T - P) / f, in units of g k^T
    # Divided last: with one entry this is 1 - x / x, zero to the last bit.
    times = jnp.where(small[..., None], rk, g)
    identity = jnp.broadcast_to(jnp.eye(k.shape[-1], dtype=r.dtype), r.shape)
    project = identity - _outer(times, k) / safe[..., None, None]

    def projected(a):
        return jnp.einsum("...de,...ef,...gf->...dg", project, a, project) * most[..., None, None]

    def both(a, b):
        return _outer(a, b) + _outer(b, a)

    unforgotten = projected(r) + (f * over)[..., None, None] * _outer(g, g)
    dr_k = jnp.einsum("...de,...e->...d", dr, k)
    across = over[..., None] * jnp.einsum("...de,...e->...d", project, dr_k)
    within = f * over**2 * jnp.sum(k * dr_k, -1)
    by_r = projected(dr) + both(across, g) + within[..., None, None] * _outer(g, g)
    by_k = both(jnp.einsum("...de,...e->...d", after, dk), g)
    return after, by_r - by_k - (df / f)[..., None, None] * unforgotten


def _outer(a, b):
    return a[..., :, None] * b[..., None, :]


def chunk_forward(start: States, at: Chunk, r_new: Float[Array, "M D D"]):
    """A gated chunk from its start: the states at its end, x_t = R_t q_t and the outputs."""

    def step(state, at):
        q, k, v, f, begins = at
        state = _fresh(begins, States(r_new, jnp.zeros_like(start.g)), state)
        state = _next(state, k, v, f)
        x = jnp.einsum("mde,me->md", state.r, q)
        return state, (x, jnp.einsum("mvd,md->mv", state.g, x))

    last, (x, o) = jax.lax.scan(step, start, _positions(at))
    return last, jnp.moveaxis(x, 0, 1), by_position(jnp.moveaxis(o, 0, 1), at.q.shape[-2])


def chunk_backward(start: States, h_start, at: Chunk, r_new, h_new, e, d_end):
    """The cotangents of a gated chunk, from the states at its start and those of its end.

    Args:
      start, h_start: R and G, and H, before the chunk.
      at: the chunk.
      r_new, h_new: R and H where a sequence starts.
      e: the cotangent of the outputs, [M, C, V].
      d_end: the cotangents of H and G at the chunk's end.

    Returns:
      Those of H and G at its start, those of its inputs, and that of H where sequences start.
    """
    given = _positions(at)
    fresh = States(r_new, jnp.zeros_like(start.g))

    def forward(carry, at):
        h, state = carry
        q, k, v, f, begins = at
        h, state = _fresh(begins, (h_new, fresh), (h, state))
        past = h, state.g
        h = f[:, None, None] * h + k[:, :, None] * k[:, None, :]
        state = _next(state, k, v, f)
        return (h, state), _Past(*past, state)

    _, pasts = jax.lax.scan(forward, (h_start, start), given)

    def backward(d_after, at):
        (dh, dg), ((q, k, v, f, begins), past, e) = d_after, at
        r, g = past.after
        x = jnp.einsum("mde,me->md", r, q)
        dq = jnp.einsum("mde,mve,mv->md", r, g, e)
        crossed = dq[:, :, None] * x[:, None, :]
        dh = dh - (crossed + jnp.swapaxes(crossed, 1, 2)) / 2
        dg = dg + e[:, :, None] * x[:, None, :]
        dk = 2 * jnp.einsum("mde,me->md", dh, k) + jnp.einsum("mvd,mv->md", dg, v)
        dv = jnp.einsum("mvd,md->mv", dg, k)
        dh, dg = f[:, None, None] * dh, f[:, None, None] * dg
        dlog = jnp.sum(dh * past.h, (1, 2)) + jnp.sum(dg * past.g, (1, 2))
        d_new = _fresh(begins, dh, jnp.zeros_like(dh))
        before = _fresh(begins, (jnp.zeros_like(dh), jnp.zeros_like(dg)), (dh, dg))
        return before, (dq, dk, dv, dlog, d_new)

    given = given, pasts, jnp.moveaxis(e, 1, 0)
    d_start, (dq, dk, dv, dlog, d_new) = jax.lax.scan(backward, d_end, given, reverse=True)
    # A factor of zero counts as one, whatever it is near.
    dlog = jnp.where(resets(_by_position(at.log_forget)), 0, dlog)
    H = at.q.shape[-2]
    dq, dk, dv, dlog = (
        by_position(jnp.moveaxis(a, 0, 1), H) for a in (dq, dk, dv, dlog[..., None])
    )
    return d_start, Chunk(dq, dk, dv, dlog[..., 0], None), jnp.sum(d_new, axis=0)


def _positions(at: Chunk):
    """q, k, v, the factors and where the states start anew, positions first: [C, M, ...]."""
    q, k, v = (jnp.moveaxis(by_head(a), 1, 0) for a in (at.q, at.k, at.v))
    f, begins = factors_and_resets(_by_position(at.log_forget))
    if at.begins is not None:
        starts = _by_position(at.begins)
        begins = starts if begins is None else begins | starts
    return q, k, v, f, begins


def _by_position(a):
    """[B, C, H] to [C, M]."""
    return jnp.moveaxis(by_head(a[..., None])[..., 0], 1, 0)


def _fresh(begins, new, old):
    return jax.tree.map(lambda a, b: jnp.where(begins[:, None, None], a, b), new, old)


def _next(state: States, k, v, f) -> States:
    g = f[:, None, None] * state.g + v[:, :, None] * k[:, None, :]
    return States(updated_inverse(state.r, k, f), g)
