"""Linear probes recover affine maps, whatever basis the features are written in."""

import chex
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ico import probes

RIDGES = pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0])


def examples(seed=0, N=40, E=5, K=2):
    """Features of unequal scale that are not centred, an affine map of them, and noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, E)) * np.geomspace(0.1, 10, E) + rng.normal(size=E)
    weights, constant = rng.normal(size=(E, K)), rng.normal(size=K)
    return x, weights, constant, rng.normal(size=(N, K))


@hypothesis.given(seed=st.integers(0, 1000), E=st.integers(1, 8), K=st.integers(1, 3))
def test_an_affine_map_is_recovered(seed, E, K):
    x, weights, constant, _ = examples(seed, E=E, K=K)
    probe = probes.fit_linear_probe(x, x @ weights + constant)
    np.testing.assert_allclose(probe.weights, weights, atol=1e-9)
    np.testing.assert_allclose(probe.constant, constant, atol=1e-8)
    chex.assert_shape(probe(x[None, :3]), (1, 3, K))


@RIDGES
def test_the_written_objective_has_no_slope_at_the_fit(ridge):
    """It is convex, so that is its minimum; float64 normal equations are the oracle."""
    x, weights, constant, noise = examples()
    y = x @ weights + constant + noise
    probe = probes.fit_linear_probe(x, y, ridge=ridge)
    error = probe(x) - y
    lam = ridge * np.sum(x**2) / x.shape[1]
    np.testing.assert_allclose(x.T @ error + lam * probe.weights, 0, atol=1e-8)
    np.testing.assert_allclose(error.sum(0), 0, atol=1e-9)


@RIDGES
@hypothesis.given(seed=st.integers(0, 1000))
def test_orthogonal_bases_and_units_change_no_reading(ridge, seed):
    x, weights, constant, noise = examples(seed)
    y = x @ weights + constant + noise
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0]
    plain = probes.fit_linear_probe(x, y, ridge=ridge)
    turned = probes.fit_linear_probe(7 * x @ rotation, y, ridge=ridge)
    np.testing.assert_allclose(turned(7 * x @ rotation), plain(x), atol=1e-8)


@pytest.mark.parametrize(("N", "E"), [(40, 7), (4, 9)], ids=["dependent", "few examples"])
def test_of_all_best_fits_the_smallest_is_taken(N, E):
    """Features of rank 3: the pseudo-inverse of the centred ones is the oracle."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 3)) @ rng.normal(size=(3, E)) + 1
    y = rng.normal(size=(N, 2))
    probe = probes.fit_linear_probe(x, y)
    centred = x - x.mean(0)
    smallest = np.linalg.pinv(centred, rcond=1e-10) @ (y - y.mean(0))
    np.testing.assert_allclose(probe.weights, smallest, atol=1e-10)
    # It is the limit of ridge regression as well.
    nearly = probes.fit_linear_probe(x, y, ridge=1e-9)
    np.testing.assert_allclose(nearly.weights, smallest, atol=1e-5)


def test_errors_are_those_of_other_examples_and_of_the_layer():
    """The second layer holds the target; what is fitted to noise reads nothing elsewhere."""
    rng = np.random.default_rng(0)
    x, test_x = rng.normal(size=(2, 2, 60, 4))
    weights = rng.normal(size=(4, 3))
    errors = probes.layerwise_probe_errors(x, x[1] @ weights, test_x, test_x[1] @ weights)
    chex.assert_shape(errors, (2, 60))
    assert errors[1].max() < 1e-20 < 0.1 < errors[0].mean()
    # As many weights as examples fit anything that they were fitted on, and nothing else.
    x, test_x = rng.normal(size=(2, 1, 8, 9))
    y, test_y = rng.normal(size=(2, 8, 2))
    assert probes.layerwise_probe_errors(x, y, x, y).max() < 1e-20
    assert probes.layerwise_probe_errors(x, y, test_x, test_y).mean() > 0.5


def test_lags_are_read_where_tokens_hold_them():
    """Tokens that hold the present vector and the one before, of vectors without memory."""
    rng = np.random.default_rng(0)
    x, test_x = rng.normal(size=(2, 100, 9, 3)) + 1
    mix = rng.normal(size=(6, 6))

    def tokens(x):
        return np.concatenate([x, np.roll(x, 1, axis=1)], axis=-1) @ mix

    error, total = probes.lagged_probe_errors(
        tokens(x), x, tokens(test_x), test_x, num_lags=4, ridge=1e-9
    )
    chex.assert_shape((error, total), (4, 100))
    share = error.mean(1) / total.mean(1)
    assert share[:2].max() < 1e-6 and (share[2:] > 0.9).all() and (share[2:] < 1.2).all()


def test_what_cannot_be_fitted_is_refused(annotations_off):
    x, y = np.ones((3, 2)), np.ones((4, 1))
    with pytest.raises(ValueError, match="as many"):
        probes.fit_linear_probe(x, y)
    with pytest.raises(ValueError, match="at least one"):
        probes.fit_linear_probe(x[:0], y[:0])
    with pytest.raises(ValueError, match="ridge"):
        probes.fit_linear_probe(x, y[:3], ridge=-1.0)
    sequences = np.ones((2, 4, 3))
    with pytest.raises(ValueError, match="lags"):
        probes.lagged_probe_errors(*[sequences] * 4, num_lags=4)
