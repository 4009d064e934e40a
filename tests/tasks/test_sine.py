"""Sine tasks: y = a sin(x + phase), with amplitude and phase independent."""

import math

import chex
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from ico.tasks import Sine, sine, sine_through

KEY = jax.random.key(0)
sample = jax.jit(sine, static_argnums=1)


def fitted(episode):
    """Amplitude and phase of every task, and the largest misfit of any label.

    a sin(x + phase) = (a cos phase) sin x + (a sin phase) cos x is linear in two unknowns.
    """
    prompt, y_query = jax.device_get(episode)
    x = np.concatenate([prompt.x, prompt.x_query], axis=1)[..., 0].astype(np.float64)
    y = np.concatenate([prompt.y, y_query], axis=1)[..., 0]
    basis = np.stack([np.sin(x), np.cos(x)], axis=-1)
    cosine, sine_ = (np.linalg.pinv(basis) @ y[..., None])[..., 0].T
    misfit = np.abs((basis @ np.stack([cosine, sine_], axis=-1)[..., None])[..., 0] - y).max()
    return np.hypot(cosine, sine_), np.arctan2(sine_, cosine), misfit


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_shapes(B, N, Q):
    episode = jax.eval_shape(lambda key: sine(key, Sine(B, N, Q)), KEY)
    shapes = [leaf.shape for leaf in jax.tree.leaves(episode)]
    assert shapes == [(B, N, 1), (B, N, 1), (B, Q, 1), (B, Q, 1)]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_labels_are_independent_sines(impl, follows, uncorrelated):
    episode = sample(jax.random.key(0, impl=impl), Sine(batch_size=10_000, num_queries=2))
    amplitude, phase, misfit = fitted(episode)
    assert misfit < 1e-5
    follows(amplitude, "uniform", (0.1, 0.4))
    follows(phase, "uniform", (0, math.pi))
    # The authors' code draws both from one key: a correlation of 1.
    uncorrelated(amplitude, phase)
    uncorrelated((amplitude - amplitude.mean()) ** 2, (phase - phase.mean()) ** 2)
    x = np.asarray(episode.prompt.x)
    follows(x, "uniform", (-5, 10))
    follows(episode.prompt.x_query, "uniform", (-5, 10))
    uncorrelated(x[:, 0], amplitude)
    uncorrelated(x[:, 0], phase)
    uncorrelated(x[:, 0], x[:, 1])


def test_amplitude_and_range_are_as_asked():
    config = Sine(batch_size=500, num_context=20, input_range=4.0, amplitude=(2.0, 5.0))
    episode = sample(KEY, config)
    amplitude, _, misfit = fitted(episode)
    assert misfit < 1e-4 and 2 - 1e-3 < amplitude.min() and amplitude.max() < 5 + 1e-3
    x = np.asarray(episode.prompt.x)
    assert -2 <= x.min() < -1.99 and 1.99 < x.max() < 2


def test_same_key_same_batch():
    one, again, other = (sample(jax.random.key(s), Sine(3)) for s in (1, 1, 2))
    chex.assert_trees_all_equal(one, again)
    assert (one.prompt.x != other.prompt.x).all() and (one.y_query != other.y_query).all()


@pytest.mark.parametrize("field", ["batch_size", "num_context", "num_queries"])
def test_config_names_the_field_that_is_wrong(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1, not 0"):
        Sine(**{field: 0})


def test_two_points_determine_the_curve():
    episode = sample(KEY, Sine(batch_size=5, num_context=2, num_queries=7))
    x, y = (np.asarray(a)[..., 0] for a in (episode.prompt.x, episode.prompt.y))
    for task in range(5):
        at = np.asarray(episode.prompt.x_query)[task, :, 0]
        curve = sine_through(x[task : task + 1], y[task : task + 1], at)
        np.testing.assert_allclose(curve[0], np.asarray(episode.y_query)[task, :, 0], atol=1e-3)
