"""`ico.compare`: any learners, the same tasks."""

import functools

import chex
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


RATES = jnp.array([0.5, 2.0, 3.0])
STEPWISE = functools.partial(algorithms.gd, num_steps=4, all_steps=True)


def test_every_seed_is_compared_as_it_is_alone():
    episode, reference = SAMPLER(jax.random.key(0)), (algorithms.gd, {"rate": jnp.array(1.0)})
    seeded = ico.Seeded(STEPWISE, {"rate": RATES})
    result = ico.compare({"seeds": seeded, "one": reference}, episode)
    assert result.num_seeds == {"seeds": 3, "one": None}
    chex.assert_shape(result.losses["seeds"], (3, 4, 32))
    chex.assert_shape([result.losses["one"], result.final("one")], (32,))
    chex.assert_shape([result.final("seeds"), result.cosine["seeds", "one"]], (3, 32))
    for seed, rate in enumerate(RATES):
        alone = ico.compare({"seeds": (STEPWISE, {"rate": rate}), "one": reference}, episode)
        for field in ("losses", "sensitivity_norm"):
            ours, theirs = (getattr(r, field)["seeds"] for r in (result, alone))
            chex.assert_trees_all_close(ours[seed], theirs, rtol=1e-5)
        for field in ("cosine", "prediction_difference", "sensitivity_difference"):
            ours, theirs = (getattr(r, field)["seeds", "one"] for r in (result, alone))
            chex.assert_trees_all_close(ours[seed], theirs, rtol=1e-5, atol=1e-6)


def test_seeds_are_paired_seed_by_seed():
    episode = SAMPLER(jax.random.key(0))
    without_gamma = {"rate": jnp.repeat(RATES[:, None], 4, axis=1), "gamma": jnp.zeros((3, 4))}
    twice = {
        "a": ico.Seeded(STEPWISE, {"rate": RATES}),
        "b": ico.Seeded(algorithms.gd_plus_plus, without_gamma),
    }
    result = ico.compare(twice, episode)
    chex.assert_trees_all_close(
        result.prediction_difference["a", "b"], np.zeros((3, 32)), atol=1e-5
    )
    turned = twice | {"b": twice["b"]._replace(params=jax.tree.map(jnp.flipud, twice["b"].params))}
    assert ico.compare(turned, episode).prediction_difference["a", "b"][[0, 2]].min() > 1e-4


def test_anything_with_parameters_of_seeds_is_a_learner():
    class Trained:
        apply, params, num_seeds = staticmethod(algorithms.gd), {"rate": RATES}, 3

    episode = SAMPLER(jax.random.key(0))
    result = ico.compare({"trained": Trained(), "gd": (algorithms.gd, {"rate": 2.0})}, episode)
    chex.assert_trees_all_close(result.losses["trained"][1], result.losses["gd"], rtol=1e-5)
    trained, alone = result.table()
    assert trained["best seed"] <= trained["loss"] <= trained["worst seed"]
    assert "best seed" not in alone
    assert len(result.figure().axes[0].lines) == 2


def test_a_learner_is_compiled_once_for_its_losses_and_once_for_its_likeness():
    chex.clear_trace_counter()
    # Its losses; its prediction and its sensitivity, which is traced for one output.
    apply = chex.assert_max_traces(lambda params, prompt: algorithms.gd(params, prompt), n=3)
    for key, rate in enumerate((1.0, 2.0)):
        learners = {"seeds": ico.Seeded(apply, {"rate": rate * RATES}), "gd": GD}
        ico.compare(learners, SAMPLER(jax.random.key(key)))
        ico.compare(learners, SAMPLER, jax.random.key(key), num_batches=2, pairs=())


def test_likeness_is_measured_of_the_pairs_that_are_asked_for():
    episode = SAMPLER(jax.random.key(0))
    learners = {"gd": GD, "built": built(4), "zero": (algorithms.gd, {"rate": 0.0})}
    result = ico.compare(learners, episode, pairs=[("built", "gd")])
    assert list(result.cosine) == list(result.sensitivity_difference) == [("built", "gd")]
    assert set(result.sensitivity_norm) == {"built", "gd"}
    assert not ico.compare(learners, episode, pairs=()).cosine
    alike = ico.likeness(learners["built"], learners["gd"], episode.prompt)
    for field, value in alike.items():
        chex.assert_trees_all_close(value, getattr(result, field)["built", "gd"], atol=1e-6)


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
    with pytest.raises(ValueError, match="needs a key"):
        ico.compare({"gd": GD}, SAMPLER)
    episode = SAMPLER(jax.random.key(0))
    with pytest.raises(ValueError, match="without key"):
        ico.compare({"gd": GD}, episode, jax.random.key(0))
    with pytest.raises(ValueError, match="no learner is called 'ridge'"):
        ico.compare({"gd": GD}, episode, pairs=[("gd", "ridge")])
    few = {"a": ico.Seeded(algorithms.gd, {"rate": RATES})}
    few["b"] = ico.Seeded(algorithms.gd, {"rate": RATES[:2]})
    with pytest.raises(ValueError, match="cannot be paired"):
        ico.compare(few, episode)
