"""GD++ in eigenvectors is what the model computes, and its gradient is a gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from ico.algorithms import gd_plus_plus_error
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
