"""Checks of arguments that all layers share."""

import jax.numpy as jnp


def float_of(v):
    """The dtype of the output: that of v, or float32 if v holds integers."""
    return v.dtype if jnp.issubdtype(v.dtype, jnp.floating) else jnp.dtype(jnp.float32)


def check_decode(q, k, v, states: dict) -> None:
    """The checks for one position: q, k [B, H, D], v [B, H, V]."""
    if not q.ndim == k.ndim == v.ndim == 3:
        raise ValueError(f"q, k, v must be [B, H, D]; got {q.shape}, {k.shape}, {v.shape}")
    q, k, v = (a[:, None] for a in (q, k, v))
    check_shapes(q, k, v, causal=True)
    check_sides(q, v, None, states)


def check_shapes(q, k, v, *, causal: bool) -> None:
    """Raises ValueError unless q [B, T, H, D], k [B, S, H, D], v [B, S, H, V] fit together."""
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"q, k, v must be [B, T, H, D]; got {q.shape}, {k.shape}, {v.shape}")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"k and v must agree in batch, length and heads: {k.shape}, {v.shape}")
    if (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(f"q and k must agree in batch, heads and width: {q.shape}, {k.shape}")
    if causal and q.shape[1] != k.shape[1]:
        raise ValueError(
            f"q and k must have equal lengths if causal, not {q.shape[1]} and {k.shape[1]}"
        )


def check_scores(q, k, arrays: dict) -> None:
    """Raises ValueError unless arrays (or None) broadcast to the scores [B, H, T, S], axis by axis.

    All four axes are wanted, so that none is taken for another.
    """
    shape = q.shape[0], q.shape[2], q.shape[1], k.shape[1]
    for name, array in arrays.items():
        if array is not None and (
            array.ndim != 4 or any(a not in (1, b) for a, b in zip(array.shape, shape, strict=True))
        ):
            raise ValueError(
                f"{name} must be [B, H, T, S] = {list(shape)}, an axis may be 1; "
                f"not {list(array.shape)}"
            )


def check_sides(q, v, segment_ids, states: dict) -> None:
    """Raises ValueError unless the optional arguments fit q [B, T, H, D] and v [B, T, H, V].

    These are segment_ids [B, T] and states [B, H, V, D] by name; None is skipped.
    """
    B, T, H, D = q.shape
    wanted = {"segment_ids": (segment_ids, (B, T))}
    wanted |= {name: (state, (B, H, v.shape[-1], D)) for name, state in states.items()}
    for name, (array, shape) in wanted.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, not {list(array.shape)}")
