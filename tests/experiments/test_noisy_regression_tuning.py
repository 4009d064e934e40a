"""Ridge baselines of `noisy_regression`: tuning finds the best, and Table 1's losses."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from experiments.noisy_regression import testbed
from experiments.noisy_regression.ridge_tuning import tune_ridge
from ico import algorithms as al
from ico.tasks import NoisyRegression, noisy_context

TASK = NoisyRegression(4_000, num_inputs=5, num_context=12, noise=4.0)
draw = jax.jit(noisy_context, static_argnums=1)


def excess(weights, statistics, sigma):
    oracle = al.ridge_weights(statistics, sigma**2)
    return float(0.5 * jnp.mean(jnp.sum((weights - oracle) ** 2, axis=1)))


@pytest.mark.slow
def test_tuning_finds_the_least():
    found = tune_ridge(TASK, num_tasks=4_000, seed=3)
    context = draw(jax.random.key(3), TASK)  # the contexts that it was tuned on
    sigma = TASK.sigma(context.u)
    statistics = context.at(sigma)

    def constant(factor):
        s = factor * found.constant["noise_variance"]
        return excess(al.ridge_weights(statistics, s), statistics, sigma)

    def tuned(m, top):
        multiplier, maximum = m * found.tuned["multiplier"], top * found.tuned["maximum"]
        params = {"multiplier": multiplier, "maximum": maximum}
        return excess(al.adaptive_ridge_weights(params, statistics, 12), statistics, sigma)

    assert constant(1.0) < min(constant(0.8), constant(1.25))
    assert tuned(1, 1) < min(tuned(0.8, 1), tuned(1.25, 1), tuned(1, 0.8), tuned(1, 1.25))
    ada = excess(al.adaptive_ridge_weights({}, statistics, 12), statistics, sigma)
    assert tuned(1, 1) < ada < constant(1.0)


def test_strong_noise_is_tuned_for_too():
    """The ranges that are searched go with the noise."""
    task = dataclasses.replace(TASK, noise=300.0)
    found = tune_ridge(task, num_tasks=2_000)
    context = draw(jax.random.key(7), task)
    sigma = task.sigma(context.u)
    statistics = context.at(sigma)
    tuned = excess(al.adaptive_ridge_weights(found.tuned, statistics, 12), statistics, sigma)
    ada = excess(al.adaptive_ridge_weights({}, statistics, 12), statistics, sigma)
    assert tuned < 1.1 * ada
    s = found.constant["noise_variance"]
    constant = [
        excess(al.ridge_weights(statistics, factor * s), statistics, sigma) for factor in (1, 4)
    ]
    assert constant[0] < 1.05 * constant[1]


def test_no_noise_needs_no_regulariser():
    task = NoisyRegression(num_inputs=5, num_context=12, noise=0.0)
    found = tune_ridge(task, num_tasks=500)
    context = draw(jax.random.key(9), task)
    statistics = context.at(jnp.zeros(task.batch_size))
    w = al.ridge_weights(statistics, found.constant["noise_variance"])
    assert excess(w, statistics, jnp.zeros(task.batch_size)) < 1e-6


def test_no_more_pairs_than_inputs_and_one_context_are_refused():
    with pytest.raises(ValueError, match="more pairs than inputs, not 5 pairs of 5"):
        tune_ridge(dataclasses.replace(TASK, num_context=5))
    with pytest.raises(ValueError, match="num_tasks must be at least 2"):
        tune_ridge(TASK, num_tasks=1)


@pytest.mark.slow
def test_baselines_have_the_papers_losses():
    """A small version of the first claims, at the paper's sizes."""
    task = NoisyRegression(20_000, noise=5.0)
    test = testbed.at_noise(draw(jax.random.key(0), task), 5.0)
    tuned = tune_ridge(task, num_tasks=8_000, seed=1).tuned
    for params, published, tolerance in (({}, 0.068, 0.1), (tuned, 0.049, 0.12)):
        w = al.adaptive_ridge_weights(params, test.statistics, 20)
        loss = float(al.excess(w, test.oracle).mean())
        assert abs(loss / published - 1) < tolerance
