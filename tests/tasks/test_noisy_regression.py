"""Noisy regression: what is drawn, and that drawing statistics is drawing contexts."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ks_2samp, kstest

from ico import algorithms
from ico.tasks import (
    NoisePrior,
    NoisyContext,
    NoisyRegression,
    noisy_context,
    noisy_regression,
    spectral_context,
    wishart_spectra,
)
from ico.types import Prompt

TASK = NoisyRegression(20_000, num_inputs=4, num_context=9, noise=2.0)
draw = jax.jit(noisy_context, static_argnums=1)
SMALL = dataclasses.replace(TASK, batch_size=50)


def features(statistics):
    """What a learner could tell two samples of statistics by, each [B]; any basis."""
    xx = np.asarray(statistics.xx, np.float64)
    values = np.sort(xx, -1) if xx.ndim == 2 else np.linalg.eigvalsh(xx)
    w = np.asarray(algorithms.ridge_weights(statistics, 1.0))
    return {
        "least eigenvalue": values[:, 0],
        "largest eigenvalue": values[:, -1],
        "determinant": np.log(values).sum(1),
        "labels": np.asarray(statistics.yy),
        "length of xy": np.sum(np.asarray(statistics.xy) ** 2, 1),
        "ridge": np.sum(w**2, 1),
        "residual": np.asarray(algorithms.estimated_noise_variance(statistics, TASK.num_context)),
    }


@pytest.fixture(scope="module")
def explicit():
    """Statistics of contexts that were drawn pair by pair."""
    episode = jax.jit(noisy_regression, static_argnums=1)(jax.random.key(1), TASK)
    return algorithms.statistics(episode.prompt)


def test_episode_is_what_it_says(x64):
    prompt, y_query, sigma, weights = noisy_regression(jax.random.key(0), SMALL)
    assert (prompt.x.shape, prompt.y.shape, y_query.shape) == ((50, 9, 4), (50, 9, 1), (50, 1, 1))
    clean = jnp.einsum("bnd,bd->bn", prompt.x, weights)
    np.testing.assert_allclose(
        y_query[..., 0], jnp.einsum("bqd,bd->bq", prompt.x_query, weights), rtol=1e-5
    )
    noise = np.asarray(prompt.y[..., 0] - clean)
    # Noise over its own sigma is standard normal, whatever the sigma.
    assert kstest((noise / np.asarray(sigma)[:, None]).ravel(), "norm").pvalue > 1e-3
    assert 0 <= sigma.min() and sigma.max() < 2


def test_without_noise_labels_are_exact():
    episode = noisy_regression(jax.random.key(0), dataclasses.replace(SMALL, noise=0.0))
    y = jnp.einsum("bnd,bd->bn", episode.prompt.x, episode.weights)
    np.testing.assert_array_equal(episode.prompt.y[..., 0], y)


@pytest.mark.parametrize(
    ("noise", "quantiles"),
    [
        (3.0, [0, 1.5, 2.97]),
        ((1.0, 3.0), [1, 3, 3]),
        ((1.0, 3.0, 5.0), [1, 3, 5]),
        (lambda u: u**2, [0, 0.25, 0.9801]),
    ],
    ids=["uniform", "two values", "three values", "any prior"],
)
def test_priors(noise, quantiles):
    task = NoisyRegression(noise=noise)
    np.testing.assert_allclose(task.sigma(jnp.array([0.0, 0.5, 0.99])), quantiles, rtol=1e-5)


@pytest.mark.parametrize("name", ["triangular", "spectral"])
def test_statistics_are_distributed_as_those_of_contexts(name, explicit):
    if name == "triangular":
        context = draw(jax.random.key(2), TASK)
    else:
        spectra = wishart_spectra(jax.random.key(3), TASK, 40_000)
        context = jax.jit(spectral_context, static_argnums=2)(jax.random.key(2), spectra, TASK)
    ours, theirs = features(context.at(TASK.sigma(context.u))), features(explicit)
    for feature, values in theirs.items():
        assert ks_2samp(ours[feature], values).pvalue > 1e-3, feature


def test_each_entry_of_the_gram_matrix_is_as_of_contexts(explicit):
    context = draw(jax.random.key(2), TASK)
    for i, j in ((0, 0), (3, 3), (0, 1), (3, 2)):
        ours, theirs = (np.asarray(s.xx[:, i, j]) for s in (context, explicit))
        assert ks_2samp(ours, theirs).pvalue > 1e-3, (i, j)
    np.testing.assert_allclose(context.xx, jnp.swapaxes(context.xx, 1, 2), rtol=1e-6)


def test_a_wrong_distribution_would_be_noticed(explicit):
    """The comparison above can fail: one pair more in the context is enough."""
    task = dataclasses.replace(TASK, num_context=10)
    context = draw(jax.random.key(2), task)
    ours, theirs = features(context.at(TASK.sigma(context.u))), features(explicit)
    assert ks_2samp(ours["least eigenvalue"], theirs["least eigenvalue"]).pvalue < 1e-6


def test_fewer_pairs_than_inputs():
    task = NoisyRegression(500, num_inputs=6, num_context=4)
    context = draw(jax.random.key(0), task)
    assert (np.linalg.matrix_rank(np.asarray(context.xx), tol=1e-3) == 4).all()
    # <sum e x, v> for v outside the span of the inputs is zero: the parts belong together.
    values, vectors = np.linalg.eigh(np.asarray(context.xx, np.float64))
    outside = np.einsum("bde,bd->be", vectors[..., :2], np.asarray(context.xe))
    assert np.abs(outside).max() < 1e-3
    with pytest.raises(ValueError, match="as many pairs as inputs, not 4 of 6"):
        spectral_context(jax.random.key(0), np.ones((3, 6)), task)


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_the_noise_of_few_pairs_is_not_the_weights(kind):
    """Drawn from keys of their own."""
    task = NoisyRegression(2_000, num_inputs=4, num_context=3)
    context = draw(jax.random.key(0, impl=kind), task)
    x_e, w = np.asarray(context.xe), np.asarray(context.weights)
    for i, j in np.ndindex(4, 4):
        assert abs(np.corrcoef(x_e[:, i], w[:, j])[0, 1]) < 0.1
    # sum e^2 has a chi-squared distribution, whatever the weights are.
    assert abs(np.corrcoef(np.asarray(context.ee), np.sum(w[:, :3] ** 2, 1))[0, 1]) < 0.1


def test_statistics_are_quadratic_in_the_noise(x64):
    """`at` is the statistics of y = <w, x> + sigma e, for the parts that it is made of."""
    rng = np.random.default_rng(0)
    x, e, w = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5)), rng.normal(size=(2, 3))
    xx, xe = np.einsum("bnd,bne->bde", x, x), np.einsum("bnd,bn->bd", x, e)
    context = NoisyContext(*map(jnp.asarray, (xx, xe, np.sum(e**2, 1), w, np.zeros(2))))
    sigma = jnp.array([0.7, 2.0])
    y = np.einsum("bnd,bd->bn", x, w) + np.asarray(sigma)[:, None] * e
    prompt = Prompt(jnp.asarray(x), jnp.asarray(y)[..., None], jnp.zeros((2, 1, 3)))
    chex.assert_trees_all_close(context.at(sigma), algorithms.statistics(prompt), rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": -1.0}, "standard deviation, at least 0, not -1"),
        ({"noise": (1.0, -3.0)}, "at least 0"),
        ({"noise": ()}, "at least one"),
        ({"noise": float("nan")}, "at least 0"),
        ({"num_inputs": 0}, "num_inputs must be at least 1"),
        ({"batch_size": -2}, "batch_size must be at least 1"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=message):
        NoisyRegression(**changes)


@pytest.mark.parametrize("noise", [0.0, 3.0, (1.0, 3.0), (1.0, 3.0, 5.0), (2.0,)])
def test_a_prior_as_arrays_is_the_tasks(noise):
    u = jnp.linspace(0, 0.999, 301)
    expected = NoisyRegression(noise=noise).sigma(u)
    np.testing.assert_allclose(NoisePrior.of(noise).sigma(u), expected, atol=1e-5)


def test_priors_of_equal_shape_are_vmapped():
    u, priors = jnp.linspace(0, 0.999, 301), [NoisePrior.of(noise) for noise in (3.0, (1.0, 3.0))]
    together = NoisePrior(*(jnp.stack(leaves) for leaves in zip(*priors, strict=True)))
    sigma = jax.vmap(lambda prior: prior.sigma(u))(together)
    for one, prior in zip(sigma, priors, strict=True):
        np.testing.assert_array_equal(one, prior.sigma(u))


@pytest.mark.parametrize("noise", [(), (1.0, 2.0, 3.0, 4.0)])
def test_values_that_do_not_divide_the_intervals_are_refused(noise):
    with pytest.raises(ValueError, match=f"{len(noise)} values do not divide 6"):
        NoisePrior.of(noise)


def test_scaled_contexts_are_those_of_scaled_inputs_and_weights():
    rng = np.random.default_rng(0)
    x, e, w = rng.normal(size=(6, 9, 3)), rng.normal(size=(6, 9)), rng.normal(size=(6, 3))
    scale = np.array([0.5, 1.0, 3.0])

    def context(x, w):
        xx, xe = np.einsum("bnd,bne->bde", x, x), np.einsum("bnd,bn->bd", x, e)
        parts = xx, xe, np.sum(e**2, 1), w, np.zeros(6)
        return NoisyContext(*(jnp.asarray(part, jnp.float32) for part in parts))

    found = context(x, w).scaled(jnp.asarray(scale, jnp.float32), 2.0)
    chex.assert_trees_all_close(found, context(x * scale, 2.0 * w), rtol=1e-5)
