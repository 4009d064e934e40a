"""Sequences from dynamical systems: their equations, and what least squares makes of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.layers import mesa
from ico.tasks import Dynamics, constructed_tokens, dynamics, dynamics_features

draw = jax.jit(dynamics, static_argnums=1)


def test_linear_systems_are_what_they_say():
    config = Dynamics(batch_size=200, num_steps=20, num_hidden=6, noise=0.05)
    (x, y, *_), w = draw(jax.random.key(0), config)
    assert x.shape == y.shape == (200, 20, 6)
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    error = y - jnp.einsum("bij,btj->bti", w, x)
    assert abs(float(error.std()) - 0.05) < 1e-3
    np.testing.assert_allclose(
        w @ jnp.swapaxes(w, 1, 2), np.tile(np.eye(6), (200, 1, 1)), atol=1e-5
    )
    assert abs(float((x[:, 0] ** 2).mean()) - 1 / 3) < 0.03 and float(abs(x[:, 0]).max()) <= 1
    assert len(np.unique(np.round(np.asarray(w)[:, 0, 0], 5))) > 190  # a system of its own each


def test_contracting_systems_die_out():
    config = Dynamics(50, 60, 5, noise=0.0, transition="contracting")
    (x, *_), w = draw(jax.random.key(0), config)
    values = np.linalg.eigvalsh(np.asarray(w))
    assert values.min() > 0.3 - 1e-5 and values.max() < 0.9 + 1e-5
    assert float(abs(x[:, -1]).max()) < 0.1 < float(abs(x[:, 0]).max())


def test_partly_observed_ones_are_linear_in_a_hidden_rotation():
    """Without noise a window of 2 S observations predicts the next one exactly."""
    config = Dynamics(batch_size=3, num_steps=40, num_hidden=4, num_observed=2, noise=0.0)
    (x, y, *_), _ = draw(jax.random.key(0), config)
    assert x.shape == (3, 40, 2)
    for sequence in np.concatenate([x, y[:, -1:]], axis=1).astype(np.float64):
        rows = np.stack([sequence[t : t + 8].ravel() for t in range(len(sequence) - 8)])
        fit, *_ = np.linalg.lstsq(rows, sequence[8:], rcond=1e-5)
        assert np.abs(rows @ fit - sequence[8:]).max() < 1e-3


def test_nonlinear_ones_share_their_network_and_have_unit_states():
    config = Dynamics(batch_size=40, num_steps=50, num_hidden=2, noise=0.0, nonlinear=True)
    (x, y, *_), w = draw(jax.random.key(0), config)
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), 1.0, atol=1e-5)
    # Undoing W gives f(x): one function in all sequences, so that neighbours have near values.
    f = np.asarray(jnp.einsum("bji,btj->bti", w, y))[:, 1:]
    x = np.asarray(x)[:, 1:]
    apart_in = np.linalg.norm(x[:20].reshape(-1, 1, 2) - x[20:].reshape(1, -1, 2), axis=-1)
    nearest = apart_in.argmin(axis=1)
    apart_out = np.linalg.norm(f[:20].reshape(-1, 2) - f[20:].reshape(-1, 2)[nearest], axis=-1)
    assert np.median(apart_in.min(axis=1)) < 0.03
    assert np.median(apart_out) < 0.2 < np.std(f)  # near, and no constant


@pytest.mark.parametrize("nonlinear", [False, True])
@pytest.mark.parametrize("start", [None, 3.0])
def test_starts_are_uniform_in_their_range(start, nonlinear, follows):
    config = Dynamics(2_000, 1, 4, nonlinear=nonlinear, start=start)
    high = start or (0.25 if nonlinear else 1.0)
    follows(draw(jax.random.key(0), config).sequence.inputs[:, 0], "uniform", (-high, 2 * high))


def test_contracting_states_are_clipped():
    config = Dynamics(50, 20, 5, noise=3.0, transition="contracting")
    y = np.asarray(draw(jax.random.key(0), config).sequence.targets)
    assert np.abs(y).max() == 2 and (np.abs(y) == 2).mean() > 0.1


def test_noise_of_partly_observed_systems_is_in_the_observations(follows):
    """The same key without noise gives the same states: the difference is noise, and white."""
    config = Dynamics(200, 20, 4, num_observed=2, noise=0.5)
    noisy, clean = (
        draw(jax.random.key(0), dataclasses.replace(config, noise=noise)) for noise in (0.5, 0.0)
    )
    np.testing.assert_array_equal(noisy.transition, clean.transition)
    follows(noisy.sequence.inputs - clean.sequence.inputs, "norm", (0, 0.5))


def test_constructed_tokens_are_the_last_two_vectors():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    tokens = np.split(np.asarray(constructed_tokens(x)), 4, axis=-1)
    np.testing.assert_array_equal(tokens[0], 0)
    np.testing.assert_array_equal(tokens[1], x)
    np.testing.assert_array_equal(tokens[2], x)
    np.testing.assert_array_equal(tokens[3][:, 1:], x[:, :-1])
    np.testing.assert_array_equal(tokens[3][:, 0], 0)


def test_fixed_systems_are_the_same_in_every_batch():
    config = Dynamics(batch_size=3, num_steps=2, num_hidden=4, fixed=True)
    first, second = (draw(jax.random.key(seed), config).transition for seed in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_least_squares_in_context_has_its_known_loss():
    """The mean over t of 1/2 |error|^2, about 0.188 at T = 50, and 1.67 before any learning."""
    (x, y, *_), _ = draw(jax.random.key(0), Dynamics(batch_size=400))
    before = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
    q, k, v = (a[:, :, None] for a in (x, before, x))
    # Nothing is known at the first position: x_1 comes from nowhere.
    k = k.at[:, 0].set(0)
    layer = jax.jit(lambda lam: mesa(q, k, v, lam=lam)[:, :, 0])
    losses = {
        lam: float(jnp.mean(jnp.sum((layer(jnp.array([lam])) - y) ** 2, -1)) / 2)
        for lam in (1e1, 1e2, 1e3, 1e4)
    }
    assert abs(min(losses.values()) - 0.188) < 0.012, losses
    start = jnp.mean(jnp.sum(y[:, 0] ** 2, -1)) / 2
    assert abs(float(start) - 10 / 6) < 0.1


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="num_observed"):
        Dynamics(num_observed=0)
    with pytest.raises(ValueError, match="noise"):
        Dynamics(noise=-1.0)


def test_an_unknown_transition_is_refused(annotations_off):
    with pytest.raises(ValueError, match="transition"):
        Dynamics(transition="chaotic")


def test_features_make_the_next_vector_linear():
    """Of nonlinear systems without noise, W f(x) is what follows; else windows, or x itself."""
    config = Dynamics(2, 12, 4, noise=0.0, nonlinear=True)
    found = dynamics(jax.random.key(0), config)
    features = dynamics_features(found.sequence.inputs, config)
    following = jnp.einsum("bij,btj->bti", found.transition, features)
    np.testing.assert_allclose(following, found.sequence.targets, atol=1e-5)
    x = jax.random.normal(jax.random.key(1), (2, 12, 4))
    partial = Dynamics(2, 12, 6, num_observed=4)
    wide = dynamics_features(x, partial)
    assert wide.shape == (2, 12, 8 * 4)
    np.testing.assert_array_equal(wide[:, 5, 4:8], x[:, 4])
    np.testing.assert_array_equal(wide[:, 1, 8:12], 0)
    np.testing.assert_array_equal(dynamics_features(x, Dynamics(2, 12, 4)), x)
