"""The query stands in the context at its place, and the other pair is another."""

import chex
import jax
import numpy as np
import pytest

from ico.tasks import LinearRegression, linear_regression, repeated_query


class Repeated(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_the_query_is_the_input_at_its_place(self):
        prompt = linear_regression(jax.random.key(0), LinearRegression(200, 3, 1, 5)).prompt
        found = self.variant(repeated_query)(jax.random.key(1), prompt)
        at = np.asarray(prompt.x)[np.arange(200), np.asarray(found.place)]
        np.testing.assert_array_equal(found.prompt.x_query[:, 0], at)
        assert (found.place != found.other).all()
        for places in (found.place, found.other):
            assert set(np.asarray(places).tolist()) == set(range(5))


def test_one_pair_has_no_other():
    prompt = linear_regression(jax.random.key(0), LinearRegression(2, 3, 1, 1)).prompt
    with pytest.raises(ValueError, match="no other"):
        repeated_query(jax.random.key(1), prompt)
