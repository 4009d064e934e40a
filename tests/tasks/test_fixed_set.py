"""A fixed set of tasks: batches hold tasks of the set, whole, and nothing else."""

import jax
import numpy as np
import pytest

from ico.tasks import LinearRegression, fixed_task_set, half_squared_error, linear_regression


@pytest.fixture(scope="module")
def episodes():
    return linear_regression(jax.random.key(0), LinearRegression(20, 3, 2, 4, 2))


def rows(episode):
    """Each task as one row of numbers."""
    leaves = [np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(episode)]
    return np.concatenate(leaves, axis=1)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_only_whole_tasks_of_the_set(episodes, batch_size):
    sample, known = jax.jit(fixed_task_set(episodes, batch_size)), rows(episodes)
    seen = np.zeros(len(known), int)
    for key in jax.random.split(jax.random.key(1), 40):
        batch = rows(sample(key))
        same = (batch[:, None] == known[None]).all(-1)
        assert batch.shape[0] == batch_size and (same.sum(1) == 1).all()
        seen += same.sum(0)
    draws = 40 * batch_size
    assert np.abs(seen - draws / 20).max() < 4.5 * np.sqrt(draws / 20)


def test_a_batch_as_large_as_the_set_is_the_set(episodes):
    for seed in (0, 1):
        batch = fixed_task_set(episodes, 20)(jax.random.key(seed))
        np.testing.assert_array_equal(rows(batch), rows(episodes))


def test_same_key_same_batch(episodes):
    sample = fixed_task_set(episodes, 8)
    one, again, other = (rows(sample(jax.random.key(s))) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("leading", [(), (5,)])
def test_loss_is_half_the_squared_error_summed_over_outputs(leading, episodes, x64):
    rng = np.random.default_rng(0)
    prediction, y = rng.standard_normal((*leading, 6, 3, 2)), rng.standard_normal((6, 3, 2))
    expected = np.zeros((*leading, 6))
    for *step, b, q, k in np.ndindex(prediction.shape):
        expected[*step, b] += 0.5 * (prediction[*step, b, q, k] - y[b, q, k]) ** 2 / 3
    got = half_squared_error(jax.numpy.asarray(prediction), jax.numpy.asarray(y))
    np.testing.assert_allclose(got, expected, rtol=1e-14)
