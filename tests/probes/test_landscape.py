"""Curvature against matrices that are known, and the theory against its simulation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import probes

D = 12
_ROOT = np.random.default_rng(0).normal(size=(D, D))
MATRIX = _ROOT @ np.diag(np.linspace(-1, 5, D)) @ _ROOT.T / D
PARAMS = {"a": jnp.ones((3, 2)), "b": jnp.arange(6.0)}


def quadratic(params):
    flat = jnp.concatenate([params["a"].ravel(), params["b"]])
    return flat @ jnp.asarray(MATRIX, flat.dtype) @ flat / 2


def test_a_line_through_a_quadratic_is_a_parabola(x64):
    """With the curvature of the Hessian, and its minimum where the derivative is zero."""
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), PARAMS)
    direction = jax.tree.map(lambda leaf: -leaf, jax.grad(quadratic)(params))
    distances = np.linspace(0, 0.5, 9)
    fit = probes.polynomial_fit(distances, probes.along(quadratic, params, direction, distances))
    product = probes.hessian_product(quadratic, params, direction)
    dot = sum(float(jnp.vdot(product[name], direction[name])) for name in params)
    np.testing.assert_allclose(fit.curvature, dot, rtol=1e-5)
    assert fit.r2 > 1 - 1e-10
    if fit.curvature > 0:
        square = sum(float(jnp.sum(leaf**2)) for leaf in direction.values())
        np.testing.assert_allclose(fit.minimum, square / dot, rtol=1e-5)


def test_what_is_no_parabola_is_not_explained_by_one():
    x = np.linspace(-1, 1, 30)
    assert probes.polynomial_fit(x, np.sin(9 * x)).r2 < 0.3
    assert probes.polynomial_fit(x, x**3, 3).r2 > 1 - 1e-12
    assert np.isnan(probes.polynomial_fit(x, -(x**2)).minimum)


def test_lanczos_finds_the_eigenvalues(x64):
    """All of them after D steps; weights are those of the start vector."""
    values, vectors = np.linalg.eigh(MATRIX)
    start = jnp.asarray(np.random.default_rng(1).normal(size=D))
    found = probes.lanczos(lambda v: jnp.asarray(MATRIX) @ v, start, D)
    np.testing.assert_allclose(found.values, values, atol=1e-9)
    weights = (vectors.T @ start / np.linalg.norm(start)) ** 2
    np.testing.assert_allclose(found.weights, weights, atol=1e-7)


def test_lanczos_of_a_small_krylov_space(x64):
    """Of two eigenvalues, five steps find two, and zeros without weight."""
    diagonal = jnp.repeat(jnp.array([1.0, 3.0]), D // 2)
    found = probes.lanczos(lambda v: diagonal * v, jnp.ones(D), 5)
    there = np.asarray(found.weights) > 1e-12
    np.testing.assert_allclose(np.asarray(found.values)[there], [1, 3], atol=1e-12)


def test_the_spectrum_of_a_loss_has_its_largest_eigenvalue():
    found = probes.hessian_spectrum(quadratic, PARAMS, jax.random.key(0), 100)
    np.testing.assert_allclose(found.values[-1], np.linalg.eigvalsh(MATRIX)[-1], rtol=1e-4)


def test_cosines():
    chex.assert_trees_all_close(probes.gradient_cosine(PARAMS, PARAMS), 1.0, atol=1e-6)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    assert probes.gradient_cosine(PARAMS, zero) == 0


def test_variance_in_the_long_run():
    """A simulation of 4,000 walks agrees."""
    rng, w = np.random.default_rng(0), np.zeros(4000)
    for _ in range(300):
        w -= 0.3 * 2 * (w - 1.5 * rng.normal(size=4000))
    found = probes.stationary_variance(0.3, 2.0, 1.5**2)
    np.testing.assert_allclose(found, w.var(), rtol=0.08)
    assert probes.stationary_variance(1.0, 2.0) == np.inf


def test_a_predicted_step_is_the_step_on_quadratics(x64):
    """Batch and full losses with other minima and curvatures."""
    rng = np.random.default_rng(3)
    batch, full = (np.cov(rng.normal(size=(D, 30))) for _ in range(2))
    center, w, rate = rng.normal(size=(3, D))
    rate = 0.1

    def batch_loss(w):
        return (w - center) @ batch @ (w - center) / 2

    g, whole = batch @ (w - center), full @ w
    effect = probes.predicted_step(rate, g @ g, g @ batch @ g, g @ whole, g @ full @ g)
    moved = w - rate * g
    np.testing.assert_allclose(effect.batch, batch_loss(moved) - batch_loss(w))
    np.testing.assert_allclose(effect.full, moved @ full @ moved / 2 - w @ full @ w / 2)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="between 1 and 3"):
        probes.lanczos(lambda v: v, jnp.ones(3), 4)
    with pytest.raises(ValueError, match="at least 4 points"):
        probes.polynomial_fit(np.arange(3.0), np.arange(3.0))


def test_distance_travelled_of_a_square_is_four_sides_and_ends_where_it_began():
    corners = np.array([[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]], np.float32)
    found = probes.distance_travelled(corners)
    np.testing.assert_allclose(found.path, [0, 2, 4, 6, 8])
    np.testing.assert_allclose(found.straight, [0, 2, 8**0.5, 2, 0], rtol=1e-6)
    np.testing.assert_array_equal(probes.distance_travelled(corners[:1]).path, [0])
