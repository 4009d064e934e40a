"""Estimated gradients against those of the smoothed objective, and the outer loop.

The learned optimizer here is gradient descent, theta the logarithm of its rate; the task a
quadratic. So the smoothed meta-loss is an integral over one perturbation (evolution) or one a
stretch (persistent), done by Gauss and Hermite's rule in float64.
"""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import metatrain, optim

CURVES = np.array([0.5, 2.0])
THETA = {"log_rate": jnp.asarray(-1.0)}
SIGMA = 0.2


def build(theta, num_steps):
    del num_steps
    return optax.with_extra_args_support(optax.sgd(jnp.exp(theta["log_rate"])))


TASK = metatrain.Task(
    init=lambda key: jnp.array([1.0, -2.0]),
    batch=lambda key: jnp.zeros(()),
    loss=lambda x, batch: 0.5 * jnp.sum(jnp.asarray(CURVES, x.dtype) * x**2) + batch,
    test=lambda x: jnp.sum(x**2),
)
FAMILY = metatrain.family_of(TASK)
SGD = optim.LearnedOptimizer("sgd", {}, lambda key, params: THETA)


class GradientDescent(optim.LearnedOptimizer):
    """As `build` has it."""

    def build(self, theta, num_steps):
        return build(theta, num_steps)


LEARNER = GradientDescent(*SGD)


def losses(log_rates) -> np.ndarray:
    """Losses before each step, a rate a step, float64."""
    x, found = np.array([1.0, -2.0]), []
    for log_rate in log_rates:
        found.append(0.5 * np.sum(CURVES * x**2))
        x = x - np.exp(log_rate) * CURVES * x
    return np.array(found)


def smoothed_gradient(stretches: int, truncation: int) -> float:
    """d/d theta of the mean loss, one perturbation a stretch: Stein's identity by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    total = 0.0
    for places in np.ndindex(*[len(nodes)] * stretches):
        noise = nodes[list(places)]
        value = losses(np.repeat(float(THETA["log_rate"]) + SIGMA * noise, truncation)).mean()
        total += np.prod(weights[list(places)]) * value * noise.sum() / SIGMA
    return total


def stretches_of(estimator, keys, num_tasks, horizon):
    """Trainings that all begin now."""
    horizons = jnp.full(num_tasks, horizon, jnp.int32)
    carried = metatrain.begin_carried(
        build, FAMILY, estimator, THETA, jax.random.split(keys, num_tasks), horizons
    )
    return carried._replace(horizon=horizons), horizons


def test_evolution_is_unbiased_for_the_smoothed_loss():
    estimator = metatrain.Estimator("evolution", 64, SIGMA, meta_loss="mean")

    @jax.jit
    def estimates(keys):
        return jax.lax.map(
            lambda key: metatrain.whole_gradient(
                build, FAMILY, estimator, THETA, jax.random.split(key, 64), 6
            )[1]["log_rate"],
            keys,
        )

    found = np.asarray(estimates(jax.random.split(jax.random.key(0), 512)), np.float64)
    exact, error = smoothed_gradient(1, 6), found.std() / 512**0.5
    assert abs(found.mean() - exact) < 4 * error < 0.05 * abs(exact)
    # What it is not: the gradient of the loss itself.
    plain = (losses([-1 + 1e-5] * 6).mean() - losses([-1 - 1e-5] * 6).mean()) / 2e-5
    assert abs(plain - exact) > 5 * error


def test_persistent_evolution_is_unbiased_where_truncation_is_not():
    N = 64
    estimator = metatrain.Estimator("persistent", N, SIGMA, truncation=3)

    @jax.jit
    def estimates(keys):
        def whole(key):
            keys = jax.random.split(key, 3)
            carried, horizons = stretches_of(estimator, keys[0], N, 6)
            total = 0.0
            for key in keys[1:]:
                _, gradient, carried = metatrain.carried_gradient(
                    build, FAMILY, estimator, THETA, carried, jax.random.split(key, N), horizons
                )
                total = total + 0.5 * gradient["log_rate"]
            return total

        return jax.lax.map(whole, keys)

    found = np.asarray(estimates(jax.random.split(jax.random.key(0), 256)), np.float64)
    exact, error = smoothed_gradient(2, 3), found.std() / 16
    assert abs(found.mean() - exact) < 4 * error < 0.08 * abs(exact)
    # Without the sum of perturbations the second stretch does not count the first one's.
    assert abs(smoothed_gradient(1, 3) - exact) > 8 * error


def test_trainings_begin_anew_at_their_horizon_with_an_empty_sum():
    N = 5
    estimator = metatrain.Estimator("persistent", N, SIGMA, truncation=2)
    carried, horizons = stretches_of(estimator, jax.random.key(0), N, 4)
    step = jax.jit(
        lambda carried, key: metatrain.carried_gradient(
            build, FAMILY, estimator, THETA, carried, jax.random.split(key, N), horizons
        )
    )
    sums, steps, starts = [], [], []
    for i in range(5):
        before = carried
        _, _, carried = step(carried, jax.random.key(i))
        sums.append(carried.xi["log_rate"])
        steps.append(carried.inner.step)
        starts.append(before.inner.params)
    np.testing.assert_array_equal([s[0, 0] for s in steps], [2, 4, 2, 4, 2])
    # The sum grows within a training, and a new training's is one draw, not a third term.
    keys = [jax.vmap(lambda k: jax.random.split(k, 3))(jax.random.split(jax.random.key(i), N))
            for i in range(5)]  # fmt: skip
    draws = [jax.vmap(lambda k: jax.random.normal(jax.random.split(k, 1)[0], ()))(k[:, 2])
             for k in keys]  # fmt: skip
    np.testing.assert_allclose(sums[1], draws[0] + draws[1], rtol=1e-5)
    np.testing.assert_allclose(sums[2], draws[2], rtol=1e-5)
    # A pair is of two trainings, which part.
    assert (np.abs(carried.inner.params[0] - carried.inner.params[1]) > 1e-6).all()


def test_unrolled_is_the_derivative(x64):
    theta = {"log_rate": jnp.asarray(-1.0, jnp.float64)}
    estimator = metatrain.Estimator("unrolled", 2, meta_loss="mean")
    keys = jax.random.split(jax.random.key(0), 2)
    loss, gradient = metatrain.whole_gradient(build, FAMILY, estimator, theta, keys, 6)
    np.testing.assert_allclose(loss, losses([-1.0] * 6).mean(), rtol=1e-6)
    exact = (losses([-1 + 1e-5] * 6).mean() - losses([-1 - 1e-5] * 6).mean()) / 2e-5
    np.testing.assert_allclose(gradient["log_rate"], exact, rtol=1e-5)


def test_a_stretch_as_long_as_the_training_truncates_nothing():
    estimator = metatrain.Estimator("truncated", 3, truncation=6)
    carried, horizons = stretches_of(estimator, jax.random.key(0), 3, 6)
    keys = jax.random.split(jax.random.key(1), 3)
    ours = metatrain.carried_gradient(build, FAMILY, estimator, THETA, carried, keys, horizons)[1]
    whole = dataclasses.replace(estimator, method="unrolled", meta_loss="mean")
    theirs = metatrain.whole_gradient(build, FAMILY, whole, THETA, keys, 6)[1]
    np.testing.assert_allclose(ours["log_rate"], theirs["log_rate"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "last", "mixed"])
def test_meta_losses(kind):
    estimator = metatrain.Estimator("unrolled", 1, meta_loss=kind)
    keys = jax.random.split(jax.random.key(0), 1)
    ours, _ = metatrain.whole_gradient(build, FAMILY, estimator, THETA, keys, 20)
    all_20 = losses([-1.0] * 20)
    mean, last = all_20.mean(), all_20[-2:].mean()
    expected = {"mean": mean, "last": last, "mixed": (mean + last) / 2}[kind]
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_horizons_may_be_traced():
    estimator = metatrain.Estimator("evolution", 4, SIGMA, meta_loss="last")
    keys = jax.random.split(jax.random.key(0), 4)

    @jax.jit
    def at(horizon):
        return metatrain.whole_gradient(build, FAMILY, estimator, THETA, keys, horizon)

    for horizon in (3, 7):
        fixed = metatrain.whole_gradient(build, FAMILY, estimator, THETA, keys, horizon)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4),
            at(jnp.asarray(horizon)),
            fixed,
        )


@pytest.mark.parametrize("kind", ["mean", "last", "mixed"])
def test_unrolled_horizons_may_differ(kind):
    """The gradient is the mean of those at each horizon; steps behind it leave no trace."""
    estimator = metatrain.Estimator("unrolled", 3, meta_loss=kind)
    keys, horizons = jax.random.split(jax.random.key(0), 3), [2, 7, 11]

    @jax.jit
    def at(many):
        return metatrain.whole_gradient(build, FAMILY, estimator, THETA, keys, many, 12)

    ours = at(jnp.asarray(horizons))
    alone = [metatrain.whole_gradient(build, FAMILY, estimator, THETA, keys[i : i + 1], horizon)
             for i, horizon in enumerate(horizons)]  # fmt: skip
    theirs = jax.tree.map(lambda *parts: sum(parts) / 3, *alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


@pytest.mark.parametrize("method", ["unrolled", "truncated", "evolution", "persistent"])
def test_meta_losses_on_batches_of_their_own(method):
    """They are measured after every step, on batches that nothing is trained on."""
    held_out = 100.0 + jnp.arange(1000.0)

    def loss(x, batch):
        return 0.5 * jnp.sum(x**2) + batch

    def task(meta_batch):
        return metatrain.family_of(
            metatrain.Task(lambda key: jnp.ones(2), lambda key: jnp.zeros(()), loss,
                           meta_batch=meta_batch)
        )  # fmt: skip

    def drawn(key):
        return held_out[jax.random.randint(key, (), 0, 1000)]

    estimator = metatrain.Estimator(method, 2, 1e-3, truncation=4, meta_loss="mean")
    keys, four = jax.random.split(jax.random.key(0), 2), jnp.array([4, 4])

    def gradient(meta_batch):
        if not estimator.carries:
            return metatrain.whole_gradient(build, task(meta_batch), estimator, THETA, keys, 4)
        carried = metatrain.begin_carried(
            build, task(meta_batch), estimator, THETA, keys, four
        )._replace(horizon=four)
        return metatrain.carried_gradient(
            build, task(meta_batch), estimator, THETA, carried, keys, four
        )[:2]

    # x falls by (1 - rate) a step; the batches trained on add nothing.
    rate = np.exp(-1.0)
    before, after = (np.mean((1 - rate) ** (2 * (np.arange(4) + i))) for i in (0, 1))
    np.testing.assert_allclose(gradient(None)[0], before, rtol=1e-4)
    np.testing.assert_allclose(gradient(lambda key: 100.0)[0], 100 + after, rtol=1e-5)
    first, second = gradient(drawn)[0], gradient(lambda key: drawn(jax.random.fold_in(key, 1)))[0]
    assert first > 100 and first != second


@pytest.mark.parametrize("method", ["unrolled", "truncated", "evolution", "persistent"])
def test_clipped_meta_training_outlives_diverged_tasks(method):
    """A third of them overflow; the rate found is that of the others."""

    def task(scale):
        return dataclasses.replace(TASK, loss=lambda x, batch: scale * TASK.loss(x, batch))

    family = metatrain.TaskFamily(
        lambda key: jnp.where(jax.random.uniform(key) < 0.3, 1e35, 1.0), task
    )
    estimator = metatrain.Estimator(method, 8, 0.1, truncation=6, meta_loss="mean",
                                    shaping="clipped")  # fmt: skip
    config = metatrain.MetaConfig(40, 6, estimator=estimator, learning_rate=0.1)
    learned = metatrain.meta_train(family, LEARNER, config, jax.random.key(0), progress=False)
    grid = np.linspace(-1.0, 0.0, 101)
    best = grid[np.argmin([losses([rate] * 6).mean() for rate in grid])]
    assert abs(learned.theta["log_rate"] - best) < 0.15


@pytest.mark.parametrize("method", ["unrolled", "truncated", "evolution", "persistent"])
def test_meta_training_finds_a_good_rate(method, tmp_path):
    """And resumed from the middle it ends at the same theta to the last bit."""
    estimator = metatrain.Estimator(method, 8, 0.1, truncation=2)
    config = metatrain.MetaConfig(40, 6, estimator=estimator, learning_rate=0.1, steps_per_call=2)
    here = {"directory": tmp_path, "progress": False}
    learned = metatrain.meta_train(FAMILY, LEARNER, config, jax.random.key(0), **here)
    grid = np.linspace(-1.0, 0.0, 101)
    best = grid[np.argmin([losses([rate] * 6).mean() for rate in grid])]
    # By stretches it is another: the second has forgotten what the first one's rate did.
    assert abs(learned.theta["log_rate"] - best) < (0.2 if estimator.carries else 0.1)
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
    learned.save(tmp_path / "saved", 5, {"task": "two bowls"})
    params = task(1.0).init(jax.random.key(1))
    for optimizer in (optim.load(tmp_path / "saved"), learned.optimizer(5)):
        after, found, _ = metatrain.run(optimizer, task(1.0), jax.random.key(2), 5)
        assert found.shape == (5,) and jax.tree.structure(after) == jax.tree.structure(params)
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
        (lambda: metatrain.MetaConfig(horizon=5, estimator=metatrain.Estimator("persistent")),
         "horizon"),
        (lambda: optim.learned("adamw"), "learned optimizers"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(make, word, annotations_off):
    with pytest.raises(ValueError, match=word):
        make()


def test_several_families_give_the_mean_of_their_gradients():
    """Quadratics of one and of three unknowns: no shape is common to both."""
    wide = metatrain.family_of(
        metatrain.Task(lambda key: jnp.ones(3), lambda key: jnp.zeros(()),
                       lambda x, batch: 0.5 * jnp.sum(x**2) + batch)
    )  # fmt: skip
    estimator = metatrain.Estimator("unrolled", 2, meta_loss="mean")
    config = metatrain.MetaConfig(1, 4, estimator=estimator, learning_rate=0.1, clip=1e9)
    learned = metatrain.meta_train(
        (FAMILY, wide), LEARNER, config, jax.random.key(0), progress=False,
        outer_optimizer=optax.sgd(1.0),
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(1), 2)
    found = [metatrain.whole_gradient(build, family, estimator, THETA, keys, 4)
             for family in (FAMILY, wide)]  # fmt: skip
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
