"""MesaNet's layer (2506.05233): least squares with a constant regulariser, by conjugate gradient.

`H_t + reg` is never formed: products with it, at all positions at once, come from the state of each
chunk and masked products inside the chunk. The solution is differentiated implicitly, by a second
solve.

Dimension key: B batch, T positions, H heads, D key width, V value width, N chunks, C positions in
a chunk, M batch x heads.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ico.layers._chunks import by_head, by_position, decays_by_head, join, split, starts
from ico.layers._gates import check_gates, logarithms
from ico.layers._linear_attention import linear_attention
from ico.layers._shapes import check_shapes, check_sides, float_of
from ico.types import working_dtype


class MesaCgState(NamedTuple):
    """The layer's memory of the past, of constant size.

    Fields:
      gram: H = sum beta k k^T, decayed.
      memory: G = sum beta v k^T, decayed.
    """

    gram: Float[Array, "B H D D"]
    memory: Float[Array, "B H V D"]


def mesa_cg(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B T H D"],
    v: Float[Array, "B T H V"],
    *,
    reg: Float[Array, "H D"],
    forget: Float[Array, "B T H"] | None = None,
    log_forget: Float[Array, "B T H"] | None = None,
    beta: Float[Array, "B T H"] | None = None,
    initial_state: MesaCgState | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    num_steps: int = 30,
    tolerance: float | None = None,
    chunk_size: int = 64,
    return_state: bool = False,
) -> Float[Array, "B T H V"] | tuple[Float[Array, "B T H V"], MesaCgState]:
    """`o_t = G_t (H_t + reg)^-1 q_t`, whose regulariser is not forgotten:

        G_t = f_t G_{t-1} + beta_t v_t k_t^T,      H_t = f_t H_{t-1} + beta_t k_t k_t^T.

    Without forgetting it equals `mesa` at lam = 1 / reg, which is exact and faster; with forgetting
    the two are different functions. The gradient is that of the exact solution, evaluated at the
    solution found, so it is correct only if both solves have converged.

    Args:
      q, k, v: queries, keys [B, T, H, D] and values [B, T, H, V]; any T, V may differ from D.
      reg: the regulariser's diagonal, positive.
      forget: f in [0, 1], [B, T, H]; None forgets nothing. Zero resets H and G. `cap_forget` is the
        paper's cap.
      log_forget: log f, in place of f; see `linear_attention`.
      beta: weights of the pairs, at least 0, [B, T, H]; None is one.
      initial_state: H and G before position 0; None is zero.
      segment_ids: [B, T], equal within each packed sequence. H and G are reset to zero wherever the
        id changes.
      num_steps: the largest number of conjugate gradient steps. In exact arithmetic D suffice; the
        paper takes 30.
      tolerance: a position stops at `|r| <= tolerance |q|`, and the loop ends when all have; None
        iterates down to rounding errors.
      chunk_size: positions in a chunk.
      return_state: whether to return the final state as well.

    Returns:
      [B, T, H, V] in the dtype of v; with `return_state` also a `MesaCgState` in float32 or better,
      the precision of the computation. Memory of both passes: a few vectors and `chunk_size`
      numbers per position, and one state per chunk.

    Raises:
      ValueError: mismatched shapes, num_steps or chunk_size < 1, forget factors outside [0, 1] (if
        not traced) or given twice.
    """
    check_shapes(q, k, v, causal=True)
    check_gates(forget, log_forget, q.shape[:3])
    B, T, H, D = q.shape
    V = v.shape[-1]
    if reg.shape != (H, D):
        raise ValueError(f"reg must be {[H, D]}, not {list(reg.shape)}")
    if beta is not None and beta.shape != (B, T, H):
        raise ValueError(f"beta must be {[B, T, H]}, not {list(beta.shape)}")
    memory = initial_state and initial_state.memory
    check_sides(q, v, segment_ids, {"initial_state.memory": memory})
    if initial_state is not None and initial_state.gram.shape != (B, H, D, D):
        raise ValueError(
            f"initial_state.gram must be {[B, H, D, D]}, not {list(initial_state.gram.shape)}"
        )
    if num_steps < 1 or chunk_size < 1:
        raise ValueError(f"num_steps and chunk_size must be >= 1, not {num_steps}, {chunk_size}")
    out_dtype = float_of(v)
    dtype = working_dtype(q, k, v)
    q, k, v, reg = (a.astype(dtype) for a in (q, k, v, reg))
    log = logarithms(forget, log_forget, dtype)
    beta = jnp.ones((B, T, H), dtype) if beta is None else beta.astype(dtype)
    first = MesaCgState(jnp.zeros((B, H, D, D), dtype), jnp.zeros((B, H, V, D), dtype))
    if initial_state is not None:
        first = MesaCgState(*(a.astype(dtype) for a in initial_state))
    C = min(chunk_size, max(T, 1))
    pairs = _Pairs(k, beta, log, first.gram)
    x = _solve(q, pairs, reg, segment_ids, num_steps, tolerance, C)
    sides = {"log_forget": log, "segment_ids": segment_ids, "chunk_size": C}
    weighted = beta[..., None] * v
    o, memory = linear_attention(
        x, k, weighted, initial_state=first.memory, return_state=True, **sides
    )
    o = o.astype(out_dtype)
    if not return_state:
        return o
    _, gram = _multiply_by_gram(x, pairs, segment_ids, C)
    return o, MesaCgState(gram, memory)


def mesa_cg_decode(
    state: MesaCgState,
    q: Float[Array, "B H D"],
    k: Float[Array, "B H D"],
    v: Float[Array, "B H V"],
    *,
    reg: Float[Array, "H D"],
    forget: Float[Array, "B H"] | None = None,
    log_forget: Float[Array, "B H"] | None = None,
    beta: Float[Array, "B H"] | None = None,
    num_steps: int = 30,
    tolerance: float | None = None,
) -> tuple[Float[Array, "B H V"], MesaCgState]:
    """Output and next state for one position, at a cost independent of the sequence's length.

    Args:
      state: the state after the previous position, from `mesa_cg(..., return_state=True)`.
      q, k, v, forget, log_forget, beta: of this position.
      reg, num_steps, tolerance: see `mesa_cg`.

    Raises:
      ValueError: mismatched shapes.
    """
    position = {"q": q, "k": k, "v": v, "forget": forget, "log_forget": log_forget, "beta": beta}
    sequence = jax.tree.map(lambda a: a[:, None], position)
    options = {"num_steps": num_steps, "tolerance": tolerance, "return_state": True}
    o, state = mesa_cg(**sequence, reg=reg, initial_state=state, **options)
    return o[:, 0], state


def cap_forget(
    forget: Float[Array, "B T H"], beta: Float[Array, "B T H"], cap: float = 0.9975
) -> Float[Array, "B T H"]:
    """MesaNet's cap on the forget factor, `f (1 - (1 - cap) beta^2)` for beta in [0, 1].

    A strong write always forgets a little, so repeated tokens cannot make H grow without bound.
    """
    return forget * (1 - (1 - cap) * beta**2)


class _Pairs(NamedTuple):
    """All that H depends on: keys, their weights, log gates, and H before position 0."""

    k: Float[Array, "B T H D"]
    beta: Float[Array, "B T H"]
    log_forget: Float[Array, "B T H"] | None
    gram: Float[Array, "B H D D"]


def _multiply_by_gram(x, pairs: _Pairs, segment_ids, C):
    """H_t x_t at all positions, and the final H: linear attention whose values are the keys."""
    return linear_attention(
        x,
        pairs.k,
        pairs.beta[..., None] * pairs.k,
        log_forget=pairs.log_forget,
        initial_state=pairs.gram,
        segment_ids=segment_ids,
        chunk_size=C,
        return_state=True,
    )


def _solve(q, pairs: _Pairs, reg, segment_ids, num_steps, tolerance, C):
    """x_t = (H_t + reg)^-1 q_t at all positions, differentiated implicitly.

    With e = (H + reg)^-1 dx backward: dq = e, and the rest is the gradient of -<e, (H + reg) x>.
    """

    @jax.checkpoint
    def multiply(x):
        return _multiply_by_gram(x, pairs, segment_ids, C)[0] + reg[None, None] * x

    def solve(_, q):
        return _conjugate_gradient(q, pairs, reg, segment_ids, num_steps, tolerance, C)

    return jax.lax.custom_linear_solve(multiply, q, solve, symmetric=True)


def _conjugate_gradient(q, pairs: _Pairs, reg, segment_ids, num_steps, tolerance, C):
    B, T, H, D = q.shape
    begins = starts(segment_ids, H)
    q, k, beta, log, begins = jax.tree.map(
        lambda a: split(a, C), (q, pairs.k, pairs.beta, pairs.log_forget, begins)
    )
    q, k, beta = by_head(q), by_head(k), by_head(beta[..., None])
    dec = decays_by_head(log, begins, k)
    weighted = beta * k
    write = jnp.swapaxes(dec.out[..., None] * weighted, -1, -2) @ k
    left = jnp.broadcast_to(dec.into[..., -1:, None], (*write.shape[:2], 1, 1))

    def across(gram_MDD, at):
        left, write = at
        return left * gram_MDD + write, gram_MDD

    _, gram = jax.lax.scan(across, pairs.gram.reshape(B * H, D, D), (left, write))
    reg_MCD = jnp.tile(reg, (B, 1))[None, :, None]
    into = dec.into[..., None]

    def multiply(p):
        inside = (dec.within * (p @ jnp.swapaxes(k, -1, -2))) @ weighted
        return into * (p @ gram) + inside + reg_MCD * p

    # Queries are scaled to size one: the squares of tiny ones (cotangents may be tiny) underflow.
    size = jnp.max(jnp.abs(q), -1, keepdims=True)
    size = jnp.where(size > 0, size, 1)
    q = q / size
    # Starts from the solution for the diagonal, as in the paper.
    diagonal = into * jnp.diagonal(gram, axis1=-2, axis2=-1)[..., None, :]
    x = q / (diagonal + dec.within @ (weighted * k) + reg_MCD)
    r = q - multiply(x)
    square = jnp.sum(r * r, -1, keepdims=True)
    # An updated residual below rounding errors carries no information.
    least = max(tolerance or 0.0, float(jnp.finfo(q.dtype).eps))
    wanted = least**2 * jnp.sum(q * q, -1, keepdims=True)

    def go_on(state):
        step, _, _, _, square = state
        return (step < num_steps) & jnp.any(square > wanted)

    def improve(state):
        step, x, r, p, square = state
        hp = multiply(p)
        # Converged positions are left alone: their quotients would be of rounding errors.
        on = square > wanted
        length = jnp.where(on, square / jnp.where(on, jnp.sum(p * hp, -1, keepdims=True), 1), 0)
        x, r = x + length * p, r - length * hp
        new = jnp.sum(r * r, -1, keepdims=True)
        p = r + jnp.where(on, new / jnp.where(on, square, 1), 0) * p
        return step + 1, x, r, p, new

    _, x, *_ = jax.lax.while_loop(go_on, improve, (0, x, r, r, square))
    return join(by_position(x * size, H), T)
