"""Training inside the span of given parameter vectors: trainable weight averaging (TWA).

Source: Li et al. 2022, "Trainable Weight Averaging" (2205.13104), and its journal version; the
forms are those of its code (branches main and journal). The paper's numbers were not consulted.

Dimension key: n checkpoints, D parameters of one model, flattened.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, UInt8

from ico.optim._with_loss import Optimizer, with_loss

PyTree = Any
_BLOCK = 2**15  # columns of quantised rows that are numbers at a time


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuantisedRows:
    """Rows in 8 or 4 bits an entry: `scale_n (code - middle)`, read a block of columns at a time.

    Fields:
      codes: [blocks, n, bytes]: columns in blocks of 2^15, two entries a byte with 4 bits.
      scale: [n].
      bits: 8 or 4.
    """

    codes: UInt8[Array, "blocks n bytes"]
    scale: Float[Array, "n"]
    bits: int = dataclasses.field(metadata={"static": True})

    def block(self, codes: UInt8[Array, "n bytes"]) -> Float[Array, "n columns"]:
        """One block as numbers."""
        if self.bits == 4:
            codes = jnp.stack([codes // 16, codes % 16], -1).reshape(len(codes), -1)
        return self.scale[:, None] * (codes.astype(self.scale.dtype) - _middle(self.bits))


class Span(NamedTuple):
    """`{center + sum_i x_i row_i}`: where the parameters may move.

    Fields:
      rows: [n, D] float32, or quantised. Memory: 4 n D bytes, n D with 8 bits, n D / 2 with 4.
        Sharded over a mesh by rows, the coefficients are sharded alike and a step costs one
        all-reduce of D numbers.
      center: [D].
    """

    rows: Float[Array, "n D"] | QuantisedRows
    center: Float[Array, "D"]

    def point(self, x_n: Float[Array, "n"]) -> Float[Array, "D"]:
        """The parameters, flat, with these coefficients."""
        return self.center + self.combination(x_n)

    def combination(self, x_n: Float[Array, "n"]) -> Float[Array, "D"]:
        """`x rows`: a step in the parameters, of a step in the coefficients."""
        rows = self.rows
        if not isinstance(rows, QuantisedRows):
            return x_n @ rows
        parts = jax.lax.map(lambda codes: x_n @ rows.block(codes), rows.codes)
        return parts.reshape(-1)[: self.center.size]

    def coefficients(self, vector_D: Float[Array, "D"]) -> Float[Array, "n"]:
        """`rows vector`: the gradient by the coefficients, of a gradient by the parameters."""
        rows = self.rows
        if not isinstance(rows, QuantisedRows):
            return rows @ vector_D
        blocks = len(rows.codes)
        width = rows.codes.shape[2] * (8 // rows.bits)
        parts = jnp.pad(vector_D, (0, blocks * width - vector_D.size)).reshape(blocks, width)

        def add(total_n, part):
            codes, vector = part
            return total_n + rows.block(codes) @ vector, None

        return jax.lax.scan(add, jnp.zeros_like(rows.scale), (rows.codes, parts))[0]


def orthonormal_span(checkpoints: Float[Array, "n D"]) -> Span:
    """Conference form: orthonormal rows that span the checkpoints, and their mean as the center.

    SGD on its coefficients is SGD with the gradient projected on the span, `P' P g`. The span is
    that of the checkpoints themselves, so their weights need not sum to one. Directions below
    float32's resolution of the largest are left out (their rows are zero), so equal checkpoints
    are no fault.
    """
    q_Dn, r_nn = jnp.linalg.qr(checkpoints.T)
    u_nn, s_n, _ = jnp.linalg.svd(r_nn)
    eps = jnp.finfo(checkpoints.dtype).eps * max(checkpoints.shape)
    there = (s_n > eps * s_n[0]).astype(checkpoints.dtype)
    return Span((q_Dn @ u_nn).T * there[:, None], checkpoints.mean(0))


def centred_span(checkpoints: Float[Array, "n D"], bits: int | None = None) -> Span:
    """Journal form: rows `(w_i - mean) / |w_i - mean|`, quantised if asked, not orthogonal.

    Args:
      checkpoints: one a row.
      bits: 8 or 4 an entry, rounded to the nearest of evenly spaced levels; None: float32. The
        paper's code goes down to 1 (UNVERIFIED how it rounds).

    Raises:
      ValueError: other bits.
    """
    center = checkpoints.mean(0)
    rows = checkpoints - center[None]
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / jnp.where(length == 0, 1, length)
    return Span(rows if bits is None else quantise_rows(rows, bits), center)


def quantise_rows(rows: Float[Array, "n D"], bits: int) -> QuantisedRows:
    """Each row's largest entry by magnitude is a level, and so is zero. ValueError: not 8, 4 bits.

    The error of an entry is at most half a level, `max |row| / (2 ** bits - 2)`.
    """
    if bits not in (4, 8):
        raise ValueError(f"bits must be 8 or 4, not {bits}")
    n, D = rows.shape
    middle = _middle(bits)
    scale = jnp.max(jnp.abs(rows), axis=1) / middle
    steps = rows / jnp.where(scale == 0, 1, scale)[:, None]
    codes = (jnp.round(steps) + middle).astype(jnp.uint8)
    width = min(_BLOCK, D + D % 2)
    codes = jnp.pad(codes, ((0, 0), (0, -D % width)), constant_values=middle)
    codes = jnp.moveaxis(codes.reshape(n, -1, width), 1, 0)
    if bits == 4:
        codes = codes[..., ::2] * 16 + codes[..., 1::2]
    return QuantisedRows(codes, scale, bits)


def _middle(bits: int) -> int:
    return 2 ** (bits - 1) - 1


class SubspaceState(NamedTuple):
    """State of `subspace`.

    Fields:
      x: the coefficients [n].
      inner: state of the inner optimizer, which sees the coefficients as its parameters.
    """

    x: Float[Array, "n"]
    inner: optax.OptState


def subspace(inner: Optimizer, span: Span) -> optax.GradientTransformationExtraArgs:
    """Trainable weight averaging: an optimizer that moves the coefficients of a span alone.

        g_x = rows g,   x <- x + inner(g_x),   update = (x_new - x) rows

    - Conference: `subspace(optax.sgd(rate, momentum=0.9), orthonormal_span(checkpoints))` from the
      mean of head checkpoints, or from the last tail checkpoint.
    - Journal (TWA-v): `subspace(optax.adamw(schedule), centred_span(checkpoints, bits=8))` from the
      mean, with batches of **held-out** data.

    The parameters to start from are the caller's (`unravel(span.center)` is the mean); they stay in
    the span through them. Weight decay of the inner optimizer shrinks the coefficients, that is
    towards the start. A batch-normalised model needs its statistics anew before evaluation.

    Memory: the span's rows (see `Span`) beside two vectors of D and the inner state over n.

    Raises:
      ValueError: (in `init`) parameters of another size than the span's.

    Example:
      >>> import ico, jax.numpy as jnp, optax
      >>> span = ico.optim.orthonormal_span(jnp.array([[1.0, 0, 0], [0, 1.0, 0]]))
      >>> optimizer = ico.optim.subspace(optax.sgd(1.0), span)
      >>> updates, _ = optimizer.update(jnp.ones(3), optimizer.init(jnp.zeros(3)), None)
      >>> print(jnp.abs(updates).round(3))
      [1. 1. 0.]
    """
    inner = with_loss(inner)
    rows = span.rows.scale if isinstance(span.rows, QuantisedRows) else span.rows

    def init(params):
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        if size != span.center.size:
            raise ValueError(f"the span is of {span.center.size} parameters, not of {size}")
        x = jnp.zeros(len(rows), rows.dtype)
        return SubspaceState(x, inner.init(x))

    def update(updates, state, params=None, **extra):
        del params
        flat, unravel = ravel_pytree(updates)
        gradient = span.coefficients(flat.astype(span.center.dtype))
        found: Any = inner.update(gradient, state.inner, state.x, **extra)
        moved, inner_state = found
        step = span.combination(moved).astype(flat.dtype)
        return unravel(step), SubspaceState(state.x + moved, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
