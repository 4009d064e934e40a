"""What stands for the gradients of diverged or steep inner trainings."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ico import metatrain
from ico.metatrain._estimators import _mean_gradient, _mean_loss, _shaped


def test_shaping():
    d = jnp.array([1.0, -2.0, 30.0, jnp.nan, jnp.inf])
    np.testing.assert_array_equal(_shaped(d, "difference"), d)
    clipped = _shaped(d, "clipped")
    bound = 3 * 2
    np.testing.assert_allclose(clipped, [1, -2, bound, 0, bound], rtol=1e-6)
    np.testing.assert_array_equal(_shaped(d, "sign"), [1, -1, 1, 0, 1])


def test_clipped_gradients():
    estimator = metatrain.Estimator("unrolled", 5, shaping="clipped")
    grads = {"a": jnp.array([[3.0, 0], [0, 4], [0, 0], [jnp.nan, 0], [jnp.inf, 0]]),
             "b": jnp.array([4.0, 3.0, 100.0, 0.0, 0.0])}  # fmt: skip
    # Norms 5, 5, 100: the bound is 15.
    ours = _mean_gradient(grads, estimator)
    np.testing.assert_allclose(ours["a"], [3 / 5, 4 / 5], rtol=1e-6)
    np.testing.assert_allclose(ours["b"], (4 + 3 + 15) / 5, rtol=1e-6)
    assert _mean_loss(jnp.array([1.0, 3.0, jnp.nan, jnp.inf]), estimator) == 2
    plain = dataclasses.replace(estimator, shaping="difference")
    np.testing.assert_allclose(_mean_gradient(grads, plain)["b"], 107 / 5, rtol=1e-6)
