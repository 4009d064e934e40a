"""Toeplitz matrices of coefficients by distance, and the attention that they gate."""

import doctest

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from absl.testing import parameterized

from ico.layers import _toeplitz, linear_attention, softmax_attention, toeplitz


def test_docstring():
    assert doctest.testmod(_toeplitz).failed == 0


class ToeplitzTest(chex.TestCase):
    """With and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((5, 5, 9), (3, 5, 9), (5, 2, 9), (4, 4, 11), (1, 1, 1), (0, 3, 5))
    def test_it_is_scipys(self, T, S, R):
        c = np.random.default_rng(0).normal(size=(2, R)).astype(np.float32)
        ours = self.variant(lambda c: toeplitz(c, T, S))(jnp.asarray(c))
        chex.assert_shape(ours, (2, T, S))
        middle = R // 2
        for h in range(2 if T else 0):
            column, row = c[h, : middle + 1][::-1][:T], c[h, middle:][:S]
            np.testing.assert_array_equal(ours[h], scipy.linalg.toeplitz(column, row))

    @chex.variants(with_jit=True, without_jit=True)
    def test_gradient_counts_the_pairs_at_each_distance(self):
        def total(c):
            return toeplitz(c, 4, 3).sum()

        counts = self.variant(jax.grad(total))(jnp.ones((1, 7)))
        np.testing.assert_array_equal(counts[0], [1, 2, 3, 3, 2, 1, 0])


@pytest.mark.parametrize(("T", "R"), [(3, 4), (4, 5)])
def test_too_few_or_an_even_number_of_coefficients_are_refused(T, R):
    with pytest.raises(ValueError, match=f"{2 * T - 1} coefficients.*not {R}"):
        toeplitz(jnp.ones((1, R)), T, T)


@pytest.mark.parametrize("causal", [True, False])
def test_only_a_gate_tells_identical_tokens_apart(causal):
    """Softmax weights sum to one: of equal values every mean is the same, whatever the bias."""
    x = jnp.broadcast_to(jnp.array([0.3, -1.0, 2.0]), (1, 6, 1, 3))
    c = jnp.asarray(np.random.default_rng(0).normal(size=(1, 11)), jnp.float32)
    matrix = toeplitz(c, 6, 6)[None]
    biased = softmax_attention(x, x, x, causal=causal, bias=matrix)
    chex.assert_trees_all_close(biased, x, rtol=1e-5)
    gated = softmax_attention(x, x, x, causal=causal, gate=matrix)
    apart = np.abs(gated[0, :, 0, :, None] - gated[0, :, 0, :, None].T).max((1, 2))
    assert (apart > 1e-3).all()
    linear = linear_attention(x, x, x, causal=causal, gate=matrix, form="parallel")
    assert np.ptp(linear[0, :, 0, 0]) > 1e-2
