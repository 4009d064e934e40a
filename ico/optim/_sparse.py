"""Sparse updates: keep or drop the largest part of what training changed.

"Multi-step sparse updates" (Sun et al. 2024, arXiv 2410.21750) and "ignore-topk" (Sun et al. 2025,
arXiv 2504.09522, App. A.6, Eq. 3): over a window of tau steps, with Delta = w(t + tau) - w(t),

    w <- w(t) + Delta * m,    m = 0 on the top k of |Delta| (drop_top), 1 elsewhere.

UNVERIFIED: whether the 2024 paper keeps or drops the top, its k and tau, and whether "largest"
means the magnitude (taken here) or the signed value. So all are arguments. Nothing is rescaled.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key

Mode = Literal["keep_top", "drop_top", "slice", "random"]
Scope = Literal["tensor", "global"]
PyTree = Any


def sparsify(
    delta: PyTree,
    k: float,
    *,
    mode: Mode = "drop_top",
    scope: Scope = "tensor",
    stacked: tuple[str, ...] = (),
    end: float = 1.0,
    key: Key[Array, ""] | None = None,
) -> PyTree:
    """A difference of parameters with an exact share of entries set to zero, by magnitude.

    Args:
      delta: tree of floating arrays of any shapes.
      k: a share in [0, 1] of the entries: the largest are kept (keep_top) or dropped (drop_top),
        or entries drawn at random are dropped (random); with "slice", where the slice starts.
      mode: "slice" drops the entries whose rank by magnitude lies in [k, end), largest first.
      scope: ranks within each tensor, or within all of them together.
      stacked: keys of subtrees whose arrays hold a tensor for every entry of their first axis, as
        `ico.lm.STACKED` for a decoder's layers; else every array is one tensor.
      end: of the slice, a share.
      key: for "random".

    Returns:
      The tree with round(k * size) entries kept or dropped; ties are broken by place.

    Raises:
      ValueError: a share out of range, an unknown mode or scope, or "random" without a key.
    """
    last = end if mode == "slice" else k
    if not 0 <= k <= 1 or not k <= last <= 1:
        raise ValueError(f"shares must satisfy 0 <= k <= end <= 1, not k={k}, end={end}")
    if mode not in ("keep_top", "drop_top", "slice", "random"):
        raise ValueError(f"unknown mode {mode!r}")
    if scope not in ("tensor", "global"):
        raise ValueError(f"unknown scope {scope!r}")
    paths, treedef = jax.tree.flatten_with_path(delta)
    leaves = [leaf for _, leaf in paths]
    many = [bool(path) and getattr(path[0], "key", None) in stacked for path, _ in paths]
    if mode == "random":
        if key is None:
            raise ValueError("mode 'random' needs a key")
        keys = jax.random.split(key, len(leaves))
        ranked = [
            jax.random.uniform(k, jnp.shape(a), jnp.float32)
            for k, a in zip(keys, leaves, strict=True)
        ]
    else:
        # One type, so that all can be ranked together; float64 is not rounded.
        kind = jnp.result_type(jnp.float32, *leaves)
        ranked = [jnp.abs(a).astype(kind) for a in leaves]
    top = _top_share(ranked, many, scope, k)
    if mode == "keep_top":
        masks = top
    elif mode == "slice":
        upto = _top_share(ranked, many, scope, end)
        masks = [~(b & ~a) for a, b in zip(top, upto, strict=True)]
    else:
        masks = [~mask for mask in top]
    return jax.tree.unflatten(
        treedef, [jnp.where(mask, a, 0) for mask, a in zip(masks, leaves, strict=True)]
    )


def _top_share(arrays: list[Array], many: list[bool], scope: Scope, share: float) -> list[Array]:
    """Masks of the largest share of all entries, or of those of every tensor."""
    if scope == "global":
        return top_mask(arrays, round(share * sum(a.size for a in arrays)))

    def mask(array, stacked):
        if stacked and array.ndim and len(array):
            return _each(array, round(share * array[0].size))
        return top_mask([array], round(share * array.size))[0]

    return [mask(array, stacked) for array, stacked in zip(arrays, many, strict=True)]


def _each(array: Array, count: int) -> Array:
    """Masks of the `count` largest entries of every array[i]."""
    if isinstance(array, jax.core.Tracer) or not _on_cpu([array]):
        return jax.lax.map(lambda one: top_mask([one], count)[0], array)
    return jnp.stack([top_mask([one], count)[0] for one in array])


def top_mask(magnitudes: list[Array], count: int) -> list[Array]:
    """Masks of the `count` largest of all entries of several non-negative float arrays.

    All have the same type, float32 or float64. The order of non-negative floats is that of their
    bits, so the threshold is searched among 31-bit (63-bit) integers, counting what lies above:
    some fifteen passes, no sort and no copy, however large the model. Outside jit, on a CPU,
    NumPy's partial sort finds it twenty times faster (measured: 0.13 s against 2.1 s for 27 million
    entries). Ties go to the first places.
    """
    if count == 0:
        return [jnp.zeros(a.shape, bool) for a in magnitudes]
    kind = jnp.int64 if magnitudes[0].dtype == jnp.float64 else jnp.int32
    bits = [jnp.atleast_1d(jax.lax.bitcast_convert_type(a, kind)) for a in magnitudes]
    if not any(isinstance(b, jax.core.Tracer) for b in bits) and _on_cpu(bits):
        threshold, enough = _partition(bits, count)
        masks = _masks(bits, kind(threshold), jnp.uint32(count), jnp.uint32(enough))
    else:
        masks = _masks(bits, *_search_bits(bits, count))
    return [mask if a.ndim else mask[0] for mask, a in zip(masks, magnitudes, strict=True)]


def _on_cpu(arrays: list[Array]) -> bool:
    return all(device.platform == "cpu" for a in arrays for device in a.devices())


def _partition(bits: list[Array], count: int) -> tuple[int, int]:
    """The count-th largest entry, and how many are at least as large; on the host."""
    flat = np.concatenate([np.asarray(b).reshape(-1) for b in bits])
    threshold = np.partition(flat, len(flat) - count)[len(flat) - count]
    return int(threshold), int(np.count_nonzero(flat >= threshold))


def _search_bits(bits: list[Array], count: int):
    def above(threshold):
        # Rows first: a sum over all axes at once runs on one core.
        counts = [
            jnp.sum(b >= threshold, axis=-1, dtype=jnp.uint32).sum(dtype=jnp.uint32) for b in bits
        ]
        return jnp.asarray(counts).sum(dtype=jnp.uint32)

    threshold, enough = _search(above, _bracket(bits, count), count)
    return threshold, jnp.uint32(count), enough


@jax.jit
def _masks(bits, threshold, count, enough) -> list[Array]:
    """Entries above the threshold, and of those equal to it the first, `count` in all.

    `enough` entries are at least as large as the threshold.
    """

    def first_ones():
        # A running sum over a large array is many times dearer than all the counting.
        above = [
            jnp.sum(b > threshold, axis=-1, dtype=jnp.uint32).sum(dtype=jnp.uint32) for b in bits
        ]
        masks, open_places = (
            [],
            (count - jnp.asarray(above).sum(dtype=jnp.uint32)).astype(jnp.int32),
        )
        for b in bits:
            tied = (b == threshold).reshape(-1)
            place = jnp.cumsum(tied.astype(jnp.int32), dtype=jnp.int32)
            taken = (tied & (place <= open_places)).reshape(b.shape)
            masks.append((b > threshold) | taken)
            open_places = open_places - place[-1] if tied.size else open_places
        return masks

    exact = enough == count
    return jax.lax.cond(exact, lambda: [b >= threshold for b in bits], first_ones)


def _bracket(bits: list[Array], count: int) -> tuple[Array, Array]:
    """Bounds between which the threshold probably lies, from some thousand entries."""
    size = sum(b.size for b in bits)
    sample = jnp.concatenate([b.reshape(-1)[:: max(1, size // 4096)] for b in bits])
    ordered = jnp.sort(sample)[::-1]
    rank, margin = count / size * len(ordered), 2 * len(ordered) ** 0.5
    low = ordered[min(len(ordered) - 1, int(rank + margin))]
    high = ordered[max(0, int(rank - margin))]
    return low, high


def _search(above, bracket, count: int) -> tuple[Array, Array]:
    """The largest threshold with at least `count` entries at or above it, and their number.

    Or any with exactly `count`. Alternates secant steps on the counts with bisection.
    """
    low, high = bracket
    first, last = jnp.zeros_like(low), jnp.full_like(low, jnp.iinfo(low.dtype).max)
    num_low, num_high = above(low), above(high)
    # Invariant: at least `count` entries are >= low, fewer are >= high.
    low, num_low = jax.lax.cond(
        num_low >= count, lambda: (low, num_low), lambda: (first, above(first))
    )
    high, num_high = jax.lax.cond(
        num_high < count, lambda: (high, num_high), lambda: (last, jnp.uint32(0))
    )

    def going(state):
        low, num_low, high, _, _ = state
        return (num_low != count) & (high - low > 1)

    def narrow(state):
        low, num_low, high, num_high, turn = state
        # Of 63 bits float64, which there is where they are.
        kind = jnp.float64 if low.dtype == jnp.int64 else jnp.float32
        share = (num_low - count).astype(kind) / (num_low - num_high).astype(kind)
        share = jnp.where(turn % 3 == 2, 0.5, share)
        guess = low + ((high - low).astype(share.dtype) * share).astype(low.dtype)
        guess = jnp.clip(guess, low + 1, high - 1)
        found = above(guess)
        enough = found >= count
        return (
            jnp.where(enough, guess, low),
            jnp.where(enough, found, num_low),
            jnp.where(enough, high, guess),
            jnp.where(enough, num_high, found),
            turn + 1,
        )

    start = low, num_low, high, num_high, jnp.int32(0)
    low, num_low, *_ = jax.lax.while_loop(going, narrow, start)
    return low, num_low


class SparseState(NamedTuple):
    """State of `sparse_updates`: steps done, parameters at the window's start, and a key.

    Where every step is a window there is no start (None).
    """

    count: Int[Array, ""]
    start: PyTree
    key: Array


def sparse_updates(
    k: float,
    *,
    window: int = 1,
    mode: Mode = "drop_top",
    scope: Scope = "tensor",
    stacked: tuple[str, ...] = (),
    end: float = 1.0,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """At the end of each window of steps, sparsifies what the window changed.

    With `window=1` that is every update, ranked as it is.

    Chain it last, after the optimizer, whose state it does not touch: moments are those of the
    whole updates (UNVERIFIED in the papers).

    Args:
      k, mode, scope, stacked, end: of `sparsify`, on the change over the window. Steps after the
        last whole window are not sparsified.
      window: its length in steps, tau.
      seed: for mode "random".

    Returns:
      A transform whose `update` needs `params`.

    Raises:
      ValueError: window < 1, or what `sparsify` refuses.

    >>> import jax.numpy as jnp, optax
    >>> optimizer = optax.chain(optax.sgd(1.0), sparse_updates(0.5, mode="keep_top"))
    >>> params = jnp.zeros(2)
    >>> updates, _ = optimizer.update(jnp.array([1.0, 3.0]), optimizer.init(params), params)
    >>> updates.tolist()
    [0.0, -3.0]
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 step, not {window}")

    def init(params):
        # A copy: the parameters' buffers may be donated.
        start = None if window == 1 else jax.tree.map(jnp.copy, params)
        return SparseState(jnp.zeros((), jnp.int32), start, jax.random.key(seed))

    def sparse(delta, state):
        return sparsify(
            delta,
            k,
            mode=mode,
            scope=scope,
            stacked=stacked,
            end=end,
            key=jax.random.fold_in(state.key, state.count),
        )

    def update(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError("sparse_updates needs params: update(updates, state, params)")
        count = state.count + 1
        if window == 1:
            return sparse(updates, state), SparseState(count, None, state.key)

        def close(updates):
            delta = jax.tree.map(lambda p, u, s: p + u - s, params, updates, state.start)
            kept = sparse(delta, state)
            moved = jax.tree.map(
                lambda s, d, p, u: (s + d - p).astype(u.dtype), state.start, kept, params, updates
            )
            return moved, optax.apply_updates(params, moved)

        def go_on(updates):
            return updates, state.start

        updates, start = jax.lax.cond(count % window == 0, close, go_on, updates)
        return updates, SparseState(count, start, state.key)

    return optax.GradientTransformationExtraArgs(init, update)
