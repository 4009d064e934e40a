"""Solvers that only multiply: they converge to the mesa layer, as fast as theory says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.layers import (
    ChebyshevSteps,
    chebyshev_queries,
    chebyshev_steps,
    linear_attention,
    mesa,
    neumann_steps,
    newton_inverse,
)
from tests.layers.conftest import sequences


def systems(k, reg):
    """H_t + reg of head 0 of sequence 0."""
    k = np.asarray(k[0, :, 0])
    return np.cumsum(k[:, :, None] * k[:, None, :], 0) + reg * np.eye(k.shape[1])


def test_chebyshev_converges_to_the_mesa_layer_within_its_bound(x64):
    q, k, v, _ = sequences(24, 5, 3)
    reg = jnp.array([0.5, 2.0])
    largest = max(np.linalg.eigvalsh(systems(k, 0.5)).max(), 24.0)
    exact = jax.jit(mesa)(q, k, v, lam=1 / reg)
    layer = jax.jit(
        lambda steps: linear_attention(chebyshev_queries(q, k, reg=reg, steps=steps), k, v)
    )
    np.testing.assert_allclose(layer(chebyshev_steps(0.5, largest, 150, 2)), exact, atol=1e-9)

    # Of one system, in its own norm.
    few = chebyshev_steps(0.5, largest, 6, 2)
    x = chebyshev_queries(q, k, reg=reg, steps=few)[0, :, 0]
    root = np.sqrt(largest / 0.5)
    c = (root + 1) / (root - 1)
    for a, found, one in zip(systems(k, 0.5), x, q[0, :, 0], strict=True):
        solution = np.linalg.solve(a, one)
        error, start = found - solution, solution
        assert error @ a @ error <= (2 / (c**6 + c**-6)) ** 2 * (start @ a @ start) * (1 + 1e-9)


def test_chebyshev_needs_fewer_steps_than_neumann(x64):
    q, k, v, f = sequences(24, 5, 3)
    reg = jnp.array([0.5, 0.5])
    solution = np.linalg.solve(systems(k, 0.5), np.asarray(q[0, :, 0])[..., None])[..., 0]
    high = max(np.linalg.eigvalsh(a).max() for a in systems(k, 0.5))
    chebyshev, neumann = (
        np.abs(chebyshev_queries(q, k, reg=reg, steps=steps)[0, :, 0] - solution).max()
        for steps in (
            chebyshev_steps(0.5, high, 12, 2),
            neumann_steps(jnp.full(2, 2 / (high + 0.5)), 12),
        )
    )
    assert chebyshev < neumann / 3


def test_neumann_is_its_series(x64):
    """With gates and packed sequences, as the linear attention under it."""
    q, k, _, f = sequences(9, 3, 3)
    segments = jnp.asarray([[0] * 4 + [1] * 5] * 2)
    steps = neumann_steps(jnp.array([0.2, 0.1]), 3)
    x = chebyshev_queries(
        q, k, reg=jnp.ones(2), steps=steps, forget=f, segment_ids=segments, chunk_size=4
    )
    t, h = 7, 1
    gram = np.zeros((3, 3))
    for s in range(4, t + 1):
        gram = (f[0, s, h] if s > 4 else 1.0) * gram + np.outer(k[0, s, h], k[0, s, h])
    m = np.eye(3) - 0.1 * (gram + np.eye(3))
    wanted = 0.1 * (np.eye(3) + m + m @ m) @ np.asarray(q[0, t, h])
    np.testing.assert_allclose(x[0, t, h], wanted, atol=1e-12)


def test_half_precision_and_mixed_types():
    q, k, _, f = sequences(9, 3, 3, dtype=jnp.bfloat16)
    steps = neumann_steps(jnp.array([0.2, 0.1]), 3)
    x = chebyshev_queries(
        q, k.astype(jnp.float32), reg=jnp.ones(2), steps=steps, forget=f.astype(jnp.float32)
    )
    assert x.dtype == jnp.bfloat16
    assert linear_attention(q, k, k, forget=f.astype(jnp.float32)).dtype == jnp.bfloat16


def test_newton_inverts(x64):
    a = np.random.default_rng(0).normal(size=(3, 2, 6, 6))
    a = a @ np.swapaxes(a, -1, -2) + 0.1 * np.eye(6)
    np.testing.assert_allclose(
        newton_inverse(jnp.asarray(a), num_steps=40), np.linalg.inv(a), rtol=1e-8, atol=1e-8
    )


def test_wrong_arguments_are_refused(annotations_off):
    q, k, *_ = sequences(4, 3, 2, dtype=np.float32)
    steps = neumann_steps(jnp.ones(2), 2)
    with pytest.raises(ValueError, match="steps must be"):
        chebyshev_queries(q, k, reg=jnp.ones(2), steps=ChebyshevSteps(steps.rate, jnp.ones((1, 2))))
    with pytest.raises(ValueError, match="low < high"):
        chebyshev_steps(2.0, 1.0, 3, 1)
