"""The choice of the next token."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from ico.lm import _sample, generate_ids
from ico.lm._sample import choose
from tests.lm.conftest import random_model

LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))


def draws(variant, temperature, top_p, count=4000):
    keys = jax.random.split(jax.random.key(0), count)
    chosen = variant(jax.vmap(lambda key: choose(LOGITS, key, temperature, top_p)[0]))(keys)
    return np.bincount(np.asarray(chosen), minlength=4) / count


class ChooseTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(
        (0.0, 1.0, (1, 0, 0, 0)),
        (1.0, 1.0, (0.5, 0.3, 0.15, 0.05)),
        (1.0, 0.45, (1, 0, 0, 0)),
        (1.0, 0.6, (0.625, 0.375, 0, 0)),
        # Probabilities squared, and divided by their sum.
        (0.5, 1.0, (0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365)),
    )
    def test_frequencies_are_the_probabilities(self, temperature, top_p, wanted):
        found = draws(self.variant, temperature, top_p)
        np.testing.assert_allclose(found, wanted, atol=0.03)


def test_a_seed_gives_the_same_tokens_and_ends_at_the_end(model):
    def tokens(seed, **options):
        return generate_ids(
            model.params, model.config, [[1, 2, 3], [4]], max_tokens=8, seed=seed, **options
        )

    assert tokens(0, temperature=2.0) == tokens(0, temperature=2.0)
    assert tokens(0, temperature=2.0) != tokens(1, temperature=2.0)
    greedy = tokens(0)
    assert all(len(row) == 8 for row in greedy)
    for ends in (greedy[0][3], [greedy[0][3]], greedy[0][:4:3]):
        cut = tokens(0, eos_id=ends)
        first = min(greedy[0].index(end) for end in np.atleast_1d(ends))
        assert cut[0] == greedy[0][:first]


def test_sampling_compiles_once_for_a_bucket_of_lengths(monkeypatch):
    """Other lengths of the bucket, seeds, temperatures and end tokens compile nothing new."""
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(_sample._generate.__wrapped__, n=1)
    monkeypatch.setattr(_sample, "_generate", jax.jit(counted, static_argnums=(1, 4)))
    model = random_model("llama")
    for seed, prompt in enumerate(([1, 2, 3], [4], [5] * 16)):
        found = generate_ids(
            model.params,
            model.config,
            [prompt],
            max_tokens=4,
            seed=seed,
            temperature=0.5 * seed,
            eos_id=seed,
        )
        assert len(found) == 1 and len(found[0]) <= 4


def test_what_cannot_be_sampled_is_refused(model):
    for options in ({"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_tokens": 99}):
        with pytest.raises(ValueError):
            generate_ids(model.params, model.config, [[1]], **{"max_tokens": 4, **options})
    with pytest.raises(ValueError, match="no tokens"):
        generate_ids(model.params, model.config, [[1], []], max_tokens=4)
