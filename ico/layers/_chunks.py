"""What the chunked layers share: splitting into chunks, and decay within and across chunks.

A sequence is cut into N chunks of C positions. A decaying state, S_t = f_t S_{t-1} + w_t, is then
needed only at the start of each chunk; inside a chunk its effect is a masked matrix product. Packed
sequences reset the state at their boundaries, which may lie anywhere in a chunk.

Dimension key: B batch, T positions, H heads, M = B H, N chunks, C positions in a chunk, E width,
... any leading axes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from ico.layers._gates import in_two_parts


class Decays(NamedTuple):
    """Decay factors of a chunk. An axis along which all entries are equal may have size 1.

    Fields:
      within: factor at position t of a write at position s; 0 unless s <= t in one sequence.
      into: factor at t of the state at the chunk's start; 0 in sequences that start later.
      out: factor at the chunk's end of a write at s; 0 if its sequence ends before.
      log: log of the decay up to t since the chunk's start, or since its sequence's start.
      which: number of sequences that have started in the chunk up to t; None if the input is not
        packed.
      same: whether s <= t and both belong to one sequence.
    """

    within: Float[Array, "... C C"]
    into: Float[Array, "... C"]
    out: Float[Array, "... C"]
    log: Float[Array, "... C"]
    which: Int[Array, "... C"] | None
    same: Bool[Array, "... C C"]

    @property
    def carried(self) -> Bool[Array, "... C"] | None:
        """Whether t belongs to the sequence that the chunk starts in; None if all positions do."""
        return None if self.which is None else self.which == 0


def split(a: Array, chunk_size: int) -> Array:
    """[B, T, ...] to [N, B, C, ...]; the last chunk is padded with zeros."""
    B, T, *rest = a.shape
    N = max(1, -(-T // chunk_size))
    a = jnp.pad(a, ((0, 0), (0, N * chunk_size - T), *[(0, 0)] * (a.ndim - 2)))
    return jnp.moveaxis(a.reshape(B, N, chunk_size, *rest), 1, 0)


def join(a: Array, T: int) -> Array:
    """The inverse of `split`: [N, B, C, ...] to [B, T, ...]."""
    N, B, C, *rest = a.shape
    return jnp.moveaxis(a, 0, 1).reshape(B, N * C, *rest)[:, :T]


def by_head(a: Shaped[Array, "... B C H E"]) -> Shaped[Array, "... M C E"]:
    """Moves heads before positions and merges them with the batch."""
    a = jnp.moveaxis(a, -2, -3)
    *more, B, H, C, E = a.shape
    return a.reshape(*more, B * H, C, E)


def by_position(a: Float[Array, "... M C E"], H: int) -> Float[Array, "... B C H E"]:
    """The inverse of `by_head`."""
    *more, M, C, E = a.shape
    return jnp.moveaxis(a.reshape(*more, M // H, H, C, E), -3, -2)


def starts(segment_ids: Int[Array, "B T"] | None, H: int) -> Bool[Array, "B T H"] | None:
    """Whether a sequence starts at t, for every head; None if the input is not packed.

    Never at position 0, which continues the initial state.
    """
    if segment_ids is None:
        return None
    changed = segment_ids[:, 1:] != segment_ids[:, :-1]
    begins = jnp.pad(changed, ((0, 0), (1, 0)))[:, : segment_ids.shape[1]]
    return jnp.broadcast_to(begins[..., None], (*begins.shape, H))


def decays(
    log_forget: Float[Array, "... C"] | None,
    begins: Bool[Array, "... C"] | None,
    like: Float[Array, "... C E"],
) -> Decays:
    """The decay factors of a chunk, or of several along leading axes.

    Args:
      log_forget: log of the forget factors, finite; None: nothing is forgotten.
      begins: whether a sequence starts at a position, from `starts`; None: not packed.
      like: an array of the chunk, for its dtype and shape.
    """
    C, ones, dtype = like.shape[-2], (1,) * (like.ndim - 2), like.dtype
    which, same = None, jnp.tri(C, dtype=bool).reshape(*ones, C, C)
    if begins is not None:
        which = jnp.cumsum(begins, axis=-1)
        same = same & (which[..., :, None] == which[..., None, :])
    if log_forget is None:
        log = since_start = left = jnp.zeros((*ones, C), dtype)
        within = same.astype(dtype)
    else:
        coarse, fine = in_two_parts(log_forget)
        log = since_start = jnp.cumsum(coarse, axis=-1) + jnp.cumsum(fine, axis=-1)
        left = _after(coarse) + _after(fine)
        if begins is not None:
            since_start = _since_start(coarse, begins, same) + _since_start(fine, begins, same)
        # Masked before exp, which may overflow above the diagonal. A clamp in its place would
        # halve the gradient where nothing is forgotten.
        within = jnp.where(same, jnp.exp(jnp.where(same, _between(log_forget), 0)), 0)
    into = jnp.exp(log)
    if which is None:
        return Decays(within, into, jnp.exp(left), since_start, which, same)
    last = which == which[..., -1:]
    into = jnp.where(which == 0, into, 0)
    out = jnp.where(last, jnp.exp(jnp.where(last, left, 0)), 0)
    return Decays(within, into, out, since_start, which, same)


@jax.custom_jvp
def _between(log_forget):
    """Sums over the positions after s up to t, [t, s]; below the diagonal alone they mean anything.

    They are differences of running sums, but their derivative is not: the cotangent of a small
    factor would be what is left of large terms that cancel.
    """
    sums = (jnp.cumsum(part, axis=-1) for part in in_two_parts(log_forget))
    return sum(a[..., :, None] - a[..., None, :] for a in sums)


@_between.defjvp
def _between_derivative(primals, tangents):
    (log_forget,), (tangent,) = primals, tangents
    C = tangent.shape[-1]
    later = jnp.tri(C, k=-1, dtype=bool).reshape(*[1] * (tangent.ndim - 1), C, C)
    terms = jnp.where(later, tangent[..., :, None], 0)  # of u in the column s < u
    up_to = jnp.tri(C, dtype=tangent.dtype)
    return _between(log_forget), jnp.einsum("tu,...us->...ts", up_to, terms, precision="highest")


def _after(part):
    """Sums over the positions after each one."""
    later = jnp.pad(part[..., 1:], [(0, 0)] * (part.ndim - 1) + [(0, 1)])
    return jax.lax.cumsum(later, axis=part.ndim - 1, reverse=True)


def _since_start(part, begins, same):
    """Running sums since the chunk's start, or since the sequence's start."""
    total = jnp.cumsum(part, axis=-1)
    # Subtracts what lies before the sequence's start. The factor at its first position still
    # counts, as it does at position 0.
    before = jnp.where(begins, total - part, 0)
    return total - jnp.sum(jnp.where(same, before[..., None, :], 0), axis=-1)


def decays_by_head(
    log_forget: Float[Array, "... B C H"] | None,
    begins: Bool[Array, "... B C H"] | None,
    like: Float[Array, "... M C E"],
) -> Decays:
    """`decays` of every head, from arrays in the layout of `split`.

    Args:
      log_forget, begins: output of `split`, or one chunk of it.
      like: an output of `by_head`.
    """
    log_forget, begins = (
        None if a is None else by_head(a[..., None])[..., 0] for a in (log_forget, begins)
    )
    return decays(log_forget, begins, like)
