"""What no step moves: handed on whole, by seed or shared, never donated, never saved."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import train

CONFIG = train.LoopConfig(num_steps=20, steps_per_call=5, checkpoint_every=10)


def loss_fn(params, batch, given):
    error = batch @ params["w"] - batch @ given["target"]
    return given["scale"] * jnp.mean(error**2), {}


def sample(key, given):
    return given["scale"] * jax.random.normal(key, (8, 3))


def init_params(key):
    return {"w": jax.random.normal(key, (3,))}


OPTIMIZER = optax.sgd(0.1)
STEP = train.make_step(loss_fn, OPTIMIZER)
TARGETS = jnp.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
GIVEN = {"target": TARGETS, "scale": jnp.float32(0.7)}
AXES = {"target": 0, "scale": None}


def state(key):
    return train.init_state(init_params, OPTIMIZER, key)


def distance(params, given):
    return {"distance": jnp.linalg.norm(params["w"] - given["target"])}


def test_by_seed_and_shared_equal_runs_of_their_own():
    keys = jax.random.split(jax.random.key(0), 2)
    fit = lambda s, g, a: train.fit(STEP, s, sample, CONFIG, given=g, given_axes=a,  # noqa: E731
                                    evaluate=distance)  # fmt: skip
    both = fit(state(keys), GIVEN, AXES)
    for seed in (0, 1):
        alone = fit(state(keys[seed]), GIVEN | {"target": TARGETS[seed]}, None)
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, s=seed: leaf[s], both.params), alone.params, rtol=1e-5
        )
        np.testing.assert_allclose(
            both.history["eval/distance"][:, seed], alone.history["eval/distance"], rtol=1e-5
        )
    assert both.history["eval/distance"][-1].max() < 0.5 * 3  # it moves towards its own target


def test_it_stays_usable_and_another_value_compiles_nothing():
    traces = []

    def counted(params, batch, given):
        traces.append(1)
        return loss_fn(params, batch, given)

    step = train.make_step(counted, OPTIMIZER)
    keys = jax.random.split(jax.random.key(0), 2)
    train.fit(step, state(keys), sample, CONFIG, given=GIVEN, given_axes=AXES)
    once = len(traces)
    other = jax.tree.map(lambda leaf: 2 * leaf, GIVEN)  # also: GIVEN has not been donated
    train.fit(step, state(keys), sample, CONFIG, given=other, given_axes=AXES)
    assert len(traces) == once


def test_a_resumed_run_needs_it_again_and_no_checkpoint_holds_it(tmp_path):
    key = jax.random.key(1)
    given = GIVEN | {"target": TARGETS[0], "large": jnp.zeros(200_000)}
    whole = train.fit(STEP, state(key), sample, CONFIG, given=given)
    half = train.LoopConfig(num_steps=10, steps_per_call=5)
    train.fit(STEP, state(key), sample, half, given=given, directory=tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size < 200_000  # bytes; the unmoved array alone has four times as many
    resumed = train.fit(STEP, state(key), sample, CONFIG, given=given, directory=tmp_path)
    chex.assert_trees_all_equal(resumed.params, whole.params)


def test_a_stream_beside_it():
    class Rows:
        count = 0

        def __next__(self):
            self.count += 1
            return np.random.default_rng(self.count).normal(size=(8, 3)).astype(np.float32)

        def position(self):
            return self.count

        def restore(self, position):
            self.count = position

    given = GIVEN | {"target": TARGETS[0]}
    found = train.fit(STEP, state(jax.random.key(0)), Rows(), CONFIG, given=given)
    params, rows = state(jax.random.key(0)).params, Rows()
    for _ in range(20):
        grads = jax.grad(lambda p, b: loss_fn(p, b, given)[0])(params, next(rows))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    chex.assert_trees_all_close(found.params, params, rtol=1e-5)


def test_evaluation_and_result_are_at_the_averaged_parameters():
    optimizer = optax.contrib.schedule_free_sgd(0.1, b1=0.9)
    step = train.make_step(lambda p, b: (jnp.mean((b @ p["w"] - b.sum(-1)) ** 2), {}), optimizer)
    start = train.init_state(init_params, optimizer, jax.random.split(jax.random.key(0), 2))
    result = train.fit(
        step,
        start,
        lambda key: jax.random.normal(key, (8, 3)),
        CONFIG,
        evaluate=lambda params: {"w": params["w"]},
    )
    averaged = jax.vmap(optax.contrib.schedule_free_eval_params)(
        result.state.opt_state, result.state.params
    )
    assert np.abs(averaged["w"] - result.state.params["w"]).max() > 1e-3
    chex.assert_trees_all_close(result.params, averaged, rtol=1e-6)
    np.testing.assert_allclose(result.history["eval/w"][-1], averaged["w"], rtol=1e-6)


def test_evaluation_at_chosen_steps_changes_no_number():
    key = jax.random.key(2)
    given = GIVEN | {"target": TARGETS[0]}
    at = (1, 2, 7, 13)
    config = train.LoopConfig(num_steps=20, steps_per_call=5, evaluate_at=at)
    some = train.fit(STEP, state(key), sample, config, given=given, evaluate=distance)
    np.testing.assert_array_equal(some.history["eval/step"], [*at, 20])
    plain = train.fit(STEP, state(key), sample, CONFIG, given=given, evaluate=distance)
    chex.assert_trees_all_close(some.params, plain.params, rtol=1e-6)
    for step in at:
        short = train.LoopConfig(num_steps=step, steps_per_call=5)
        alone = train.fit(STEP, state(key), sample, short, given=given)
        np.testing.assert_allclose(
            some.history["eval/distance"][at.index(step)],
            np.linalg.norm(alone.params["w"] - TARGETS[0]),
            rtol=1e-5,
        )


@pytest.mark.parametrize("donate", [False, True])
def test_only_a_state_that_is_given_up_is_used_up(donate):
    start = state(jax.random.key(0))
    given = GIVEN | {"target": TARGETS[0]}
    result = train.fit(STEP, start, sample, CONFIG, given=given, donate=donate)
    chex.assert_tree_all_finite(result.params)
    if not donate:
        chex.assert_tree_all_finite(start.params)
    else:
        assert start.params["w"].is_deleted()
