"""The training loss of models that fit a linear model in context, by their weights."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import algorithms, models, tasks

MODEL = models.FreeDiagonalLinearTransformer(num_layers=4)
PARAMS = {name: jnp.full(4, -0.01) for name in ("w_xx", "w_xy", "w_yx", "w_yy")}


def contexts(scale=1.0):
    drawn = jax.jit(tasks.noisy_context, static_argnums=1)(
        jax.random.key(0), tasks.NoisyRegression(8)
    )
    drawn = drawn._replace(xx=drawn.xx.at[0].mul(scale))
    return algorithms.with_oracle(drawn, tasks.NoisePrior.of(1.0))


@pytest.mark.slow
def test_what_no_number_holds_is_left_out():
    """A context that a model maps beyond all numbers must not make the gradient infinite."""
    slope = jax.jit(jax.value_and_grad(models.weights_loss(MODEL, 100.0), has_aux=True))
    (loss, metrics), gradient = slope(PARAMS, contexts(1e6))
    assert metrics["lost"] >= 1 / 8
    chex.assert_tree_all_finite((loss, gradient))


class WeightsLoss(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_small_losses_count_whole(self):
        """far log(1 + l / far) is l in the limit: the mean excess over the oracle."""
        some, params = contexts(), jax.tree.map(lambda leaf: 0.01 * leaf, PARAMS)
        w = models.weights_of(MODEL, params, some.statistics)
        plain = algorithms.excess(w, some.oracle).mean()
        loss, metrics = self.variant(models.weights_loss(MODEL, 1e6))(params, some)
        np.testing.assert_allclose(loss, plain, rtol=1e-3)
        assert metrics["lost"] == 0
        assert self.variant(models.weights_loss(MODEL, 1.0))(params, some)[0] < plain


def test_equal_models_share_a_function_and_their_initial_parameters():
    equal = models.FreeDiagonalLinearTransformer(num_layers=4)
    assert models.weights_loss(MODEL, 10.0) is models.weights_loss(equal, 10.0)
    init = functools.partial(models.init_weights_model, MODEL, 10)
    params = init(jax.random.key(0))
    chex.assert_trees_all_equal_shapes(params, PARAMS)
    layers = models.weights_of(MODEL, params, contexts().statistics, True)
    chex.assert_shape(layers, (4, 8, 10))
    np.testing.assert_allclose(layers[-1], models.weights_of(MODEL, params, contexts().statistics))
