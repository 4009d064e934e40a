"""What chunked layers share: positions in chunks, decays inside a chunk and across.

A sequence is cut into N chunks of C positions. A state that decays, S_t = f_t S_{t-1} + w_t, then
has to be known at the chunks' starts alone; inside a chunk it is masked products. Packed sequences
start afresh at a boundary, which may lie anywhere.

Dimension key: B batch, T positions, H heads, M = B H, N chunks, C positions in a chunk, E width,
... any leading axes.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Decays(NamedTuple):
    """How states and writes reach the positions of a chunk; axes may be 1 where nothing differs.

    Fields:
      within: what is left at position t of a write at s <= t of its sequence; else 0.
      into: what is left at t of the state at the chunk's start; 0 in later sequences.
      out: what is left at the chunk's end of a write at s; 0 in sequences that ended.
      log: log of what is left at t of a state at the chunk's start, or its sequence's.
      which: how many sequences have started in the chunk, up to t. None: none has, anywhere.
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
        """Whether t belongs to the sequence that the chunk starts in. None: all do."""
        return None if self.which is None else self.which == 0


def split(a: Array, chunk_size: int) -> Array:
    """[B, T, ...] to [N, B, C, ...]; zeros fill the last chunk up."""
    B, T, *rest = a.shape
    N = max(1, -(-T // chunk_size))
    a = jnp.pad(a, ((0, 0), (0, N * chunk_size - T), *[(0, 0)] * (a.ndim - 2)))
    return jnp.moveaxis(a.reshape(B, N, chunk_size, *rest), 1, 0)


def join(a: Array, T: int) -> Array:
    """The inverse of `split`: [N, B, C, ...] to [B, T, ...]."""
    N, B, C, *rest = a.shape
    return jnp.moveaxis(a, 0, 1).reshape(B, N * C, *rest)[:, :T]


def by_head(a: Float[Array, "... B C H E"]) -> Float[Array, "... M C E"]:
    """Heads before positions, as products want them. A chunk at a time this costs little."""
    a = jnp.moveaxis(a, -2, -3)
    return a.reshape(*a.shape[:-4], -1, *a.shape[-2:])


def by_position(a: Float[Array, "... M C E"], H: int) -> Float[Array, "... B C H E"]:
    """The inverse of `by_head`."""
    a = a.reshape(*a.shape[:-3], -1, H, *a.shape[-2:])
    return jnp.moveaxis(a, -3, -2)


def starts(segment_ids: Int[Array, "B T"]) -> Bool[Array, "B T"]:
    """Where a sequence starts; never at position 0, which goes on from the initial state."""
    changed = segment_ids[:, 1:] != segment_ids[:, :-1]
    return jnp.pad(changed, ((0, 0), (1, 0)))[:, : segment_ids.shape[1]]


def decays(
    log_forget: Float[Array, "... C"] | None,
    begins: Bool[Array, "... C"] | None,
    like: Float[Array, "... C E"],
) -> Decays:
    """From the logarithm of the forget factors (None: nothing is forgotten) and the starts.

    Args:
      log_forget, begins: of the positions.
      like: an array of the chunk, for its type and shape.
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
            # Less what was forgotten before the own sequence's start: the factor of the first
            # position counts, as at position 0.
            before = jnp.where(begins, log - log_forget, 0)
            log = log - jnp.einsum("...ts,...s->...t", same.astype(dtype), before)
        # Masked before exp: above the diagonal it may overflow, and a clamp halves gradients at 0.
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
    """`decays` of every head, from arrays that have heads behind positions, or none.

    Args:
      log_forget, begins: as `split` gives them, or a chunk of it.
      like: an array that went through `by_head`.
    """
    if log_forget is not None:
        log_forget = by_head(log_forget[..., None])[..., 0]
    if begins is not None:
        begins = jnp.repeat(begins, like.shape[-3] // begins.shape[-2], axis=-2)
    return decays(log_forget, begins, like)
