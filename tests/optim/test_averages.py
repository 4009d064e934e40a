"""L3RS with a mean of its iterates, and the parameters to evaluate at."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import optim
from tests.optim.conftest import PARAMS, loss, random_theta, run


def test_untrained_it_averages_as_schedule_free_does():
    thetas = [
        optim.l3rs_init(jax.random.key(0), PARAMS, num_bases=1, log_step=-5.5, average=average)
        for average in (True, False)
    ]
    ours = optim.l3rs(thetas[0], ("sgd",), 9, average=True)
    steps = optim.l3rs(thetas[1], ("sgd",), 9, anneal=False, fade=True)
    theirs = optax.contrib.schedule_free(steps, learning_rate=1.0, b1=0.9)
    params, state, _ = run(ours, 8)
    expected, other, _ = run(theirs, 8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), params, expected)
    means = optim.eval_params(state, params), optim.eval_params(other, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *means)


def test_the_mean_is_that_of_the_iterates_for_any_theta():
    theta = random_theta(average=True)
    optimizer = optax.chain(optax.clip(0.3), optim.l3rs(theta, num_steps=9, average=True))
    params, state = PARAMS, optimizer.init(PARAMS)
    mean = PARAMS
    for t in range(6):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        params = optax.apply_updates(params, updates)
        inner = state[1]
        # Whatever share the mean takes of the iterate, the same in all of a layer.
        after = optim.eval_params(state, params)
        for name in ("body", "head"):
            old, new, z = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree[name])])
                           for tree in (mean, after, inner.iterate))  # fmt: skip
            share = np.dot(new - old, z - old) / np.dot(z - old, z - old)
            np.testing.assert_allclose(new, old + share * (z - old), atol=3e-6)
            assert share == pytest.approx(1, abs=1e-4) if t == 0 else 0 < share < 1
        mean = after


def test_what_averages_has_defaults_of_its_own():
    """No momentum and no cosine; a user who sets nothing gets what the contest races."""
    theta = optim.l3rs_init(jax.random.key(0), PARAMS, average=True)
    assert theta["log_step"] > optim.l3rs_init(jax.random.key(0), PARAMS)["log_step"]
    ends = []
    for settings in ({}, {"base_optimizers": ("sgd", "rmsprop"), "anneal": False, "fade": True}):
        params, _, seen = run(optim.l3rs(theta, num_steps=4, average=True, **settings), 6)
        ends.append(params)
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert seen[-1][2]["head"]["kernel"].any()  # steps go on behind the horizon


def test_averages_outlive_bfloat16():
    theta = optim.l3rs_init(jax.random.key(0), PARAMS, log_step=-5.8, average=True)
    optimizer = optim.l3rs(theta, num_steps=200, average=True)
    found = []
    for kind in (jnp.float32, jnp.bfloat16):
        params, state, _ = run(optimizer, 200, optax.tree.cast(PARAMS, kind))
        used = optim.eval_params(state, params)
        assert {a.dtype for a in jax.tree.leaves(used)} == {jnp.dtype(kind)}
        assert {a.dtype for a in jax.tree.leaves(state.mean)} == {jnp.dtype(jnp.float32)}
        assert {a.dtype for a in jax.tree.leaves(state.bases[1].nu)} == {jnp.dtype(jnp.float32)}
        found.append(float(loss(optax.tree.cast(state.mean, jnp.float32))))
    whole, half = found
    start = float(loss(PARAMS))
    assert whole < 0.5 * start and half < whole + 0.1 * start


def test_what_is_tested_is_found_inside_of_others():
    theta = random_theta(average=True)
    averaging = optim.l3rs(theta, num_steps=9, average=True)
    params, state, _ = run(averaging, 3)
    expected = optim.eval_params(state, params)
    for wrapped in (
        optax.apply_if_finite(optax.chain(optax.clip(9.0), averaging), 3),
        optax.inject_hyperparams(
            lambda learning_rate: optim.l3rs(
                theta, num_steps=9, learning_rate=learning_rate, average=True
            )
        )(1.0),
    ):
        params, state, _ = run(optax.with_extra_args_support(wrapped), 3)
        found = optim.eval_params(state, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
    adam = optax.adam(1e-3)
    assert optim.eval_params(adam.init(PARAMS), PARAMS) is PARAMS
    free = optim.make("schedule_free_adamw", learning_rate=1e-2)
    with pytest.raises(ValueError, match="all these parameters"):
        optim.eval_params(state, PARAMS["body"])
    with pytest.raises(ValueError, match="2 optimizers"):
        optim.eval_params((free.init(PARAMS), free.init(PARAMS)), PARAMS)
