"""Preconditioning and one gradient step, against ridge regression, which it becomes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.algorithms import next_vector_ridge
from ico.models import PreconditionedStep, preconditioned_start

B, T, D = 3, 12, 4


class PreconditionedSteps(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_with_enough_steps_it_is_ridge_regression(self):
        """Richardson's iteration, rate below 2 over the largest eigenvalue."""
        x = jax.random.normal(jax.random.key(0), (B, T, D)) / 4
        model = PreconditionedStep(400)
        params = model.init(jax.random.key(0), x, x)["params"]
        chex.assert_shape((params["rate"], params["momentum"]), (400, 1))
        params |= {"rate": jnp.full((400, 1), np.log(0.3)), "reg": jnp.log(jnp.ones(1) / 2)}
        ours = self.variant(model.apply)({"params": params}, x, x)
        theirs = next_vector_ridge(x, x, [2.0])[0]
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.slow
def test_a_start_is_the_best_by_its_loss_and_does_not_diverge():
    """Of the regularisers and lower ends tried, on the sequences it is given."""
    x = jax.random.normal(jax.random.key(1), (20, T, D))
    model, tried = PreconditionedStep(3), []

    def loss(params):
        error = model.apply({"params": params}, x[:, :-1], x[:, :-1]) - x[:, 1:]
        tried.append((float(jnp.mean(error**2)), params))
        return tried[-1][0]

    start = preconditioned_start(x, 3, loss)
    losses = [value for value, _ in tried]
    chex.assert_trees_all_equal(start, tried[int(np.argmin(losses))][1])
    assert np.isfinite(losses).all() and max(losses) > min(losses)
    chex.assert_trees_all_equal_shapes(start, model.init(jax.random.key(0), x, x)["params"])
