"""Properties of the decoder, for every family."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized
from hypothesis import given
from hypothesis import strategies as st

from ico import lm
from ico.lm import Cache, WeightFileError, hidden_states, logits
from ico.lm._decoder import segment_positions
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


PACKED = [(0, 4), (4, 5), (5, 10)]  # the segments of a row; one has a single token
SEGMENTS = np.array([[7, 7, 7, 7, 2, 0, 0, 0, 0, 0]])  # any numbers


@functools.partial(jax.jit, static_argnums=1)
def everything(params, config, ids, mask, segment_ids=None):
    sides = {"segment_ids": segment_ids}
    hidden, _ = hidden_states(params, config, ids, **sides)
    log_probs = lm.token_log_probs(params, config, ids, **sides)
    return hidden, log_probs, lm.next_token_loss(params, config, ids, mask, **sides)


def test_packed_sequences_are_as_if_they_stood_alone(model):
    """Positions begin anew in each, without being told, and its first token is no target."""
    params, config, mask = model.params, model.config, np.ones((1, 10))
    packed, log_probs, loss = everything(params, config, IDS[:1], mask, SEGMENTS)
    alone = np.zeros((len(PACKED), 10), np.int32)  # padded on the right
    for row, (first, last) in zip(alone, PACKED, strict=True):
        row[: last - first] = IDS[0, first:last]
    wanted, wanted_log_probs, _ = everything(params, config, alone, np.ones(alone.shape))
    total = 0.0
    for row, (first, last) in enumerate(PACKED):
        length = last - first
        chex.assert_trees_all_close(packed[0, first:last], wanted[row, :length], atol=2e-5)
        scores = wanted_log_probs[row, : length - 1]
        chex.assert_trees_all_close(log_probs[0, first : last - 1], scores, atol=2e-5)
        total -= float(scores.sum())
    chex.assert_trees_all_equal(log_probs[0, jnp.array([3, 4])], jnp.zeros(2))
    np.testing.assert_allclose(loss, total / (3 + 4), rtol=1e-5)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_a_position_counts_the_tokens_before_it_in_its_segment(segments):
    """Also where a segment is in pieces."""
    wanted = [segments[:i].count(segment) for i, segment in enumerate(segments)]
    padded = np.array([segments + [9] * (12 - len(segments))])
    chex.assert_trees_all_equal(segment_positions(padded)[0, : len(segments)], np.array(wanted))


def test_a_packed_row_may_be_longer_than_the_context():
    """GPT-2 has a vector for each position, and a segment is what must fit."""
    model = random_model("gpt2", context_length=5)
    with pytest.raises(ValueError, match="positions must lie in .0, 5., the model's context"):
        hidden_states(model.params, model.config, IDS)
    with pytest.raises(ValueError, match="positions"):
        jax.eval_shape(lambda ids: hidden_states(model.params, model.config, ids), IDS)
    found = run(model.params, model.config, IDS[:1], segment_ids=SEGMENTS)[0]
    chex.assert_tree_all_finite(found)
    with pytest.raises(ValueError, match="positions"):
        hidden_states(model.params, model.config, IDS[:1], segment_ids=0 * SEGMENTS)


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


BAD_IDS = (37, -1, -100, 2**31 - 1)


@pytest.mark.parametrize("bad", BAD_IDS)
def test_what_is_no_token_is_refused_by_every_function(bad):
    model = random_model("llama")
    params, config, ids = model.params, model.config, np.array([[1, bad, 2]], np.int32)
    for refuse in (
        lambda: model.logits(ids),
        lambda: hidden_states(params, config, jnp.asarray(ids)),
        lambda: lm.token_log_probs(params, config, ids),
        lambda: jax.grad(lm.next_token_loss)(params, config, ids, np.ones(ids.shape)),
        lambda: lm.score_continuations(params, config, [[1]], [[2, bad]]),
        lambda: lm.score_continuations(params, config, [[bad, 1]], [[2]]),
        lambda: lm.generate_ids(params, config, [[1, 2], [bad]], max_tokens=2),
        lambda: lm.generate_ids(params, config, [[1]], max_tokens=2, eos_id=[1, bad]),
    ):
        with pytest.raises(ValueError, match=f"must lie in .0, 37., the vocabulary; one is {bad}"):
            refuse()
    # Compiled code cannot raise, but it takes no other token in its place.
    scores = jax.jit(lm.token_log_probs, static_argnums=1)
    for place in range(3):
        found = np.asarray(scores(params, config, np.roll(ids, place - 1, axis=1)))
        assert np.isnan(found[0, max(place - 1, 0) :]).all()


def test_ids_that_no_model_takes_are_refused(model):
    for bad in ([[0] * 65], [[]], np.zeros((1, 0), np.int32)):
        with pytest.raises(ValueError):
            model.logits(bad)
    shape = (model.config.num_layers, 1, 4, model.config.num_kv_heads, model.config.head_dim)
    cache = Cache(jnp.zeros(shape), jnp.zeros(shape))
    with pytest.raises(ValueError, match="segment_ids cannot be used with a cache"):
        hidden_states(model.params, model.config, IDS[:, :2], segment_ids=IDS[:, :2], cache=cache)


def test_outputs_that_are_not_finite_are_not_returned():
    """A greedy choice among NaN is token 0, over and over."""
    model = random_model("llama", tied=True, num_layers=1)
    for value in (np.nan, np.inf):
        params = {**model.params, "embedding": model.params["embedding"].at[9].set(value)}
        broken = dataclasses.replace(model, params=params)
        for refuse in (
            lambda broken=broken: broken.logits([[1, 2]]),
            lambda p=params: lm.score_continuations(p, model.config, [[1]], [[2]]),
            lambda p=params: lm.generate_ids(p, model.config, [[1, 2]], max_tokens=4),
        ):
            with pytest.raises(ValueError, match="not finite"):
                refuse()


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
        ({"norm_eps": -1e-6}, "norm_eps"),
        ({"logit_cap": -3.0}, "logit_cap"),
        ({"score_cap": float("inf")}, "score_cap"),
        ({"frequencies": (1.0, 0.1)}, "frequencies"),
        ({"frequencies": (1.0, 0.1, float("nan"), 0.0)}, "frequencies"),
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
