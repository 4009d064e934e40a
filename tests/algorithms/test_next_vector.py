"""Predictors of the next vector, against sums and solves written out position by position."""

import chex
import jax
import numpy as np

from ico.algorithms import (
    next_vector_gd,
    next_vector_ridge,
    preconditioned_inputs,
    tuned_next_vector_ridge,
)

B, T, D = 3, 12, 4


def vectors():
    return jax.random.normal(jax.random.key(0), (B, T, D))


class Predictors(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_one_gradient_step(self):
        x = vectors()
        ours = self.variant(next_vector_gd)(x)
        for b, t in np.ndindex(B, T):
            w = sum((np.outer(x[b, s], x[b, s - 1]) for s in range(1, t + 1)), np.zeros((D, D)))
            np.testing.assert_allclose(ours[b, t], w @ x[b, t], rtol=1e-4, atol=1e-4)


def test_ridge_counts_the_newest_pair():
    x = np.asarray(vectors(), np.float64)
    y = np.random.default_rng(0).normal(size=(B, T, 2))
    ours = next_vector_ridge(x, y, [1.0, 10.0])
    chex.assert_shape(ours, (2, B, T, 2))
    np.testing.assert_array_equal(ours[:, :, 0], 0)  # nothing is known
    for r, inverse in enumerate((1.0, 10.0)):
        for b, t in ((0, 4), (2, T - 1)):
            past, later = x[b, :t], y[b, 1 : t + 1]
            w = np.linalg.solve(past.T @ past + np.eye(D) / inverse, past.T @ later).T
            np.testing.assert_allclose(ours[r, b, t], w @ x[b, t], rtol=1e-11)


def test_ridge_finds_a_noiseless_system():
    w = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    x = [np.asarray(vectors(), np.float64)[:, 0]]
    for _ in range(T):
        x.append(x[-1] @ w.T)
    x = np.stack(x, 1)
    (found,) = next_vector_ridge(x[:, :-1], x[:, :-1], [1e9])
    np.testing.assert_allclose(found[:, D + 1 :], x[:, D + 2 :], atol=1e-4)


def test_the_regulariser_is_tuned_on_other_sequences():
    """Hardly any for a system without noise, much of it where nothing can be predicted."""
    w = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    x = [np.asarray(vectors(), np.float64)[:, 0]]
    for _ in range(T):
        x.append(x[-1] @ w.T)
    exact = np.stack(x, 1)
    side = exact[:, :-1], exact[:, :-1], exact[:, 1:]
    losses, inverse = tuned_next_vector_ridge(side, side)
    chex.assert_shape(losses, (B, T))
    assert inverse > 1e3 and losses[:, D + 1 :].max() < 0.01 < losses[:, 1].min()
    noise = np.random.default_rng(1).normal(size=(50, T, D))
    unlike, strong = tuned_next_vector_ridge(side, (noise, noise, noise[::-1]))
    assert strong < 10
    (predicted,) = next_vector_ridge(*side[:2], [strong])
    np.testing.assert_allclose(unlike, 0.5 * ((predicted - side[2]) ** 2).sum(-1))


def test_preconditioned_inputs(x64):
    """Times the targets' second moments with the inputs they are the prediction of ridge."""
    x = vectors()
    inputs = preconditioned_inputs(x, 1e-3)
    for b, t in ((0, 0), (1, 6), (2, T - 1)):
        past = np.asarray(x[b, :t], np.float64)
        matrix = past.T @ past + 1e-3 * np.eye(D)
        np.testing.assert_allclose(inputs[b, t], np.linalg.solve(matrix, x[b, t]), rtol=1e-8)
    (ridge,) = next_vector_ridge(x, x, [1e3])
    b, t = 0, T - 1
    cross = sum(np.outer(x[b, s], x[b, s - 1]) for s in range(1, t + 1))
    np.testing.assert_allclose(cross @ np.asarray(inputs[b, t]), ridge[b, t], rtol=1e-6)
