"""The choice of the next token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.lm import generate_ids
from ico.lm._sample import choose

LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))


def draws(temperature, top_p, count=4000):
    keys = jax.random.split(jax.random.key(0), count)
    chosen = jax.vmap(lambda key: choose(LOGITS, key, temperature, top_p)[0])(keys)
    return np.bincount(np.asarray(chosen), minlength=4) / count


@pytest.mark.parametrize(
    ("temperature", "top_p", "wanted"),
    [
        (0.0, 1.0, [1, 0, 0, 0]),
        (1.0, 1.0, [0.5, 0.3, 0.15, 0.05]),
        (1.0, 0.5, [1, 0, 0, 0]),
        (1.0, 0.6, [0.625, 0.375, 0, 0]),
        (0.5, 1.0, np.array([0.25, 0.09, 0.0225, 0.0025]) / 0.365),
    ],
)
def test_frequencies_are_the_probabilities(temperature, top_p, wanted):
    np.testing.assert_allclose(draws(temperature, top_p), wanted, atol=0.03)


def test_a_seed_gives_the_same_tokens_and_ends_at_the_end(model):
    def tokens(seed, **options):
        return generate_ids(
            model.params, model.config, [[1, 2, 3], [4]], max_tokens=8, seed=seed, **options
        )

    assert tokens(0, temperature=2.0) == tokens(0, temperature=2.0)
    assert tokens(0, temperature=2.0) != tokens(1, temperature=2.0)
    greedy = tokens(0)
    assert all(len(row) == 8 for row in greedy)
    cut = tokens(0, eos_id=greedy[0][3])
    assert cut[0] == greedy[0][: greedy[0].index(greedy[0][3])]


def test_what_cannot_be_sampled_is_refused(model):
    for options in ({"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_tokens": 99}):
        with pytest.raises(ValueError):
            generate_ids(model.params, model.config, [[1]], **{"max_tokens": 4, **options})
    with pytest.raises(ValueError, match="no tokens"):
        generate_ids(model.params, model.config, [[1], []], max_tokens=4)
