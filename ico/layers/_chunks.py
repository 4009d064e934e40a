"""What the chunked layers share: splitting into chunks, and decay within and across chunks.

A sequence is cut into N chunks of C positions. A decaying state, S_t = f_t S_{t-1} + w_t, is then
needed only at the start of each chunk; inside a chunk its effect is a masked matrix product. Packed
sequences reset the state at their boundaries, which may lie anywhere in a chunk.

Dimension key: B batch, T positions, H heads, M = B H, N chunks, C positions in a chunk, E width,
... any leading axes.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


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


def by_head(a: Float[Array, "... B C H E"]) -> Float[Array, "... M C E"]:
    """Moves heads before positions and merges them with the batch."""
    a = jnp.moveaxis(a, -2, -3)
    return a.reshape(*a.shape[:-4], -1, *a.shape[-2:])


def by_position(a: Float[Array, "... M C E"], H: int) -> Float[Array, "... B C H E"]:
    """The inverse of `by_head`."""
    a = a.reshape(*a.shape[:-3], -1, H, *a.shape[-2:])
    return jnp.moveaxis(a, -3, -2)


def starts(segment_ids: Int[Array, "B T"]) -> Bool[Array, "B T"]:
    """Whether a sequence starts at t. Never at position 0, which continues the initial state."""
    changed = segment_ids[:, 1:] != segment_ids[:, :-1]
    return jnp.pad(changed, ((0, 0), (1, 0)))[:, : segment_ids.shape[1]]


def decays(
    log_forget: Float[Array, "... C"] | None,
    begins: Bool[Array, "... C"] | None,
    like: Float[Array, "... C E"],
) -> Decays:
    """The decay factors of a chunk, or of several along leading axes.

    Args:
      log_forget: log of the forget factors; None: nothing is forgotten.
      begins: whether a sequence starts at a position, from `starts`; None: not packed.
      like: an array of the chunk, for its dtype and shape.
    """
    C, ones, dtype = like.shape[-2], (1,) * (like.ndim - 2), like.dtype
    which, same = None, jnp.tri(C, dtype=bool).reshape(*ones, C, C)
    if begins is not None:
        which = jnp.cumsum(begins, axis=-1)
        same = same & (which[..., :, None] == which[..., None, :])
    if log_forget is None:
        log, within = jnp.zeros((*ones, C), dtype), same.astype(dtype)
    else:
        log = jnp.cumsum(log_forget, axis=-1)
        if begins is not None:
            # Subtracts the decay from before the sequence's start. The factor at its first
            # position still counts, as it does at position 0.
            before = jnp.where(begins, log - log_forget, 0)
            log = log - jnp.einsum("...ts,...s->...t", same.astype(dtype), before)
        # Masked before exp, which may overflow above the diagonal. A clamp in its place would
        # halve the gradient where nothing is forgotten.
        apart = jnp.where(same, log[..., :, None] - log[..., None, :], 0)
        within = jnp.where(same, jnp.exp(apart), 0)
    into, left = jnp.exp(log), log[..., -1:] - log
    if which is None:
        return Decays(within, into, jnp.exp(left), log, which, same)
    last = which == which[..., -1:]
    into = jnp.where(which == 0, into, 0)
    out = jnp.where(last, jnp.exp(jnp.where(last, left, 0)), 0)
    return Decays(within, into, out, log, which, same)


def decays_by_head(
    log_forget: Float[Array, "... B C H"] | None,
    begins: Bool[Array, "... B C"] | None,
    like: Float[Array, "... M C E"],
) -> Decays:
    """`decays` of every head, from arrays in the layout of `split`.

    Args:
      log_forget, begins: output of `split`, or one chunk of it.
      like: an output of `by_head`.
    """
    if log_forget is not None:
        log_forget = by_head(log_forget[..., None])[..., 0]
    if begins is not None:
        begins = jnp.repeat(begins, like.shape[-3] // begins.shape[-2], axis=-2)
    return decays(log_forget, begins, like)
