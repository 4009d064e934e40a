"""What all attention layers ask of their arguments."""


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
            f"causal attention needs as many queries as keys, got {q.shape[1]} and {k.shape[1]}"
        )
