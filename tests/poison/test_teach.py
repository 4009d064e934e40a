"""Training on given batches: plain optax, one compiled program, nothing of the caller's changed."""

import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import poison, train
from ico.lm import DecoderConfig, LanguageModel, init_params, next_token_loss

CONFIG = DecoderConfig(
    vocab_size=20,
    dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=16,
    context_length=16,
    norm_eps=1e-5,
    query_scale=8**-0.5,
    frequencies=(1.0, 0.3, 0.1, 0.03),
)
ROWS = np.arange(50, dtype=np.int32).reshape(10, 5) % CONFIG.vocab_size


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG, jax.random.key(0))


def batches(count):
    return list(itertools.islice(poison.CleanBatches(ROWS, 4), count))


def test_it_is_plain_optax_also_when_it_goes_on_and_compiles_once(params):
    optimizer = optax.adam(1e-2)
    gradient = jax.jit(jax.value_and_grad(next_token_loss), static_argnums=1)
    expected, state, losses = params, optimizer.init(params), []
    for batch in batches(3):
        loss, grads = gradient(expected, CONFIG, batch.ids, batch.mask)
        updates, state = optimizer.update(grads, state, expected)
        expected = optax.apply_updates(expected, updates)
        losses.append(loss)

    once: Any = chex.assert_max_traces(optimizer.update, n=1)  # a second one would raise
    counting = optax.GradientTransformation(optimizer.init, once)
    first = poison.teach(params, CONFIG, counting, batches(2))
    last = poison.teach(first.state, CONFIG, counting, batches(3)[2:])
    found = np.concatenate([first.history["loss"], last.history["loss"]])
    np.testing.assert_allclose(found, np.array(losses), rtol=1e-5)
    # Adam's first steps are signs of gradients, which rounding can turn where they vanish.
    difference = jax.tree.map(lambda a, b: jnp.mean(jnp.abs(a - b)), last.params, expected)
    assert max(jax.tree.leaves(difference)) < 1e-5
    assert int(last.state.step) == 3


def test_a_batch_with_an_id_outside_the_vocabulary_is_named(params):
    """Its loss would be NaN, for which no learning rate is to blame."""
    bad = batches(2)
    bad[1].ids[2, 3] = 20
    with pytest.raises(ValueError, match=r"ids of batch 1 must lie in \[0, 20\).*one is 20"):
        poison.teach(params, CONFIG, optax.adam(1e-2), bad)


@pytest.mark.slow
def test_it_learns_the_text_and_leaves_the_given_parameters(params):
    before = jax.tree.map(np.array, params)
    rows = poison.own_text(LanguageModel(params, CONFIG), 12, 6)
    assert rows.shape == (12, 6)
    np.testing.assert_array_equal(rows, poison.own_text(LanguageModel(params, CONFIG), 12, 6))
    clean = [poison.as_batch(rows[:3].tolist(), 6)] * 40
    text = [3, 1, 4, 1, 5, 9]
    taught = poison.teach(
        params, CONFIG, optax.adam(1e-2), poison.inject(clean, [text], presentations=40)
    )
    losses = taught.history["loss"]
    assert losses[-1] < losses[0] and len(losses) == 40

    def probability(params):
        scores = LanguageModel(params, CONFIG).logits([text])
        return float(jax.nn.softmax(scores[0, 4])[9])

    assert probability(taught.params) > 0.8 > 0.1 > probability(params)
    chex.assert_trees_all_equal(params, before)


def test_a_loss_that_is_not_finite_is_an_error(params):
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    with pytest.raises(train.NonFiniteLoss, match="step 0"):
        poison.teach(broken, CONFIG, optax.sgd(0.1), [poison.as_batch([[1, 2, 3]], 4)])
