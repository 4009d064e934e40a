"""Regressions as pairs: a rotation each, laid out in a row of tokens."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import tasks

B, P, D = 2, 5, 4


def drawn(noise=0.0):
    return tasks.rotation_pairs(jax.random.key(0), tasks.RotationPairs(B, P, D, noise))


class Drawing(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_outputs_are_rotated_inputs(self):
        config = tasks.RotationPairs(B, P, D, noise=0.0)
        pairs = self.variant(lambda key: tasks.rotation_pairs(key, config))(jax.random.key(0))
        chex.assert_shape(pairs, (B, P, D))
        for x, y in zip(*map(np.asarray, pairs), strict=True):
            w = np.linalg.lstsq(x, y, rcond=None)[0]
            np.testing.assert_allclose(w @ w.T, np.eye(D), atol=1e-4)
        assert np.abs(pairs.x).max() <= 1

    @chex.variants(with_jit=True, without_jit=True)
    def test_pairs_in_a_row(self):
        pairs, eos, prefix = drawn(), jnp.full(D, 7.0), jnp.full((3, D), 8.0)
        tokens = self.variant(lambda *args: tasks.pairs_in_a_row(*args)[0])
        places = tasks.pairs_in_a_row(pairs, eos, prefix)[1]
        found = tokens(pairs, eos, prefix)
        chex.assert_shape(found, (B, 3 + 3 * P, D))
        np.testing.assert_array_equal(found[:, :3], jnp.broadcast_to(prefix[None], (B, 3, D)))
        np.testing.assert_array_equal(found[:, places], pairs.x)
        np.testing.assert_array_equal(found[:, places + 1], pairs.y)
        np.testing.assert_array_equal(
            found[:, places + 2], jnp.broadcast_to(eos[None, None], (B, P, D))
        )
        plain, places = tokens(pairs), tasks.pairs_in_a_row(pairs)[1]
        chex.assert_shape(plain, (B, 2 * P, D))
        np.testing.assert_array_equal(plain[:, places + 1], pairs.y)


def test_noise_is_that_of_the_outputs():
    noise = drawn(noise=0.1).y - drawn().y
    assert 0.07 < np.std(noise) < 0.13


@pytest.mark.parametrize("changes", [{"num_pairs": 0}, {"noise": -1.0}])
def test_what_cannot_be_drawn_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        tasks.RotationPairs(**changes)
