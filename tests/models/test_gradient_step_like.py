"""A gradient step of next-vector prediction in the terms of any layer, and what lies between."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ico import models, tasks
from ico.algorithms import constructions, next_vector_gd

B, T, D = 3, 12, 4


def any_layer(seed=0):
    """Two heads with random scalars, and the model whose parameters they are."""
    rng = np.random.default_rng(seed)
    scalars = {name: jnp.asarray(rng.normal(size=(2, 4, 4)), jnp.float32) for name in ("kq", "pv")}
    model = models.SequenceTransformer(
        ("linear",), 4 * D, D, embed_dim=0, num_heads=2, head_dim=4 * D, position_dim=0
    )
    return model, models.from_block_scalars({"block_0": scalars}, D)


class Steps(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_it_is_that_step_whatever_the_layer(self):
        x = jax.random.normal(jax.random.key(0), (B, T, D))
        for seed in (0, 1):
            model, params = any_layer(seed)
            step = self.variant(lambda params: models.gradient_step_like(params, 0.3, D))(params)
            ours = model.apply({"params": step}, tasks.constructed_tokens(x))
            np.testing.assert_allclose(ours, 0.3 * next_vector_gd(x), rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(models.gradient_step_rate(step, D), 0.3, rtol=1e-4)

    @chex.variants(with_jit=True, without_jit=True)
    def test_the_rate_of_weights_written_by_hand(self):
        params = constructions.next_vector(0.7, num_inputs=D)
        rate = self.variant(lambda params: models.gradient_step_rate(params, D))(params)
        np.testing.assert_allclose(rate, 0.7, rtol=1e-5)


def test_halfway_lies_between_product_by_product():
    _, params = any_layer()
    step = models.gradient_step_like(params, 0.3, D)
    middle = models.average_products(params, step)
    each = (models.products(one["block_0"]) for one in (middle, params, step))
    for ours, a, b in zip(*each, strict=True):
        np.testing.assert_allclose(ours, (a + b) / 2, atol=1e-4)
