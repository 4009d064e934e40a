"""What the tests of layers share."""

import jax.numpy as jnp
import numpy as np


def sequences(T, D, V, *, B=2, H=2, forget=(0.7, 1.0), seed=0, dtype=np.float64):
    """q, k, v, forget; keys and queries of length one, and nothing forgotten at some positions."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, B, T, H, D))
    q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
    v, f = rng.normal(size=(B, T, H, V)), rng.uniform(*forget, size=(B, T, H))
    f[:, 1:3] = 1  # where a clamp or a logarithm may have a wrong gradient
    return [jnp.asarray(a, dtype) for a in (q, k, v, f)]


def relative(ours, theirs):
    """The root of the mean squared error over that of what is right."""
    ours, theirs = (np.asarray(a, np.float64) for a in (ours, theirs))
    return np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2))
