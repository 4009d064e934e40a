"""Estimated meta-gradients against those of the smoothed meta-loss, by quadrature."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from ico import metatrain
from tests.metatrain.conftest import FAMILY, SIGMA, THETA, build, losses, smoothed_gradient


def unrolls_of(estimator, keys, num_tasks, horizon):
    """Unroll states of trainings that all begin now."""
    horizons = jnp.full(num_tasks, horizon, jnp.int32)
    unrolls = metatrain.begin_unrolls(
        build, FAMILY, estimator, THETA, jax.random.split(keys, num_tasks), horizons
    )
    return unrolls._replace(horizon=horizons), horizons


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
            unrolls, horizons = unrolls_of(estimator, keys[0], N, 6)
            total = 0.0
            for key in keys[1:]:
                _, gradient, unrolls = metatrain.window_gradient(
                    build, FAMILY, estimator, THETA, unrolls, jax.random.split(key, N), horizons
                )
                total = total + 0.5 * gradient["log_rate"]
            return total

        return jax.lax.map(whole, keys)

    found = np.asarray(estimates(jax.random.split(jax.random.key(0), 256)), np.float64)
    exact, error = smoothed_gradient(2, 3), found.std() / 16
    assert abs(found.mean() - exact) < 4 * error < 0.08 * abs(exact)
    # Without the sum of perturbations the second window does not count the first one's.
    assert abs(smoothed_gradient(1, 3) - exact) > 8 * error


def test_trainings_begin_anew_at_their_horizon_with_an_empty_sum():
    N = 5
    estimator = metatrain.Estimator("persistent", N, SIGMA, truncation=2)
    unrolls, horizons = unrolls_of(estimator, jax.random.key(0), N, 4)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(unrolls, key):
        keys = jax.random.split(key, N)
        return metatrain.window_gradient(build, FAMILY, estimator, THETA, unrolls, keys, horizons)

    sums, steps, starts = [], [], []
    for i in range(5):
        before = unrolls
        _, _, unrolls = step(unrolls, jax.random.key(i))
        sums.append(unrolls.xi["log_rate"])
        steps.append(unrolls.inner.step)
        starts.append(before.inner.params)
    np.testing.assert_array_equal([s[0, 0] for s in steps], [2, 4, 2, 4, 2])
    # The sum grows within a training; that of a new training is a single draw.
    draws = []
    for i in range(5):
        keys = jax.vmap(lambda k: jax.random.split(k, 3))(jax.random.split(jax.random.key(i), N))
        draw = jax.vmap(lambda k: jax.random.normal(jax.random.split(k, 1)[0], ()))
        draws.append(draw(keys[:, 2]))
    np.testing.assert_allclose(sums[1], draws[0] + draws[1], rtol=1e-5)
    np.testing.assert_allclose(sums[2], draws[2], rtol=1e-5)
    # The two trainings of a pair differ.
    assert (np.abs(unrolls.inner.params[0] - unrolls.inner.params[1]) > 1e-6).all()


def test_unrolled_is_the_derivative(x64):
    theta = {"log_rate": jnp.asarray(-1.0, jnp.float64)}
    estimator = metatrain.Estimator("unrolled", 2, meta_loss="mean")
    keys = jax.random.split(jax.random.key(0), 2)
    loss, gradient = metatrain.whole_gradient(build, FAMILY, estimator, theta, keys, 6)
    np.testing.assert_allclose(loss, losses([-1.0] * 6).mean(), rtol=1e-6)
    exact = (losses([-1 + 1e-5] * 6).mean() - losses([-1 - 1e-5] * 6).mean()) / 2e-5
    np.testing.assert_allclose(gradient["log_rate"], exact, rtol=1e-5)


def test_a_window_as_long_as_the_training_truncates_nothing():
    estimator = metatrain.Estimator("truncated", 3, truncation=6)
    unrolls, horizons = unrolls_of(estimator, jax.random.key(0), 3, 6)
    keys = jax.random.split(jax.random.key(1), 3)
    ours = metatrain.window_gradient(build, FAMILY, estimator, THETA, unrolls, keys, horizons)[1]
    whole = dataclasses.replace(estimator, method="unrolled", meta_loss="mean")
    theirs = metatrain.whole_gradient(build, FAMILY, whole, THETA, keys, 6)[1]
    np.testing.assert_allclose(ours["log_rate"], theirs["log_rate"], rtol=1e-5)


class MetaLossTest(chex.TestCase):
    """Meta-losses, with and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters("mean", "last", "mixed")
    def test_meta_losses_are_means_of_losses(self, kind):
        estimator = metatrain.Estimator("unrolled", 1, meta_loss=kind)
        keys = jax.random.split(jax.random.key(0), 1)

        def at(theta):
            return metatrain.whole_gradient(build, FAMILY, estimator, theta, keys, 20)[0]

        all_20 = losses([-1.0] * 20)
        mean, last = all_20.mean(), all_20[-2:].mean()
        expected = {"mean": mean, "last": last, "mixed": (mean + last) / 2}[kind]
        np.testing.assert_allclose(self.variant(at)(THETA), expected, rtol=1e-4)


def test_horizons_may_be_traced():
    estimator = metatrain.Estimator("evolution", 4, SIGMA, meta_loss="last")
    keys = jax.random.split(jax.random.key(0), 4)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def at(horizon):
        return metatrain.whole_gradient(build, FAMILY, estimator, THETA, keys, horizon)

    for horizon in (3, 7):
        fixed = metatrain.whole_gradient(build, FAMILY, estimator, THETA, keys, horizon)
        chex.assert_trees_all_close(at(jnp.asarray(horizon)), fixed, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mean", "last", "mixed"])
def test_unrolled_horizons_may_differ(kind):
    """The gradient is the mean of those at each horizon; steps after it change nothing."""
    estimator = metatrain.Estimator("unrolled", 3, meta_loss=kind)
    keys, horizons = jax.random.split(jax.random.key(0), 3), [2, 7, 11]

    @jax.jit
    def at(horizons):
        return metatrain.whole_gradient(build, FAMILY, estimator, THETA, keys, horizons, 12)

    ours = at(jnp.asarray(horizons))
    alone = [
        metatrain.whole_gradient(build, FAMILY, estimator, THETA, keys[i : i + 1], horizon)
        for i, horizon in enumerate(horizons)
    ]
    theirs = jax.tree.map(lambda *parts: sum(parts) / 3, *alone)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["unrolled", "truncated", "evolution", "persistent"])
def test_meta_batches_are_used_for_the_meta_loss_alone(method):
    """It is then measured after every step, on batches that nothing is trained on."""
    held_out = 100.0 + jnp.arange(1000.0)

    def loss(x, batch):
        return 0.5 * jnp.sum(x**2) + batch

    def task(meta_batch):
        return metatrain.family_of(
            metatrain.Task(
                lambda key: jnp.ones(2), lambda key: jnp.zeros(()), loss, meta_batch=meta_batch
            )
        )

    def drawn(key):
        return held_out[jax.random.randint(key, (), 0, 1000)]

    estimator = metatrain.Estimator(method, 2, 1e-3, truncation=4, meta_loss="mean")
    keys, four = jax.random.split(jax.random.key(0), 2), jnp.array([4, 4])

    def gradient(meta_batch):
        if not estimator.truncates:
            return metatrain.whole_gradient(build, task(meta_batch), estimator, THETA, keys, 4)
        unrolls = metatrain.begin_unrolls(
            build, task(meta_batch), estimator, THETA, keys, four
        )._replace(horizon=four)
        return metatrain.window_gradient(
            build, task(meta_batch), estimator, THETA, unrolls, keys, four
        )[:2]

    # Every step multiplies x by 1 - rate; the batches trained on add nothing.
    rate = np.exp(-1.0)
    before, after = (np.mean((1 - rate) ** (2 * (np.arange(4) + i))) for i in (0, 1))
    np.testing.assert_allclose(gradient(None)[0], before, rtol=1e-4)
    np.testing.assert_allclose(gradient(lambda key: 100.0)[0], 100 + after, rtol=1e-5)
    first, second = gradient(drawn)[0], gradient(lambda key: drawn(jax.random.fold_in(key, 1)))[0]
    assert first > 100 and first != second
