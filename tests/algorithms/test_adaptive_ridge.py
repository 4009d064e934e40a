"""AdaRR and TunedRR are what they say; the oracle is unbeaten."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import algorithms as al
from ico.tasks import NoisyRegression, noisy_context, noisy_regression
from ico.types import Statistics

TASK = NoisyRegression(4_000, num_inputs=5, num_context=12, noise=4.0)
draw = jax.jit(noisy_context, static_argnums=1)
# Compiled whole: one operation at a time they are dozens of small programs.
statistics_of, ridge_weights = map(jax.jit, (al.statistics, al.ridge_weights))
adaptive_ridge = jax.jit(al.adaptive_ridge)


def test_adaptive_ridge_by_numpy(make_episode, x64):
    prompt = make_episode(0, 4, 12, 5, 1, 3).prompt
    params = {"multiplier": 1.7, "maximum": 0.08}
    ada, tuned = adaptive_ridge({}, prompt), adaptive_ridge(params, prompt)
    for b in range(4):
        x, y, query = (np.asarray(leaf)[b] for leaf in prompt)
        _, residual, *_ = np.linalg.lstsq(x, y[:, 0])
        s = residual[0] / (12 - 5)
        for got, noise in ((ada, s), (tuned, min(1.7 * s, 0.08))):
            w = np.linalg.solve(x.T @ x + noise * np.eye(5), x.T @ y)
            np.testing.assert_allclose(got[b], query @ w, rtol=1e-9)


def test_ridge_weights_are_those_of_ridge(make_episode, x64):
    prompt = make_episode(0, 4, 12, 5, 1, 3).prompt
    noise = jnp.array([0.1, 0.2, 0.3, 4.0])
    w = ridge_weights(statistics_of(prompt), noise)
    expected = np.asarray(jax.jit(al.ridge)({"noise_variance": noise}, prompt))
    np.testing.assert_allclose(np.einsum("bqd,bd->bq", prompt.x_query, w), expected[..., 0])


def test_the_oracle_is_the_posterior_mean():
    """Its error is that of the posterior, and every other learner's is larger by the excess."""
    episode = jax.jit(noisy_regression, static_argnums=1)(jax.random.key(0), TASK)
    statistics = statistics_of(episode.prompt)
    oracle = np.asarray(ridge_weights(statistics, episode.sigma**2))
    truth = np.asarray(episode.weights)
    adaptive = jax.jit(al.adaptive_ridge_weights, static_argnums=2)({}, statistics, 12)
    for other in (adaptive, ridge_weights(statistics, np.full(4_000, 3.0, np.float32))):
        excess = np.sum((np.asarray(other) - oracle) ** 2, 1)
        raw = np.sum((np.asarray(other) - truth) ** 2, 1) - np.sum((oracle - truth) ** 2, 1)
        gap = raw - excess
        assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(gap.size)
        assert excess.mean() > 0.02


def test_without_noise_the_estimate_is_rounding_but_never_negative():
    """Sums of squares that cancel may come out below zero."""
    context = draw(jax.random.key(1), TASK)
    statistics = jax.jit(type(context).at)(context, jnp.zeros(4_000))
    # As rounding might have it: sums of squares that are slightly too small.
    statistics = statistics._replace(yy=statistics.yy * (1 - 1e-6))
    found = np.asarray(jax.jit(al.estimated_noise_variance, static_argnums=1)(statistics, 12))
    assert (found >= 0).all() and (found == 0).mean() > 0.5 and found.max() < 1e-3


def test_least_squares_of_equal_inputs_are_the_smallest(make_episode, x64):
    """Beside a context that has one answer, which is not changed by them."""
    prompt = make_episode(0, 2, 12, 5, 1, 3).prompt
    equal = prompt._replace(x=prompt.x.at[1].set(prompt.x[1, :1]))
    w = jax.jit(al.ridge_weights)(al.statistics(equal), 0.0)
    for b in range(2):
        x, y = (np.asarray(leaf[b]) for leaf in equal[:2])
        np.testing.assert_allclose(w[b], np.linalg.pinv(x) @ y[:, 0], atol=1e-9)
    alone = al.ridge_weights(al.statistics(prompt), 0.0)
    np.testing.assert_array_equal(w[0], alone[0])
    diagonal = Statistics(jnp.array([[2.0, 0.0]]), jnp.array([[3.0, 0.0]]), jnp.ones(1))
    np.testing.assert_array_equal(al.ridge_weights(diagonal, 0.0), [[1.5, 0.0]])


@pytest.mark.parametrize("pairs", [3, 5])
def test_no_more_pairs_than_inputs_is_refused(make_episode, pairs):
    prompt = make_episode(0, 2, pairs, 5, 1, 1).prompt
    with pytest.raises(ValueError, match=f"more pairs than inputs, not {pairs} pairs of 5"):
        al.adaptive_ridge({}, prompt)


def test_statistics_are_of_one_output(make_episode):
    with pytest.raises(ValueError, match="one output, but prompt.y has 2"):
        al.statistics(make_episode(0, 2, 6, 3, 2, 1).prompt)
