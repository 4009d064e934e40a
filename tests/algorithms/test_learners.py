"""What every explicit learner owes: a context is a set, a query is answered by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.algorithms import gd, gd_plus_plus, newton, ridge

LEARNERS = {
    "gd": (functools.partial(gd, num_steps=3), {"rate": 0.4}),
    "gd_plus_plus": (functools.partial(gd_plus_plus, num_steps=3), {"rate": 0.4, "gamma": 0.03}),
    "ridge": (ridge, {"noise_variance": 0.2}),
    "newton": (functools.partial(newton, num_steps=2), {"rate": 0.8, "damping": 0.1}),
}


def jitted(name):
    apply, params = LEARNERS[name]
    return jax.jit(apply), params


each_learner = pytest.mark.parametrize("name", LEARNERS)


@each_learner
def test_the_order_of_the_context_is_nothing(name, make_episode, x64):
    apply, params = jitted(name)
    prompt = make_episode(0, 3, 7, 4, 2, 3).prompt
    order = np.random.default_rng(0).permutation(7)
    shuffled = prompt._replace(x=prompt.x[:, order], y=prompt.y[:, order])
    expected = apply(params, prompt)
    np.testing.assert_allclose(apply(params, shuffled), expected, atol=1e-13)
    broken = prompt._replace(y=prompt.y[:, order])
    assert np.abs(apply(params, broken) - expected).max() > 1e-2


@each_learner
def test_a_prediction_depends_on_its_own_query_and_task_only(name, make_episode, x64):
    apply, params = jitted(name)
    prompt = make_episode(1, 2, 5, 3, 2, 4).prompt
    jacobian = jax.jit(jax.jacrev(lambda prompt: apply(params, prompt)))(prompt)
    query_BQBQ = np.abs(jacobian.x_query).sum((2, 5))
    same = np.eye(8).reshape(2, 4, 2, 4) == 1
    assert (query_BQBQ[~same] == 0).all() and (query_BQBQ[same] > 0).all()
    for leaf in (jacobian.x, jacobian.y):
        by_task_BB = np.abs(leaf).sum((1, 2, 4, 5))
        assert (by_task_BB[~np.eye(2, dtype=bool)] == 0).all() and (by_task_BB.diagonal() > 0).all()


@each_learner
def test_predictions_are_linear_in_the_query_and_in_the_labels(name, make_episode, x64):
    apply, params = jitted(name)
    prompt = make_episode(2, 2, 5, 3, 2, 4).prompt
    expected = 3 * apply(params, prompt)
    for field in ("x_query", "y"):
        scaled = prompt._replace(**{field: 3 * getattr(prompt, field)})
        np.testing.assert_allclose(apply(params, scaled), expected, atol=1e-12)


@each_learner
def test_turning_the_inputs_turns_nothing(name, make_episode, x64):
    """No learner here prefers a direction of the input space."""
    apply, params = jitted(name)
    prompt = make_episode(3, 2, 5, 3, 2, 4).prompt
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0])
    turned = prompt._replace(x=prompt.x @ turn, x_query=prompt.x_query @ turn)
    np.testing.assert_allclose(apply(params, turned), apply(params, prompt), atol=1e-12)


@each_learner
def test_learners_take_traced_parameters_and_compile_once(name, make_episode):
    apply, params = LEARNERS[name]
    compiled = jax.jit(functools.partial(apply))  # jit's cache belongs to the function: a new one
    for seed, factor in ((0, 1.0), (1, 1.1)):
        prompt = make_episode(seed).prompt
        changed = jax.tree.map(lambda p, f=factor: f * p, params)
        np.testing.assert_allclose(
            compiled(changed, prompt), apply(changed, prompt), rtol=1e-4, atol=1e-5
        )
    assert compiled._cache_size() == 1
