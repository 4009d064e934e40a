"""Properties of the decoder, for every family."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized

from ico import lm
from ico.lm import Cache, WeightFileError, hidden_states, logits
from tests.lm.conftest import CONFIGS, random_model

# One program instead of many small ones.
run = jax.jit(hidden_states, static_argnums=1)
IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8]], np.int32)


def test_no_token_depends_on_a_later_one(model):
    embedded = model.params["embedding"][IDS]

    def read(embedded_BTD, place):
        # Every token is a word of its own, so that its vector may vary.
        params = {**model.params, "embedding": embedded_BTD.reshape(20, -1)}
        config = model.config
        if config.tied:
            config = dataclasses.replace(config, vocab_size=20)
        ids = jnp.arange(20).reshape(2, 10)
        return hidden_states(params, config, ids)[0][:, place].sum()

    slope = jax.jit(jax.grad(read))
    for place in (0, 4, 9):
        gradient = np.abs(slope(embedded, place)).sum(-1)
        assert (gradient[:, place + 1 :] == 0).all() and (gradient[:, place] > 0).all()


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_a_window_hides_earlier_tokens(family):
    """With one local layer alone, token t depends on tokens t - 2 to t, in any family."""
    model = random_model(family, num_layers=1, window=3, local_layers=(True,))

    def read(ids):
        return run(model.params, model.config, ids)[0][:, 9]

    changed = IDS.copy()
    changed[:, :7] = 0
    chex.assert_trees_all_close(read(changed), read(IDS), atol=1e-6)
    changed[:, 7] = 0
    assert np.abs(read(changed) - read(IDS)).max() > 1e-3


def test_cached_steps_equal_the_whole_sequence(model):
    whole, _ = run(model.params, model.config, IDS)
    chex.assert_shape(whole, (2, 10, model.config.dim))
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
    chex.assert_trees_all_close(jnp.concatenate(rows, axis=1), whole, atol=2e-5)
    chex.assert_shape(cache, shape)


def test_packed_sequences_do_not_attend_to_each_other(model):
    apart = [run(model.params, model.config, IDS[:1, a:b])[0] for a, b in ((0, 4), (4, 10))]
    packed, _ = run(
        model.params,
        model.config,
        IDS[:1],
        positions=np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]]),
        segment_ids=np.array([[0] * 4 + [1] * 6]),
    )
    chex.assert_trees_all_close(packed, jnp.concatenate(apart, axis=1), atol=2e-5)


class LogProbTest(chex.TestCase):
    """The pure functions, compiled and run operation by operation."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*sorted(CONFIGS))
    def test_log_probs_are_those_of_a_log_softmax(self, family):
        model = random_model(family)
        states = self.variant(lambda params, ids: hidden_states(params, model.config, ids)[0])
        scores = self.variant(lambda params, hidden: logits(params, model.config, hidden))
        hidden = states(model.params, IDS)
        whole = jax.nn.log_softmax(scores(model.params, hidden), axis=-1)
        chex.assert_shape(whole, (*IDS.shape, model.config.vocab_size))
        chex.assert_tree_all_finite(whole)
        log_probs = self.variant(lm.token_log_probs, static_argnums=1)
        found = log_probs(model.params, model.config, IDS)
        wanted = jnp.take_along_axis(whole[:, :-1], IDS[:, 1:, None], axis=-1)[..., 0]
        chex.assert_trees_all_close(found, wanted, atol=1e-5)


def test_equal_shapes_and_equal_configurations_compile_once(model):
    """A configuration is static by its value: a copy of it is no new one."""

    @chex.assert_max_traces(n=1)
    def scores(params, config, ids):
        return logits(params, config, hidden_states(params, config, ids)[0])

    chex.clear_trace_counter()
    compiled = jax.jit(scores, static_argnums=1)
    first = compiled(model.params, model.config, IDS)
    again = compiled(model.params, dataclasses.replace(model.config), IDS[::-1])
    chex.assert_trees_all_close(again[::-1], first, atol=1e-5)


@pytest.mark.slow  # compilation of three backward passes
def test_remat_changes_no_gradient(model):
    def loss(params, remat):
        return lm.next_token_loss(params, model.config, IDS, np.ones(IDS.shape), remat=remat)

    plain, again = (jax.grad(loss)(model.params, remat) for remat in (False, True))
    chex.assert_trees_all_close(plain, again, atol=1e-6)


def test_the_loss_is_the_mean_over_the_targets(model):
    log_probs = jax.jit(lm.token_log_probs, static_argnums=1)(model.params, model.config, IDS)
    mask = np.zeros(IDS.shape)
    mask[0, [0, 3]] = mask[1, 7] = 1  # the first token of a sequence is no target
    loss = jax.jit(lm.next_token_loss, static_argnums=1)
    wanted = -(log_probs[0, 2] + log_probs[1, 6]) / 2
    chex.assert_trees_all_close(loss(model.params, model.config, IDS, mask), wanted, atol=1e-5)


@pytest.mark.slow  # run op by op, in float64
def test_gradient_is_that_of_differences_in_float64(model):
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), model.params)

        def loss(params):
            return lm.next_token_loss(params, model.config, IDS, np.ones(IDS.shape))

        rng = np.random.default_rng(0)
        direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), params)

        def at(t):
            return loss(jax.tree.map(lambda p, d: p + t * d, params, direction))

        slope = optax.tree.vdot(jax.grad(loss)(params), direction)
        np.testing.assert_allclose(slope, (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-5)


def test_logits_refuse_what_is_no_token(model):
    for bad in ([[37]], [[-1]], [[0] * 65]):
        with pytest.raises(ValueError):
            model.logits(bad)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dim": 0}, "dim"),
        ({"vocab_size": True}, "vocab_size"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"norm": "batch"}, "norm"),
        ({"activation": "relu"}, "activation"),
        ({"head_dim": 7}, "head_dim"),
        ({"window": 3}, "local_layers"),
        ({"local_layers": (True,) * 4}, "window"),
        ({"embed_scale": float("nan")}, "embed_scale"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes, named, annotations_off):
    with pytest.raises(WeightFileError, match=named):
        dataclasses.replace(CONFIGS["llama"], **changes)


def test_bfloat16_parameters_compute(model):
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), model.params)
    hidden, _ = hidden_states(params, model.config, IDS)
    scores = logits(params, model.config, hidden)
    chex.assert_type([hidden, scores], [jnp.bfloat16, jnp.float32])
    exact = np.asarray(model.logits(IDS))
    assert np.abs(np.asarray(scores) - exact).mean() < 0.1 * exact.std()
