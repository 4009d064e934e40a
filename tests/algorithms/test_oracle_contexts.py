"""The oracle of noisy contexts, and the loss that everything is compared by."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ico import algorithms, tasks
from ico.types import Episode, Prompt


class Excess(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_is_the_expected_adjusted_loss(self):
        """Over queries x ~ N(0, I) the paper's adjusted loss has this mean, and more variance."""
        task = tasks.NoisyRegression(50_000, num_inputs=3, num_context=8, noise=2.0)
        drawn = jax.jit(tasks.noisy_context, static_argnums=1)(jax.random.key(0), task)
        test = algorithms.with_oracle(drawn, tasks.NoisePrior.of(2.0))
        w = 0.8 * test.oracle
        x = jax.random.normal(jax.random.key(1), w.shape)

        def half_square(weights):
            return 0.5 * jnp.sum((weights - test.truth) * x, 1) ** 2

        ours = np.asarray(self.variant(algorithms.excess)(w, test.oracle))
        raw = np.asarray(half_square(w) - half_square(test.oracle))
        gap = raw - ours
        assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(gap.size)
        assert raw.std() > 3 * ours.std()


class Linear(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_the_best_of_a_grid_has_the_least_loss_of_ridge(self):
        x_key, w_key, e_key = jax.random.split(jax.random.key(0), 3)
        x, w = jax.random.normal(x_key, (500, 12, 4)), jax.random.normal(w_key, (500, 4))
        y = jnp.einsum("bnd,bd->bn", x, w)[..., None]
        clean = Episode(Prompt(x[:, :8], y[:, :8], x[:, 8:]), y[:, 8:])
        noisy = tasks.with_label_noise(e_key, clean, 2.0)
        grid = jnp.array([1e-3, 4.0, 1e3])  # 4 is the noise variance: the posterior mean
        assert self.variant(algorithms.best_noise_variance)(noisy, grid) == 4.0
        assert self.variant(algorithms.best_noise_variance)(clean, grid) == grid[0]
        losses_B = self.variant(algorithms.linear_losses)(w, noisy)
        np.testing.assert_allclose(losses_B, 0, atol=1e-10)
        zero_B = algorithms.linear_losses(0 * w, noisy)
        np.testing.assert_allclose(zero_B, 0.5 * np.square(y[:, 8:]).mean((1, 2)), rtol=1e-5)
