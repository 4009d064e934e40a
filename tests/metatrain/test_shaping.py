"""How differences and gradients of diverged or steep inner trainings are bounded."""

import dataclasses

import chex
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ico import metatrain
from ico.metatrain._estimators import _mean_gradient, _mean_loss, _shaped


class ShapingTest(chex.TestCase):
    """Weights of perturbations, with and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(
        ("difference", [1, -2, 30, np.nan, np.inf]),
        ("clipped", [1, -2, 3 * 2, 0, 3 * 2]),
        ("sign", [1, -1, 1, 0, 1]),
    )
    def test_weights(self, shaping, expected):
        d = jnp.array([1.0, -2.0, 30.0, jnp.nan, jnp.inf])
        shaped = self.variant(lambda d: _shaped(d, shaping))(d)
        np.testing.assert_allclose(shaped, expected, rtol=1e-6)


def test_clipped_gradients():
    estimator = metatrain.Estimator("unrolled", 5, shaping="clipped")
    grads = {
        "a": jnp.array([[3.0, 0], [0, 4], [0, 0], [jnp.nan, 0], [jnp.inf, 0]]),
        "b": jnp.array([4.0, 3.0, 100.0, 0.0, 0.0]),
    }
    # Norms 5, 5, 100: the bound is 15.
    ours = _mean_gradient(grads, estimator)
    np.testing.assert_allclose(ours["a"], [3 / 5, 4 / 5], rtol=1e-6)
    np.testing.assert_allclose(ours["b"], (4 + 3 + 15) / 5, rtol=1e-6)
    assert _mean_loss(jnp.array([1.0, 3.0, jnp.nan, jnp.inf]), estimator) == 2
    plain = dataclasses.replace(estimator, shaping="difference")
    np.testing.assert_allclose(_mean_gradient(grads, plain)["b"], 107 / 5, rtol=1e-6)
