"""The mesa layer: regularised least squares on all key-value pairs so far, at every position.

Source: "Uncovering mesa-optimization algorithms in Transformers", 2309.05858, section 5 and
appendix. The authors' code swaps the names of the key and value projections, and its least-squares
baseline leaves out the newest pair; here the pair at t is included at t.

Dimension key: B batch, T positions, H heads, D key width, V value width, N chunks, C positions.
"""

import functools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ico.layers._chunks import join, split, starts
from ico.layers._gates import check_gates, logarithms
from ico.layers._mesa_chunked import mesa_chunked
from ico.layers._mesa_position import Chunk, States, factors_and_resets, updated_inverse
from ico.layers._shapes import check_decode, check_shapes, check_sides, float_of
from ico.layers._whitening import inverse
from ico.types import working_dtype

Form = Literal["chunked", "parallel", "recurrent", "dense"]
_STORED = 64  # the recurrent and dense forms store a state per 64 positions


class MesaState(NamedTuple):
    """The layer's memory of the past, of constant size.

    Fields:
      inverse: R = (decayed regulariser + sum k k^T)^-1, symmetric positive definite.
      memory: G = sum v k^T.
    """

    inverse: Float[Array, "B H D D"]
    memory: Float[Array, "B H V D"]


def mesa(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B T H D"],
    v: Float[Array, "B T H V"],
    *,
    lam: Float[Array, "H"] | Float[Array, "H D"] | Float[Array, "H D D"],
    forget: Float[Array, "B T H"] | None = None,
    log_forget: Float[Array, "B T H"] | None = None,
    initial_state: MesaState | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    form: Form = "chunked",
    chunk_size: int | None = None,
    return_state: bool = False,
) -> Float[Array, "B T H V"] | tuple[Float[Array, "B T H V"], MesaState]:
    """`o_t = Phi_t q_t`, Phi_t the least-squares map from keys to values up to and including t:

        Phi_t = argmin 1/2 sum_{s <= t} g_ts |v_s - Phi k_s|^2 + g_t0 / (2 lam) |Phi|^2
              = G_t R_t,     G_t = f_t G_{t-1} + v_t k_t^T,    R_t^-1 = f_t R_{t-1}^-1 + k_t k_t^T,

    with R_0 = lam I and g_ts the product of the forget factors from s + 1 to t. **The regulariser
    1/lam is forgotten too**; `mesa_cg` has one that is not.

    Args:
      q, k, v: queries, keys [B, T, H, D] and values [B, T, H, V]; any T, V may differ from D.
      lam: R_0, the **inverse** of the regulariser: for each head a positive number, a positive
        diagonal, or a symmetric positive definite matrix.
      forget: f in [0, 1], [B, T, H]; None forgets nothing. Where it is zero, the layer restarts
        from lam and an empty memory, and the factor counts as one.
      log_forget: log f, in place of f; see `linear_attention`.
      initial_state: replaces lam and the empty memory at position 0.
      segment_ids: [B, T], equal within each packed sequence. Wherever the id changes, the layer
        restarts from lam; the first sequence continues `initial_state`.
      form: the algorithm; the result is the same:
        "chunked": matrix products, and a recursion over T / 8 small steps;
        "parallel": matrix products only, all chunks at once; for accelerators, and exact for a
        lam of any size;
        "recurrent": one Sherman-Morrison update per position, as in decoding;
        "dense": a linear solve per position; slow, the reference.
      chunk_size: positions in a chunk, for "chunked" and "parallel"; best near D, smaller with
        strong forgetting (see below). None is 64, or 16 with gates.
      return_state: whether to return the final state as well.

    Returns:
      [B, T, H, V] in the dtype of v; with `return_state` also a `MesaState` in float32 or better,
      the precision of the computation. The backward pass stores vectors, and one state per chunk
      (per 64 positions in forms without chunks). Gradients for lam and states are symmetric.

    Precision (float32 against float64; unit-norm keys, lam near one; tested up to 2,048 positions
    and width 128): relative error below 1e-5 without forgetting and with factors of 0.99 to 0.999,
    below 1e-4 for 0.95 to 0.99; ten times that for gradients. Beyond that regime:

    - Large lam: the error is below 10 eps times the largest condition number of R so far, initially
      about lam (1e-5 up to lam = 30, 1e-3 at 1e4). With "chunked" and "recurrent" the error
      persists; with "parallel" in chunks of 8 it shrinks as R becomes better conditioned.
    - Strong forgetting: the regulariser decays, and the same bound holds. The products of "chunked"
      and "parallel" would also lose the factor by which the state decays within a chunk, so a chunk
      in which less than a fiftieth is left is computed position by position; "parallel" then
      computes all chunks one after the other. That is slower, by up to a few times.
    - If the regulariser is forgotten before D independent keys have been seen, R is numerically
      singular: outputs stay finite but are meaningless.

    Derivatives: "recurrent" and "dense" have those of both modes; "chunked" and "parallel" have no
    forward mode (`jax.jvp`, `jax.jacfwd`), but reverse mode, and forward over reverse mode
    (`jax.hessian`).

    Raises:
      ValueError: mismatched shapes, an unknown form, chunk_size < 1, a lam (if neither traced nor
        matrices) that is not positive, forget factors outside [0, 1] (if not traced) or given
        twice.
      TypeError: forward-mode differentiation of a form without.
    """
    B, T, H, D = _checked(q, k, v, lam, initial_state, segment_ids)
    check_gates(forget, log_forget, (B, T, H))
    V = v.shape[-1]
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {get_args(Form)}, not {form!r}")
    out_dtype, dtype = float_of(v), working_dtype(q, k, v)
    q, k, v = (a.astype(dtype) for a in (q, k, v))
    log = logarithms(forget, log_forget, dtype)
    chunk_size = (64 if log is None else 16) if chunk_size is None else chunk_size
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    begins = starts(segment_ids, H)
    new = _matrix(jnp.asarray(lam, dtype), D)
    new = jnp.broadcast_to(new, (B, H, D, D))
    if initial_state is None:
        first = MesaState(new, jnp.zeros((B, H, V, D), dtype))
    else:
        first = MesaState(*(a.astype(dtype) for a in initial_state))
    if form in ("chunked", "parallel"):
        C, parallel = min(chunk_size, max(T, 1)), form == "parallel"
        o, last = _chunked(q, k, v, log, begins, first, new, C, parallel)
    else:
        o, last = _stepwise(q, k, v, log, begins, first, new, form)
    o = o.astype(out_dtype)
    return (o, last) if return_state else o


def mesa_decode(
    state: MesaState,
    q: Float[Array, "B H D"],
    k: Float[Array, "B H D"],
    v: Float[Array, "B H V"],
    *,
    forget: Float[Array, "B H"] | None = None,
    log_forget: Float[Array, "B H"] | None = None,
    lam: Float[Array, "H"] | Float[Array, "H D"] | Float[Array, "H D D"] | None = None,
) -> tuple[Float[Array, "B H V"], MesaState]:
    """Output and next state for one position, at a cost independent of the sequence's length.

    Args:
      state: the state after the previous position, from `mesa(..., return_state=True)` or
        `mesa_state`.
      q, k, v, forget, log_forget: of this position.
      lam: as in `mesa`: what a factor of zero restarts from. None: factors are above zero.

    Returns:
      The output [B, H, V] and the next state, which includes the pair (k, v).

    Raises:
      ValueError: mismatched shapes, forget factors outside [0, 1] or zero without lam (if not
        traced).
    """
    check_decode(q, k, v, {"state.memory": state.memory})
    check_gates(forget, log_forget, q.shape[:2])
    if state.inverse.shape != (*q.shape, q.shape[-1]):
        raise ValueError(
            f"state.inverse must be {[*q.shape, q.shape[-1]]}, not {list(state.inverse.shape)}"
        )
    dtype = state.inverse.dtype
    out_dtype = float_of(v)
    q, k, v = (a.astype(dtype) for a in (q, k, v))
    f, zero = factors_and_resets(logarithms(forget, log_forget, dtype))
    if zero is not None and lam is not None:
        fresh = mesa_state(jnp.asarray(lam, dtype), len(q), v.shape[-1], q.shape[-1])
        state = _started(fresh, state, zero)
    elif zero is not None and not isinstance(zero, jax.core.Tracer) and np.any(zero):
        raise ValueError("a forget factor is zero: give lam, which the layer then restarts from")
    state = _updated(state, k, v, f)
    return _read(state, q).astype(out_dtype), state


def mesa_state(lam, batch_size: int, value_dim: int, dim: int | None = None) -> MesaState:
    """The state before the first position: R_0 = lam I and an empty memory.

    Args:
      lam: see `mesa`: [H], [H, D] or [H, D, D].
      batch_size, value_dim: B and V.
      dim: D; required if lam is [H].

    Raises:
      ValueError: dim missing, or different from the width of lam.
    """
    lam = jnp.asarray(lam)
    if lam.ndim == 1 and dim is None:
        raise ValueError("lam [H] does not tell the width of the keys: give dim")
    if lam.ndim > 1 and dim not in (None, lam.shape[-1]):
        raise ValueError(f"lam is for keys of width {lam.shape[-1]}, not {dim}")
    dim = dim if lam.ndim == 1 else lam.shape[-1]
    new = _matrix(lam.astype(jnp.promote_types(lam.dtype, jnp.float32)), dim)
    H = len(lam)
    return MesaState(
        jnp.broadcast_to(new, (batch_size, H, dim, dim)),
        jnp.zeros((batch_size, H, value_dim, dim), new.dtype),
    )


def _checked(q, k, v, lam, state, segment_ids):
    check_shapes(q, k, v, causal=True)
    B, T, H, D = q.shape
    if jnp.shape(lam) not in ((H,), (H, D), (H, D, D)):
        raise ValueError(f"lam must be [{H}], [{H}, {D}] or [{H}, {D}, {D}], not {jnp.shape(lam)}")
    known = not isinstance(lam, jax.core.Tracer)
    if known and jnp.ndim(lam) < 3 and not np.all(np.asarray(lam, np.float64) > 0):
        raise ValueError("lam must be positive")
    check_sides(q, v, segment_ids, {"initial_state.memory": state and state.memory})
    if state is not None and state.inverse.shape != (B, H, D, D):
        raise ValueError(
            f"initial_state.inverse must be {[B, H, D, D]}, not {list(state.inverse.shape)}"
        )
    return B, T, H, D


def _matrix(lam, D):
    """R_0 as matrices [H, D, D]."""
    if lam.ndim == 3:
        return lam
    diagonal = lam[:, None] if lam.ndim == 1 else lam
    return diagonal[..., None] * jnp.eye(D, dtype=lam.dtype)[None]


def _chunked(q, k, v, log, begins, first: MesaState, new, C, parallel):
    B, T, H, D = q.shape
    q_, k_, v_ = (split(a, C) for a in (q, k, v))
    log_, begins_ = (None if a is None else split(a, C) for a in (log, begins))
    r_first, g_first, r_new = (a.reshape(B * H, *a.shape[2:]) for a in (*first, new))
    given = Chunk(q_, k_, v_, log_, begins_), States(r_first, g_first), r_new, parallel
    try:
        o, last = mesa_chunked(*given)
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            "mesa has no forward-mode derivative in the forms 'chunked' and 'parallel': give "
            "form='recurrent', or take the derivative in reverse mode"
        ) from error
    return join(o, T), MesaState(last.r.reshape(B, H, D, D), last.g.reshape(first.memory.shape))


def _stepwise(q, k, v, log, begins, first: MesaState, new, form):
    """A scan over blocks of positions; the backward pass recomputes a block from its state."""
    B, T, H, _ = q.shape
    f, zero = factors_and_resets(log)
    if zero is not None:
        begins = zero if begins is None else zero | begins
    steps = {"q": q, "k": k, "v": v, "f": f, "begins": begins}
    steps = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), steps)
    one = _step_by_solving if form == "dense" else _step
    if form == "dense":
        first, new = first._replace(inverse=inverse(first.inverse)), inverse(new)
    fresh = MesaState(new, jnp.zeros_like(first.memory))

    @jax.checkpoint
    def block(state, steps):
        return jax.lax.scan(functools.partial(one, fresh), state, steps)

    C = min(_STORED, max(T, 1))
    whole = T // C * C
    cut = jax.tree.map(lambda a: a[:whole].reshape(T // C, C, *a.shape[1:]), steps)
    state, o = jax.lax.scan(block, first, cut)
    o = o.reshape(whole, *o.shape[2:])
    if whole < T:
        state, rest = block(state, jax.tree.map(lambda a: a[whole:], steps))
        o = jnp.concatenate([o, rest])
    if form == "dense":
        state = state._replace(inverse=inverse(state.inverse))
    return jnp.moveaxis(o, 0, 1), state


def _started(fresh, state, begins_BH):
    if begins_BH is None:
        return state
    return jax.tree.map(
        lambda new, old: jnp.where(begins_BH[..., None, None], new, old), fresh, state
    )


def _step(fresh, state, at):
    state = _updated(_started(fresh, state, at["begins"]), at["k"], at["v"], at["f"])
    return state, _read(state, at["q"])


def _step_by_solving(fresh, state, at):
    """The dense form: here the state's field `inverse` holds the matrix itself."""
    h, g = _decayed(_started(fresh, state, at["begins"]), at["f"])
    k = at["k"]
    h = h + k[..., :, None] * k[..., None, :]
    g = g + at["v"][..., :, None] * k[..., None, :]
    x = jnp.linalg.solve(h, at["q"][..., None])[..., 0]
    return MesaState(h, g), jnp.einsum("bhvd,bhd->bhv", g, x)


def _decayed(tree, f):
    return tree if f is None else jax.tree.map(lambda a: f[..., None, None] * a, tree)


def _updated(state: MesaState, k, v, f) -> MesaState:
    """The state with one more pair."""
    write = v[..., :, None] * k[..., None, :]
    return MesaState(updated_inverse(state.inverse, k, f), _decayed(state.memory, f) + write)


def _read(state: MesaState, q):
    return jnp.einsum("bhvd,bhd->bhv", state.memory, jnp.einsum("bhde,bhe->bhd", state.inverse, q))
