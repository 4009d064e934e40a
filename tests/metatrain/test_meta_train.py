"""The outer loop: it finds good learning rates, resumes, and outlives diverged trainings."""

import dataclasses
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import metatrain, optim
from tests.metatrain.conftest import (
    FAMILY,
    LEARNER,
    SGD,
    TASK,
    THETA,
    GradientDescent,
    best_log_rate,
    build,
    losses,
)

METHODS = ["unrolled", "truncated", "evolution", "persistent"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_clipped_meta_training_outlives_diverged_tasks(method):
    """About a third overflow; the learning rate found is right for the others."""

    def task(scale):
        return dataclasses.replace(TASK, loss=lambda x, batch: scale * TASK.loss(x, batch))

    family = metatrain.TaskFamily(
        lambda key: jnp.where(jax.random.uniform(key) < 0.3, 1e35, 1.0), task
    )
    estimator = metatrain.Estimator(
        method, 8, 0.1, truncation=6, meta_loss="mean", shaping="clipped"
    )
    config = metatrain.MetaConfig(40, 6, estimator=estimator, learning_rate=0.1)
    learned = metatrain.meta_train(family, LEARNER, config, jax.random.key(0), progress=False)
    assert abs(learned.theta["log_rate"] - best_log_rate()) < 0.15


@pytest.mark.parametrize("method", METHODS)
def test_meta_training_finds_a_good_rate(method, tmp_path):
    """And resumed from the middle it ends at the same theta to the last bit."""
    estimator = metatrain.Estimator(method, 8, 0.1, truncation=2)
    config = metatrain.MetaConfig(40, 6, estimator=estimator, learning_rate=0.1, steps_per_call=2)
    here = {"directory": tmp_path, "progress": False}
    learned = metatrain.meta_train(FAMILY, LEARNER, config, jax.random.key(0), **here)
    # With truncation it is another: the second window ignores what the first one's rate did.
    assert abs(learned.theta["log_rate"] - best_log_rate()) < (0.2 if estimator.truncates else 0.1)
    newest = max((tmp_path / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    assert int(newest.name) == 40
    shutil.rmtree(newest)
    again = metatrain.meta_train(FAMILY, LEARNER, config, jax.random.key(0), **here)
    np.testing.assert_array_equal(again.theta["log_rate"], learned.theta["log_rate"])


def test_horizons_are_drawn_between_their_ends():
    seen = []

    class Watching(GradientDescent):
        def build(self, theta, num_steps):
            jax.debug.callback(lambda n: seen.append(np.ravel(n)), num_steps)
            return build(theta, num_steps)

    estimator = metatrain.Estimator("evolution", 2, 0.1)
    config = metatrain.MetaConfig(
        90, (2, 16), curriculum=0.5, estimator=estimator, steps_per_call=90
    )
    metatrain.meta_train(FAMILY, Watching(*SGD), config, jax.random.key(0), progress=False)
    jax.effects_barrier()
    found = np.concatenate(seen)
    assert found.min() == 2 and 10 < found.max() <= 16
    assert config.inner_steps == pytest.approx(90 * 2 * 2 * 14 / np.log(8))


@pytest.mark.slow
def test_any_learned_optimizer_is_trained_and_saved(tmp_path):
    """L3RS over a family of tasks that differ: two steps, then loaded as an optax transform."""

    def task(scale):
        return dataclasses.replace(
            TASK,
            init=lambda key: {"a": {"w": jax.random.normal(key, (3,))}, "b": {"w": jnp.ones(2)}},
            loss=lambda p, batch: scale * (jnp.sum(p["a"]["w"] ** 2) + jnp.sum(p["b"]["w"] ** 2)),
        )

    family = metatrain.TaskFamily(lambda key: jax.random.uniform(key) + 0.5, task)
    learner = optim.learned("l3rs", base_optimizers=["sgd", "lion"], hidden=(4,))
    config = metatrain.MetaConfig(2, 5, estimator=metatrain.Estimator(num_tasks=2))
    learned = metatrain.meta_train(family, learner, config, jax.random.key(0), progress=False)
    assert learned.theta["embedding"].shape == (2, 8)
    chex.assert_tree_all_finite(learned.theta)
    learned.save(tmp_path / "saved", 5, {"task": "two bowls"})
    params = task(1.0).init(jax.random.key(1))
    for optimizer in (optim.load(tmp_path / "saved"), learned.optimizer(5)):
        after, found, _ = metatrain.run(optimizer, task(1.0), jax.random.key(2), 5)
        chex.assert_shape(found, (5,))
        chex.assert_trees_all_equal_shapes_and_dtypes(after, params)
        chex.assert_tree_all_finite(after)
    universal = optim.learned("l3rs", universal=True)
    assert universal.init(jax.random.key(0), params)["embedding"].shape == (1, 8)


def test_running_a_task():
    params, found, tests = metatrain.run(optax.sgd(0.1), TASK, jax.random.key(0), 6, test_every=3)
    np.testing.assert_allclose(found, losses([np.log(0.1)] * 6), rtol=1e-5)
    assert tests.shape == (2,)
    np.testing.assert_allclose(tests[-1], jnp.sum(params**2), rtol=1e-6)
    with pytest.raises(ValueError, match="test_every"):
        metatrain.run(optax.sgd(0.1), TASK, jax.random.key(0), 6, test_every=4)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: metatrain.Estimator("quick"), "method"),
        (lambda: metatrain.Estimator(sigma=0.0), "sigma"),
        (lambda: metatrain.MetaConfig(horizon=(5, 2)), "horizon"),
        (
            lambda: metatrain.MetaConfig(horizon=5, estimator=metatrain.Estimator("persistent")),
            "horizon",
        ),
    ],
)
def test_wrong_settings_are_refused(make, word, annotations_off):
    with pytest.raises(ValueError, match=word):
        make()


def test_several_families_give_the_mean_of_their_gradients():
    """Quadratics of one and of three unknowns: no shape is common to both."""
    task = metatrain.Task(
        lambda key: jnp.ones(3),
        lambda key: jnp.zeros(()),
        lambda x, batch: 0.5 * jnp.sum(x**2) + batch,
    )
    wide = metatrain.family_of(task)
    estimator = metatrain.Estimator("unrolled", 2, meta_loss="mean")
    config = metatrain.MetaConfig(1, 4, estimator=estimator, learning_rate=0.1, clip=1e9)
    learned = metatrain.meta_train(
        (FAMILY, wide),
        LEARNER,
        config,
        jax.random.key(0),
        progress=False,
        outer_optimizer=optax.sgd(1.0),
    )
    keys = jax.random.split(jax.random.key(1), 2)
    found = [
        metatrain.whole_gradient(build, family, estimator, THETA, keys, 4)
        for family in (FAMILY, wide)
    ]
    mean = sum(gradient["log_rate"] for _, gradient in found) / 2
    np.testing.assert_allclose(THETA["log_rate"] - learned.theta["log_rate"], mean, rtol=1e-5)
    np.testing.assert_allclose(learned.history["loss"][0], (found[0][0] + found[1][0]) / 2)
    with pytest.raises(ValueError, match="at least one"):
        metatrain.meta_train((), LEARNER, config, jax.random.key(0))


def test_what_cannot_be_meta_trained_is_named(tmp_path):
    config = metatrain.MetaConfig(2, 3, estimator=metatrain.Estimator("evolution", num_tasks=2))
    arguments = LEARNER, config, jax.random.key(0)
    with pytest.raises((ValueError, TypeError), match="task_family"):  # annotations are checked
        metatrain.meta_train(TASK, *arguments)
    with pytest.raises((ValueError, TypeError), match="learned_optimizer"):
        metatrain.meta_train(FAMILY, "l3rs", *arguments[1:])
    metatrain.meta_train(FAMILY, *arguments, directory=tmp_path, progress=False)
    other = dataclasses.replace(config, learning_rate=0.5)
    with pytest.raises(ValueError, match="another optimizer or config"):
        metatrain.meta_train(FAMILY, LEARNER, other, arguments[2], directory=tmp_path)


@pytest.mark.parametrize(
    ("losses", "first", "last", "failed"),
    [
        ([3, 2, 1], 3, 1, False),
        ([1, 9, 1], 1, 1, False),
        ([1, 0, 2], 1, 2, True),
        ([1, 2, np.nan], 1, np.nan, True),
        (list(range(20)), 0.5, 18.5, True),
    ],
)
def test_a_meta_training_fails_that_ends_above_its_start(losses, first, last, failed):
    learned = metatrain.Learned(LEARNER, THETA, {"loss": np.asarray(losses, float)})
    np.testing.assert_allclose([learned.first_loss, learned.last_loss], [first, last])
    assert learned.failed == failed
