"""Properties of the decoder, for every family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import lm
from ico.lm import Cache, hidden_states, logits
from tests.lm.conftest import random_model

# One program instead of many small ones.
run = jax.jit(hidden_states, static_argnums=1)
IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8]], np.int32)


def test_no_token_sees_a_later_one(model):
    embedded = model.params["embedding"][IDS]

    def read(embedded_BTD, place):
        # One word a place, so that its vector may vary.
        params = {**model.params, "embedding": embedded_BTD.reshape(20, -1)}
        if model.config.tied:
            config = dataclasses.replace(model.config, vocab_size=20)
        else:
            config = model.config
        ids = jnp.arange(20).reshape(2, 10)
        return hidden_states(params, config, ids)[0][:, place].sum()

    slope = jax.jit(jax.grad(read))
    for place in (0, 4, 9):
        gradient = np.abs(slope(embedded, place)).sum(-1)
        assert (gradient[:, place + 1 :] == 0).all() and (gradient[:, place] > 0).all()


def test_a_window_hides_what_is_further_back():
    """With one local layer alone, token t depends on tokens t - 2 to t."""
    model = random_model("gemma3", num_layers=1, local_layers=(True,))

    def read(ids):
        return np.asarray(run(model.params, model.config, ids)[0])[:, 9]

    changed = IDS.copy()
    changed[:, :7] = 0
    np.testing.assert_allclose(read(changed), read(IDS), atol=1e-6)
    changed[:, 7] = 0
    assert np.abs(read(changed) - read(IDS)).max() > 1e-3


def test_cached_steps_are_the_whole_sequence(model):
    whole, _ = run(model.params, model.config, IDS)
    shape = (model.config.num_layers, 2, 12, model.config.num_kv_heads, model.config.head_dim)
    cache = Cache(jnp.zeros(shape), jnp.zeros(shape))
    first, cache = run(model.params, model.config, IDS[:, :6], cache=cache)
    rows = [first]
    for place in range(6, 10):
        positions = np.full((2, 1), place)
        row, cache = run(
            model.params, model.config, IDS[:, place, None], positions=positions, cache=cache
        )
        rows.append(row)
    np.testing.assert_allclose(np.concatenate(rows, axis=1), whole, atol=2e-5)


def test_packed_sequences_do_not_see_each_other(model):
    apart = [run(model.params, model.config, IDS[:1, a:b])[0] for a, b in ((0, 4), (4, 10))]
    packed, _ = run(
        model.params,
        model.config,
        IDS[:1],
        positions=np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]]),
        segment_ids=np.array([[0] * 4 + [1] * 6]),
    )
    np.testing.assert_allclose(packed, np.concatenate(apart, axis=1), atol=2e-5)


@pytest.mark.slow  # compilation of three backward passes
def test_remat_changes_no_gradient(model):
    def loss(params, remat):
        return lm.next_token_loss(params, model.config, IDS, np.ones(IDS.shape), remat=remat)

    plain, again = (jax.grad(loss)(model.params, remat) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, again)


def test_log_probs_are_those_of_a_log_softmax(model):
    scores = jax.nn.log_softmax(model.logits(IDS), axis=-1)
    wanted = np.take_along_axis(np.asarray(scores)[:, :-1], IDS[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(
        lm.token_log_probs(model.params, model.config, IDS), wanted, atol=1e-5
    )


@pytest.mark.slow  # run op by op, in float64
def test_gradient_is_that_of_differences_in_float64(model):
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), model.params)

        def loss(params):
            return lm.next_token_loss(params, model.config, IDS, np.ones(IDS.shape))

        direction = jax.tree.map(
            lambda a: jnp.asarray(np.random.default_rng(0).normal(size=a.shape)), params
        )
        at = lambda t: loss(jax.tree.map(lambda p, d: p + t * d, params, direction))  # noqa: E731
        slope = sum(
            jnp.vdot(g, d)
            for g, d in zip(
                jax.tree.leaves(jax.grad(loss)(params)), jax.tree.leaves(direction), strict=True
            )
        )
        np.testing.assert_allclose(slope, (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-5)


def test_logits_refuse_what_is_no_token(model):
    for bad in ([[37]], [[-1]], [[0] * 65]):
        with pytest.raises(ValueError):
            model.logits(bad)


def test_bfloat16_parameters_compute(model):
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), model.params)
    hidden, _ = hidden_states(params, model.config, IDS)
    scores = logits(params, model.config, hidden)
    assert hidden.dtype == jnp.bfloat16 and scores.dtype == jnp.float32
    exact = np.asarray(model.logits(IDS))
    assert np.abs(np.asarray(scores) - exact).mean() < 0.1 * exact.std()
