"""The mesa layer from matrix products, exactly, with a backward pass that needs no further solves.

With H_t = f_t H_{t-1} + k_t k_t^T and G_t = f_t G_{t-1} + v_t k_t^T the layer is o_t = G_t x_t,
x_t = H_t^-1 q_t. In a chunk that starts with R = H^-1, and in which the initial state has decayed
by the factor e^c_t at position t,

    H_t = e^c_t (R^-1 + sum_{s <= t} e^-c_s k_s k_s^T),
    x_t = e^-c_t (R q_t - sum_{s <= t} (u_s . q_t) u_s),

where u_s u_s^T is what the Sherman-Morrison update subtracts at step s. So a chunk is causal linear
attention twice, once with the u_s as keys and values and once with the keys and values themselves,
plus the states. The u_s are computed in one of two ways:

- "chunked": by the recursion, eight positions at a time, one chunk after the other;
- "parallel": H at the start of every chunk is a sum, so it is inverted for all chunks at once. With
  L the inverse Cholesky factor of diag(e^c) + K R K^T, the u_s are the rows of L K R (the Woodbury
  identity for all leading blocks at once: a leading block of a triangular inverse is the inverse of
  the block).

The differences lose digits by the factor e^c. A chunk in which e^c becomes small is computed one
position at a time instead (`_mesa_position`).

Backward, with e the cotangent of o: dH_t = -(H_t^-1 G_t^T e_t) x_t^T uses the same u_s, and the
rest is linear attention in the reverse direction (as in 2506.05233, without its solver).

Dimension key: M batch x heads, N chunks, C positions, D key width, V value width, S 8 positions.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.layers._chunks import Decays, by_head, by_position, decays_by_head
from ico.layers._gates import resets
from ico.layers._mesa_position import Chunk, States, chunk_backward, chunk_forward
from ico.layers._whitening import inverse, inverse_cotangent, whitening

_STRIDE = 8  # positions per step of the recursion: fewer passes over R
_LEAST_LEFT = 0.02  # of a state, in a chunk that is computed by products: they lose this factor


class _Heads(NamedTuple):
    """A chunk with heads merged into the batch, and its decay factors."""

    q: Float[Array, "... M C D"]
    k: Float[Array, "... M C D"]
    v: Float[Array, "... M C V"]
    decays: Decays


def _heads(at: Chunk) -> _Heads:
    q, k, v = by_head(at.q), by_head(at.k), by_head(at.v)
    return _Heads(q, k, v, decays_by_head(at.log_forget, at.begins, k))


class _Read(NamedTuple):
    """Intermediate results of a chunk that the backward pass needs, beside its inputs."""

    start: States
    u: Float[Array, "... M C D"]
    x: Float[Array, "... M C D"]
    o: Float[Array, "... B C H V"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def mesa_chunked(chunks: Chunk, first: States, r_new: Float[Array, "M D D"], parallel: bool):
    """Outputs [N, B, C, H, V], and R and G at the end.

    Args:
      chunks: the inputs, with a leading axis N.
      first: R and G before position 0.
      r_new: R at the start of later sequences of a packed row, where G is 0.
      parallel: which of the two ways above.
    """
    read, last = _forward(chunks, first, r_new, parallel)
    return read.o, last


def _forward(chunks: Chunk, first: States, r_new, parallel) -> tuple[_Read, States]:
    H = chunks.q.shape[-2]
    if parallel:
        heads = _heads(chunks)
        starts, u, last = _factors_at_once(heads, first, r_new)
        found = _read(heads, starts, u, r_new[None], H), last
        return _unless_strong(
            heads.decays, found, chunks, lambda: _forward(chunks, first, r_new, False)
        )

    def chunk(start: States, at: Chunk):
        heads = _heads(at)
        dec = heads.decays
        u, r = _factors_in_turn(heads.k, start.r, r_new, dec)
        after = States(r, dec.into[..., -1:, None] * start.g + _write(heads.v, heads.k, dec))

        def by_positions():
            after, x, o = chunk_forward(start, at, r_new)
            return after, _Read(start, jnp.zeros_like(u), x, o)

        found = after, _read(heads, start, u, r_new, H)
        return _unless_strong(dec, found, at, by_positions)

    last, read = jax.lax.scan(chunk, first, chunks)
    return read, last


def _unless_strong(dec: Decays, found, at: Chunk, by_positions):
    """What was found by products, or `by_positions()` where these lose too many digits.

    A loop of one step at most, for `jax.vmap` of a condition computes both of its branches.
    """
    if at.log_forget is None:
        return found
    strong = jnp.any(dec.log < math.log(_LEAST_LEFT))
    again = lambda _: (by_positions(), jnp.zeros_like(strong))  # noqa: E731
    return jax.lax.while_loop(lambda state: state[1], again, (found, strong))[0]


def _read(at: _Heads, start: States, u, r_new, H: int) -> _Read:
    dec = at.decays
    x = _solve(at.q, start.r, r_new, u, dec)
    scores = dec.within * (x @ _transposed(at.k))
    o = scores @ at.v + dec.into[..., None] * (x @ _transposed(start.g))
    return _Read(start, u, x, by_position(o, H))


def _write(values, k, dec: Decays):
    """The contribution of a chunk to the state sum v k^T at its end."""
    return _transposed(dec.out[..., None] * values) @ k


def _solve(a, r, r_new, u, dec: Decays):
    """H_t^-1 a_t at every position."""
    start = _own(dec, a @ r, lambda: a @ r_new)
    x = start - jnp.where(dec.same, a @ _transposed(u), 0) @ u
    return x / _left(dec)[..., None]


def _left(dec: Decays):
    """e^c, at least the square root of eps, so that its inverse stays finite."""
    return jnp.maximum(jnp.exp(dec.log), jnp.finfo(dec.log.dtype).eps ** 0.5)


def _own(dec: Decays, of_chunk, of_new):
    """Per position: `of_chunk` in the sequence that the chunk starts in, else `of_new()`."""
    return (
        of_chunk if dec.carried is None else jnp.where(dec.carried[..., None], of_chunk, of_new())
    )


def _factors_at_once(chunks: _Heads, first: States, r_new):
    """R and G at the start of every chunk, all u, and the final R and G."""
    dec, k = chunks.decays, chunks.k
    h, h_last = _hessians(chunks, inverse(first.r), inverse(r_new))
    g, g_last = _along(_write(chunks.v, k, dec), dec.into[..., -1], first.g)
    r, left = inverse(h), _left(dec)
    kr = _own(dec, k @ r, lambda: k @ r_new[None])
    gram = jnp.where(dec.same | _transposed(dec.same), kr @ _transposed(k), 0)
    gram = gram + left[..., None] * jnp.eye(k.shape[-2], dtype=k.dtype)[None, None]
    u = whitening(gram) @ kr
    return States(r, g), u, States(inverse(h_last), g_last)


def _hessians(chunks: _Heads, h_first, h_new):
    """H at the start of every chunk, and the final H."""
    dec = chunks.decays
    writes = _write(chunks.k, chunks.k, dec)
    if dec.carried is not None:
        new = jnp.exp(dec.log[..., -1]) * ~dec.carried[..., -1]
        writes = writes + new[..., None, None] * h_new[None]
    return _along(writes, dec.into[..., -1], h_first)


def _along(writes, through, first):
    """S_0 = first, S_{n+1} = through_n S_n + writes_n: returns (S_0 ... S_{N-1}, S_N)."""

    def step(state, at):
        write, left = at
        return left[:, None, None] * state + write, state

    through = jnp.broadcast_to(through, writes.shape[:2])
    last, before = jax.lax.scan(step, first, (writes, through))
    return before, last


def _factors_in_turn(k, r, r_new, dec: Decays):
    """The u of one chunk [M, C, D], and R at its end."""
    M, C, _ = k.shape
    more = -C % _STRIDE
    # A state larger than this would consist of rounding errors only.
    eps = jnp.finfo(k.dtype).eps
    largest, most = 0.1 / eps, jnp.maximum(jnp.trace(r, axis1=1, axis2=2), eps)
    if dec.which is not None:
        most = jnp.maximum(most, jnp.trace(r_new, axis1=1, axis2=2))

    def strides(a):
        """[M, C, ...] to [C / S, S, M, ...], padded by repeating the last position."""
        a = jnp.broadcast_to(a, (M, C, *a.shape[2:]))
        a = jnp.pad(a, ((0, 0), (0, more), *[(0, 0)] * (a.ndim - 2)), mode="edge")
        a = a.reshape(M, (C + more) // _STRIDE, _STRIDE, *a.shape[2:])
        return jnp.moveaxis(a, 0, 2)

    # Padded positions have key zero, so they change nothing.
    real = jnp.pad(jnp.ones(C, k.dtype), (0, more)).reshape((C + more) // _STRIDE, _STRIDE, 1, 1)
    left = _left(dec)
    which = None if dec.which is None else strides(dec.which)
    given = strides(k) * real, strides(left), which

    def stride(state, at):
        """`run` is the number of the sequence that r belongs to."""
        (r, run), (k, left, which) = state, at
        rk = jnp.einsum("mde,sme->smd", r, k)
        if which is not None:
            fresh = jnp.einsum("mde,sme->smd", r_new, k)
            rk = jnp.where((which == run[None])[..., None], rk, fresh)
        us: list = []
        for i in range(_STRIDE):
            row = rk[i]
            for j, u in enumerate(us):
                hessians = jnp.sum(u * k[i], -1)
                if which is not None:
                    hessians = jnp.where(which[j] == which[i], hessians, 0)
                row = row - u * hessians[:, None]
            # |R k|^2 <= tr(R) <k, R k> holds exactly; it fails only where R is rounding errors.
            least = jnp.sum(row**2, -1) / most
            pivot = jnp.maximum(left[i] + jnp.sum(k[i] * row, -1), least)
            us.append(row * jax.lax.rsqrt(pivot)[:, None])
        u = kept = jnp.stack(us)
        if which is not None:
            kept = jnp.where((which == which[-1:])[..., None], u, 0)
            r = jnp.where((run == which[-1])[:, None, None], r, r_new)
            run = which[-1]
        return (r - jnp.einsum("smd,sme->mde", kept, kept), run), u

    start = r, None if which is None else jnp.zeros(M, which.dtype)
    (r, _), u = jax.lax.scan(stride, start, given)
    grown = jnp.minimum(1 / left[:, -1], largest / jnp.max(jnp.abs(r), axis=(1, 2)))
    return jnp.moveaxis(u.reshape(C + more, M, u.shape[-1]), 0, 1)[:, :C], r * grown[:, None, None]


def _saved(chunks, first, r_new, parallel):
    read, last = _forward(chunks, first, r_new, parallel)
    return (read.o, last), (chunks, read, last, first.r, r_new)


class _Hessians(NamedTuple):
    """H at the start of a chunk, and H and G at its end: needed for the cotangents of gates."""

    h: Float[Array, "... M D D"]
    h_after: Float[Array, "... M D D"]
    g_after: Float[Array, "... M V D"]


class _Inner(NamedTuple):
    """The part of a chunk's cotangents that does not depend on later chunks."""

    dq: Float[Array, "... M C D"]
    values: Float[Array, "... M C C"]
    dh: Float[Array, "... M D D"]
    dg: Float[Array, "... M V D"]


def _backward(parallel, saved, cotangents):
    chunks, read, last, r_first, r_new = saved
    e, d_last = cotangents
    h_first, h_new = inverse(r_first), inverse(r_new)
    hessians = None
    if chunks.log_forget is not None:
        h, h_last = _hessians(_heads(_with_resets(chunks)), h_first, h_new)
        after = (
            jnp.concatenate([a[1:], a_last[None]])
            for a, a_last in ((h, h_last), (read.start.g, last.g))
        )
        hessians = _Hessians(h, *after)
    d_end = inverse_cotangent(last.r, d_last.r), d_last.g
    given = chunks, read, by_head(e), hessians
    d_first, d_chunks, d_new = _cotangents(given, d_end, r_new, h_new, parallel)
    d_r_new = jnp.zeros_like(r_new)
    if d_new is not None:
        d_r_new = inverse_cotangent(h_new, jnp.sum(d_new, axis=0))
    return d_chunks, States(inverse_cotangent(h_first, d_first[0]), d_first[1]), d_r_new


def _with_resets(chunks: Chunk) -> Chunk:
    """The same with factors of zero as starts of sequences."""
    assert chunks.log_forget is not None
    zero, begins = resets(chunks.log_forget), chunks.begins
    begins = zero if begins is None else zero | begins
    return chunks._replace(log_forget=jnp.where(zero, 0.0, chunks.log_forget), begins=begins)


def _cotangents(given, d_end, r_new, h_new, parallel):
    """Cotangents of H and G at the start, of the chunks, and of H where sequences start."""
    chunks, read, e, hessians = given
    H = chunks.q.shape[-2]
    if parallel:
        heads = _heads(chunks)
        inner = _inner(heads, read, e, r_new[None])
        through = jnp.broadcast_to(heads.decays.into[..., -1], inner.dh.shape[:2])[::-1]
        (dh, dh_first), (dg, dg_first) = (
            _along(a[::-1], through, end)
            for a, end in zip((inner.dh, inner.dg), d_end, strict=True)
        )
        found = (
            (dh_first, dg_first),
            *_outer(heads, read, e, inner, (dh[::-1], dg[::-1]), hessians, H),
        )
        return _unless_strong(
            heads.decays, found, chunks, lambda: _cotangents(given, d_end, r_new, h_new, False)
        )

    def chunk(d_end, given):
        at, read, e, hessians = given
        heads = _heads(at)
        inner = _inner(heads, read, e, r_new)
        left = heads.decays.into[..., -1:, None]
        d_start = left * d_end[0] + inner.dh, left * d_end[1] + inner.dg
        found = d_start, _outer(heads, read, e, inner, d_end, hessians, H)

        def by_positions():
            d_start, *d_at = chunk_backward(read.start, hessians.h, at, r_new, h_new, e, d_end)
            return d_start, tuple(d_at)

        return _unless_strong(heads.decays, found, at, by_positions)

    d_first, (d_chunks, d_new) = jax.lax.scan(chunk, d_end, given, reverse=True)
    return d_first, d_chunks, d_new


def _inner(at: _Heads, read: _Read, e, r_new) -> _Inner:
    (r, g), dec = read.start, at.decays
    into = dec.into[..., None]
    values = dec.within * (e @ _transposed(at.v))
    dq = _solve(values @ at.k + into * (e @ g), r, r_new, read.u, dec)
    # Cotangents of H and G at a position are -(dq x^T), symmetric, and e x^T.
    x = into * read.x
    return _Inner(dq, values, -_symmetric(_transposed(dq) @ x), _transposed(e) @ x)


def _outer(at: _Heads, read: _Read, e, inner: _Inner, d_end, hessians: _Hessians | None, H: int):
    """The chunk's cotangents, and the cotangent of H where later sequences of the chunk start."""
    (dq, values, *_), (dh, dg), x, dec = inner, d_end, read.x, at.decays
    out = dec.out[..., None]
    keys = dec.within * (x @ _transposed(at.k))
    dv = _transposed(keys) @ e + out * (at.k @ _transposed(dg))
    dk = _transposed(values - dec.within * (dq @ _transposed(at.k))) @ x - _transposed(keys) @ dq
    dk = dk + out * (at.v @ dg + 2 * (at.k @ dh))
    d_new = dlog = None
    if dec.carried is not None:
        reach = jnp.where(dec.carried, 0, jnp.exp(dec.log))
        own = _symmetric(_transposed(dq) @ (reach[..., None] * x))
        d_new = reach[..., -1:, None] * dh - own
    elif hessians is not None:
        d_new = jnp.zeros_like(dh)  # chunks computed by positions may start anew
    if hessians is not None:
        # d / d log f_s = <dH_s, H_s> minus the terms of position s itself, summed over t >= s.
        own = jnp.sum(e * by_head(read.o) - (at.v * dv) / 2, -1)
        own = own - jnp.sum(at.q * dq + (at.k * dk) / 2, -1)
        dlog = jnp.einsum("...ts,...t->...s", dec.same.astype(own.dtype), own)
        end = jnp.sum(dh * hessians.h_after, (-1, -2)) + jnp.sum(dg * hessians.g_after, (-1, -2))
        dlog = by_position((dlog + dec.same[..., -1, :] * end[..., None])[..., None], H)[..., 0]
    dq, dk, dv = (by_position(a, H) for a in (dq, dk, dv))
    return Chunk(dq, dk, dv, dlog, None), d_new


def _transposed(a):
    return jnp.swapaxes(a, -1, -2)


def _symmetric(a):
    return (a + _transposed(a)) / 2


mesa_chunked.defvjp(_saved, _backward)
