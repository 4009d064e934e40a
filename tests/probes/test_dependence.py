"""Token dependence: of a linear layer it is the layer's own matrix."""

import chex
import jax
import jax.numpy as jnp

from ico.probes import token_dependence


class TokenDependenceTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_of_a_layer_that_mixes_tokens_linearly_it_is_the_mixing(self):
        """Each entry times the norm of a vector of ones, the gradient of a sum over E."""
        mixing_TT = jax.random.normal(jax.random.key(0), (4, 4))
        tokens = jax.random.normal(jax.random.key(1), (3, 4, 5))

        def layer(tokens):
            return jnp.einsum("ji,bie->bje", mixing_TT, tokens)

        found = self.variant(lambda tokens: token_dependence(layer, tokens))(tokens)
        chex.assert_trees_all_close(found, jnp.abs(mixing_TT) * 5**0.5, rtol=1e-5)

    def test_opposite_dependence_in_two_tasks_cancels(self):
        sign_B = jnp.array([1.0, -1.0])[:, None, None]
        tokens = jnp.ones((2, 3, 2))
        found = token_dependence(lambda tokens: sign_B * tokens, tokens)
        chex.assert_trees_all_close(found, jnp.zeros((3, 3)))
