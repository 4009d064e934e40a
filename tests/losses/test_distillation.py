"""Targets out of several answers, and distances between embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import losses


def answers(seed=0, A=4, N=50, K=3):
    return 2 * jax.random.normal(jax.random.key(seed), (A, N, K))


def test_the_most_confident_answer_is_the_target():
    logits, there = answers(), jnp.array([True, False, True, True])
    p = np.asarray(jax.nn.softmax(logits))
    found = losses.choose_targets(logits, there)
    for n in range(p.shape[1]):
        best = max((0, 2, 3), key=lambda a: p[a, n].max())
        np.testing.assert_allclose(found[n], p[best, n], rtol=1e-6)
    # One that is not there could have been the most confident.
    assert (p.max(-1).argmax(0) == 1).any()


def test_other_rules_and_none_there():
    logits, there = answers(), jnp.array([True, False, True, False])
    p = np.asarray(jax.nn.softmax(logits))
    average = losses.choose_targets(logits, there, "average")
    np.testing.assert_allclose(average, (p[0] + p[2]) / 2, rtol=1e-6)
    drawn = np.asarray(losses.choose_targets(logits, there, "random", jax.random.key(1)))
    which = np.array([np.abs(drawn[n] - p[:, n]).max(1).argmin() for n in range(50)])
    assert set(which) == {0, 2} and 10 < (which == 0).sum() < 40
    for rule in ("confident", "average", "random"):
        nothing = losses.choose_targets(logits, jnp.zeros(4, bool), rule, jax.random.key(0))
        np.testing.assert_array_equal(nothing, 0)
    with pytest.raises(ValueError, match="needs a key"):
        losses.choose_targets(logits, there, "random")


def test_no_gradient_passes_into_targets():
    there = jnp.ones(4, bool)
    slope = jax.grad(lambda x: losses.choose_targets(x, there)[..., 0].sum())(answers())
    np.testing.assert_array_equal(slope, 0)


def test_soft_cross_entropy_is_least_at_its_target():
    logits = answers()[0]
    p = jax.nn.softmax(logits)
    value = losses.soft_cross_entropy(logits, p)
    np.testing.assert_allclose(value, -(p * jnp.log(p)).sum(-1), rtol=1e-5)
    slope = jax.grad(lambda x: losses.soft_cross_entropy(x, p).sum())(logits)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_distance_of_embeddings_ignores_their_length():
    a, b = answers()[0], answers()[1]
    found = losses.embedding_distance(a, b)
    np.testing.assert_allclose(found, losses.embedding_distance(3 * a, b), rtol=1e-5)
    cosine = (a * b).sum(-1) / (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1))
    np.testing.assert_allclose(found, (2 - 2 * cosine).mean(), rtol=1e-5)
    assert jnp.isfinite(jax.grad(lambda x: losses.embedding_distance(x, b))(0 * a)).all()
