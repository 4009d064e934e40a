"""GD++ in eigenvectors is what the model computes, and its gradient is a gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from ico.algorithms import gd_plus_plus_error, layers_needed, log_uniform_spectrum
from ico.models import GdPlusPlusLinearTransformer
from ico.types import Statistics


def test_gd_plus_plus_on_eigenvalues_is_the_model(x64):
    rng = np.random.default_rng(0)
    spectrum, truth = rng.uniform(0.1, 1, 5), rng.normal(size=5)
    scalars = -rng.uniform(0.2, 0.6, (3, 2))
    statistics = Statistics(
        jnp.asarray(spectrum)[None],
        jnp.asarray(spectrum * truth)[None],
        jnp.asarray([np.sum(spectrum * truth**2)]),
    )
    model = GdPlusPlusLinearTransformer(num_layers=3)
    columns = {"p_x": scalars[:, :1], "p_y": scalars[:, 1:], "q_x": np.ones((3, 1))}
    params = jax.tree.map(jnp.asarray, columns)
    w = model.apply({"params": params}, statistics, method="weights")[0]
    error = (truth - np.asarray(w)) / truth
    value, gradient = gd_plus_plus_error(scalars, spectrum)
    np.testing.assert_allclose(value, np.log(np.mean(error**2)), rtol=1e-10)
    for place in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[place] = 1e-6
        ends = [gd_plus_plus_error(scalars + sign * step, spectrum)[0] for sign in (1, -1)]
        np.testing.assert_allclose(gradient[place], (ends[0] - ends[1]) / 2e-6, rtol=1e-5)


def test_one_step_ends_a_single_eigenvalue():
    value, _ = gd_plus_plus_error(np.array([[0.0, -0.5]]), np.full(4, 2.0))
    assert value < -600


def test_a_single_eigenvalue_takes_one_layer():
    assert layers_needed(np.ones(4), 0) <= 1


def test_two_eigenvalues_take_two_layers():
    """One layer has one zero, and leaves an error in one of the two."""
    spectrum = np.array([1.0, 0.1])
    for curvature in (False, True):
        assert 1 < layers_needed(spectrum, 0, curvature=curvature) <= 2
    assert layers_needed(spectrum, 0, most=1) == np.inf


def test_curvature_saves_layers():
    spectrum = log_uniform_spectrum(64.0, 30, 0)
    options = {"tolerance": 1e-2, "starts": 1, "beam": 1}
    descent = layers_needed(spectrum, 0, curvature=False, **options)
    assert layers_needed(spectrum, 0, **options) < descent - 0.5


def test_a_log_uniform_spectrum_has_its_condition_number():
    spectrum = log_uniform_spectrum(64.0, 1_000, 0)
    assert (spectrum.max(), spectrum.min()) == (1.0, 1 / 64)
    logs = -np.log(spectrum) / np.log(64.0)
    assert abs(logs.mean() - 0.5) < 0.05
    assert abs(logs.std() - 12**-0.5) < 0.02
