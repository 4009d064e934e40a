"""Negative log-likelihoods of tokens against NumPy, whatever is added to all logits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ico import tasks


class Losses(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_losses_are_negative_log_likelihoods(self):
        logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
        targets = jnp.array([[0, 4, 2], [1, 1, 3]])
        ours = self.variant(tasks.token_losses)(logits, targets)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        theirs = -np.log(
            np.take_along_axis(np.asarray(p), np.asarray(targets)[..., None], -1)[..., 0]
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        half = self.variant(tasks.token_losses)(logits.astype(jnp.bfloat16), targets)
        exact = self.variant(tasks.token_losses)(
            logits.astype(jnp.bfloat16) + jnp.float32(0), targets
        )
        chex.assert_trees_all_equal(half, exact)  # in float32, not only at the end
        moved = self.variant(tasks.token_losses)(logits + 50, targets)
        np.testing.assert_allclose(moved, theirs, rtol=1e-4)
