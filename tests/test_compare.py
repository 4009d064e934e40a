"""`ico.compare`: any learners, the same tasks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ico
from ico import algorithms, models, tasks
from ico.algorithms import constructions

TASK = tasks.LinearRegression(batch_size=32, num_inputs=3, num_context=5, num_queries=2)
SAMPLER = functools.partial(tasks.linear_regression, config=TASK)
GD = (functools.partial(algorithms.gd, num_steps=4, all_steps=True), {"rate": jnp.array(2.0)})


def built(num_layers):
    model = models.LinearTransformer(num_inputs=3, num_layers=num_layers, tied=True)
    params = constructions.gd(
        jnp.array(2.0), num_context=5, num_inputs=3, num_layers=num_layers, tied=True
    )
    return models.learner(model, all_layers=True), params


def test_equal_learners_are_alike_in_every_measure():
    result = ico.compare({"gd": GD, "built": built(4)}, SAMPLER, jax.random.key(0))
    pair = ("gd", "built")
    assert result.losses["gd"].shape == result.losses["built"].shape == (4, 32)
    np.testing.assert_allclose(result.losses["gd"], result.losses["built"], atol=1e-5)
    np.testing.assert_allclose(result.cosine[pair], 1, atol=1e-5)
    np.testing.assert_allclose(result.prediction_difference[pair], 0, atol=1e-5)
    np.testing.assert_allclose(result.sensitivity_difference[pair], 0, atol=1e-5)


def test_sensitivity_of_gradient_descent_is_its_weights():
    prompt = SAMPLER(jax.random.key(1)).prompt
    slope = ico.sensitivity(algorithms.gd, {"rate": jnp.array(2.0)}, prompt)
    weights = 2.0 / 5 * jnp.einsum("bnk,bnd->bkd", prompt.y, prompt.x)
    assert slope.shape == (32, 2, 1, 3)
    for query in range(2):
        np.testing.assert_allclose(slope[:, query], weights, atol=1e-6)


def test_opposite_learners_have_cosine_minus_one():
    negative = (lambda params, prompt: -algorithms.gd(params, prompt), {"rate": jnp.array(2.0)})
    positive = (algorithms.gd, {"rate": jnp.array(2.0)})
    result = ico.compare({"a": positive, "b": negative}, SAMPLER, jax.random.key(0))
    np.testing.assert_allclose(result.cosine["a", "b"], -1, atol=1e-5)
    norm = result.sensitivity_norm["a"]
    np.testing.assert_allclose(result.sensitivity_difference["a", "b"], 2 * norm, rtol=1e-4)


def test_batches_are_joined_along_tasks_and_differ():
    result = ico.compare({"gd": GD}, SAMPLER, jax.random.key(0), num_batches=3)
    losses = result.losses["gd"]
    assert losses.shape == (4, 96)
    assert not np.array_equal(losses[:, :32], losses[:, 32:64])


def test_table_and_figure():
    result = ico.compare({"gd": GD, "built": built(2)}, SAMPLER, jax.random.key(0))
    first, second = result.table()
    assert first["loss"] == pytest.approx(result.losses["gd"][-1].mean())
    assert second["cosine with gd"] == pytest.approx(result.cosine["gd", "built"].mean())
    axes = result.figure().axes[0]
    assert [len(line.get_xdata()) for line in axes.lines] == [4, 2]


def test_refusals():
    with pytest.raises(ValueError, match="at least one learner"):
        ico.compare({}, SAMPLER, jax.random.key(0))
    with pytest.raises(ValueError, match="num_batches"):
        ico.compare({"gd": GD}, SAMPLER, jax.random.key(0), num_batches=0)
    wrong = (lambda params, prompt: prompt.x_query, {})
    with pytest.raises(ValueError, match="'wrong' predicts"):
        ico.compare({"wrong": wrong}, SAMPLER, jax.random.key(0))
