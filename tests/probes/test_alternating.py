"""Probes of alternating tokens: what a perfect copier, an own-reader and a matcher score."""

import chex
import jax.numpy as jnp
import numpy as np

from ico.probes import attention_to_partner, own_next_other, pair_share, token_dependence


def test_who_attends_to_the_partner_scores_one():
    partner = np.kron(np.eye(3), np.array([[0.0, 1.0], [1.0, 0.0]]))  # within pairs
    labels_alone = partner * (np.arange(6) % 2)[:, None]  # labels read inputs, inputs nothing
    of_x, of_y = attention_to_partner(np.stack([partner, labels_alone, np.eye(6)]))
    np.testing.assert_array_equal(of_x, [1, 0, 0])
    np.testing.assert_array_equal(of_y, [1, 1, 0])


class Dependence(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_own_next_and_other_inputs_are_told_apart(self):
        """Of the layer t_i + 2 t_{i+1} + 3 t_{i+2}."""
        tokens = jnp.ones((2, 6, 1))

        def layer(t):
            return t + 2 * jnp.roll(t, -1, axis=1) + 3 * jnp.roll(t, -2, axis=1)

        found = self.variant(own_next_other)(token_dependence(layer, tokens))
        np.testing.assert_allclose(found[0], np.ones(5), rtol=1e-6)
        np.testing.assert_allclose(found[1], 2 * np.ones(5), rtol=1e-6)
        np.testing.assert_allclose(found[2], 3 / 4 * np.ones(5), rtol=1e-6)  # one of four others

    @chex.variants(with_jit=True, without_jit=True)
    def test_shares_of_all_pairs_sum_to_one(self):
        scores = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 6)))
        shares = [self.variant(pair_share)(scores, jnp.full(4, pair)) for pair in range(3)]
        np.testing.assert_allclose(sum(shares), np.ones(4), rtol=1e-6)
        alone = jnp.zeros((1, 1, 6)).at[0, 0, 2:4].set(jnp.array([-1.0, 2.0]))
        assert self.variant(pair_share)(alone, jnp.array([1])) == 1
