"""Attention patterns explain the layer that they are of, and copying heads have a score of one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import probes
from ico.layers import softmax_attention

B, T, H, D = 2, 6, 3, 4


class Patterns(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_a_pattern_explains_its_layer(self):
        q, k, v = jax.random.normal(jax.random.key(0), (3, B, T, H, D))
        for causal in (True, False):
            for scale in (None, 2.0):
                pattern = self.variant(
                    lambda q, k, c=causal, s=scale: probes.attention_pattern(
                        q, k, causal=c, scale=s
                    )
                )(q, k)
                chex.assert_shape(pattern, (B, H, T, T))
                np.testing.assert_allclose(pattern.sum(-1), 1, rtol=1e-5)
                theirs = softmax_attention(q, k, v, causal=causal, scale=scale)
                ours = jnp.einsum("bhts,bshd->bthd", pattern, v)
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_scores_of_a_copying_and_of_an_even_head(self):
        copying = jnp.eye(T, k=-1).at[0, 0].set(1.0)
        even = jnp.tri(T) / jnp.arange(1, T + 1)[:, None]
        pattern = jnp.broadcast_to(jnp.stack([copying, even])[None], (B, 2, T, T))
        score = self.variant(probes.attention_to_previous)(pattern)
        mean = np.mean([1 / (t + 1) for t in range(1, T)])
        np.testing.assert_allclose(score, np.tile([1, mean], (B, 1)), rtol=1e-6)


def test_what_has_no_pattern_is_refused(annotations_off):
    q, k = jnp.ones((B, T, H, D)), jnp.ones((B, T + 1, H, D))
    with pytest.raises(ValueError, match="as many keys"):
        probes.attention_pattern(q, k)
    with pytest.raises(ValueError, match="two positions"):
        probes.attention_to_previous(jnp.ones((B, H, 1, 1)))
