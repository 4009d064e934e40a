"""Tuning and racing of optimizers, on quadratics whose trainings are known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized

from ico import metatrain
from tests.metatrain.conftest import CURVES

START = np.array([1.0, -2.0])


class SchedulesTest(chex.TestCase):
    """With and without jit, where kind, peak and horizon are traced."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(10, 50)
    def test_schedules(self, horizon):
        @self.variant
        def rates(kind, horizon):
            return jax.vmap(metatrain.schedule(kind, 2.0, horizon))(steps)

        steps, peak = jnp.arange(horizon), horizon // 10
        constant, cosine, warm, up = (rates(i, horizon) for i in range(len(metatrain.SCHEDULES)))
        np.testing.assert_allclose(constant, 2)
        expected = optax.cosine_decay_schedule(2.0, horizon)(steps)
        np.testing.assert_allclose(cosine, expected, rtol=1e-5, atol=1e-6)
        assert warm[0] > 0 and np.argmax(warm) in (peak - 1, peak)
        np.testing.assert_allclose(up, 2 * np.minimum((np.arange(horizon) + 1) / peak, 1))
        late = optax.cosine_decay_schedule(2.0, horizon - peak)(steps[peak:] - peak)
        np.testing.assert_allclose(warm[peak:], late, rtol=1e-5, atol=1e-6)


def quadratic(scale):
    """From `scale` times START; its batches are noise that the loss adds."""
    return metatrain.Task(
        init=lambda key: scale * jnp.asarray(START, jnp.float32),
        batch=lambda key: jax.random.normal(key, (2,)),
        loss=lambda x, batch: 0.5 * jnp.sum(jnp.asarray(CURVES, x.dtype) * x**2) + batch @ x,
    )


def measure(x, given):
    return {"x": x, "loss": jnp.sum((x - given) ** 2)}


def sgd(schedule, horizon, theta):
    return optax.sgd(lambda count: theta * schedule(count))


def test_a_race_is_gradient_descent():
    """Against the recursion in float64, along the way, for a count that fills no call."""
    horizon, R, theta = 9, 5, 0.5
    racer = metatrain.racer(sgd, quadratic, measure, num_tests=3, side_by_side=2)
    keys = jax.random.split(jax.random.key(0), R)
    rates, kinds = np.linspace(0.1, 0.5, R), np.arange(R) % 4
    scales, given = np.arange(1.0, R + 1), jnp.ones(2)
    found = racer(rates, kinds, horizon, keys, scales, given, theta)
    chex.assert_shape(found["x"], (R, 3, 2))
    for run in range(R):
        x = scales[run] * START
        rate = metatrain.schedule(int(kinds[run]), rates[run], horizon)
        batches = jax.random.split(keys[run])[1]
        for t in range(horizon):
            noise = np.asarray(jax.random.normal(jax.random.fold_in(batches, t), (2,)))
            x = x - theta * float(rate(jnp.asarray(t))) * (CURVES * x + noise)
            if (t + 1) % 3 == 0:
                np.testing.assert_allclose(found["x"][run, t // 3], x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["loss"][run, -1], ((x - 1) ** 2).sum(), rtol=1e-4)


def test_a_race_measures_the_averaged_parameters():
    def schedule_free(schedule, horizon, theta):
        return optax.contrib.schedule_free_adamw(schedule)

    key = jax.random.key(3)
    racer = metatrain.racer(schedule_free, quadratic, measure)
    found = racer([0.1], [0], 6, key[None], np.ones(1), jnp.zeros(2))
    optimizer = optax.contrib.schedule_free_adamw(metatrain.schedule(0, 0.1, 6))
    params, _, _ = metatrain.run(optimizer, quadratic(1.0), key, 6)
    np.testing.assert_allclose(found["x"][0, 0], params, rtol=1e-4)


def test_one_program_serves_all_horizons_and_counts():
    traces = chex.assert_max_traces(sgd, n=1)
    racer = metatrain.racer(traces, quadratic, measure, side_by_side=2)
    for R, horizon in ((1, 4), (2, 7), (5, 4)):
        keys = jax.random.split(jax.random.key(R), R)
        racer(np.full(R, 0.1), np.zeros(R, int), horizon, keys, np.ones(R), jnp.zeros(2), 1.0)


def landscape(best: float, kind: int, misled: float = 0.0):
    """Losses that grow with the distance from the best; the first round has a false optimum."""

    def losses(rates, kinds, label):
        losses = np.abs(np.log(rates / best)) + (kinds != kind)
        return losses - 5.0 * ((label == "first") & (rates == misled))

    return losses


@pytest.mark.parametrize("kind", range(4))
def test_tuning_takes_the_best_of_the_second_round(kind):
    rates = metatrain.rates_around(0.1, 9)
    tuned = metatrain.tune(landscape(0.4, kind, misled=0.8), rates, 6)
    assert (tuned.rate, tuned.schedule, tuned.edge, tuned.loss) == (0.4, kind, False, 0)
    chex.assert_shape(tuned.losses, (4, 9))


@pytest.mark.parametrize("best", [0.1 * 2.0**4, 0.1 * 2.0**-7])
def test_the_grid_is_extended_while_the_best_rate_is_at_its_end(best):
    tuned = metatrain.tune(landscape(best, 0), metatrain.rates_around(0.1, 3), 6)
    assert tuned.rate == best and not tuned.edge and len(tuned.rates) > 3
    chex.assert_shape(tuned.losses, (4, len(tuned.rates)))
    np.testing.assert_allclose(tuned.rates[1:] / tuned.rates[:-1], 2)


def test_the_grid_is_not_extended_for_ever():
    tuned = metatrain.tune(landscape(1e9, 0), metatrain.rates_around(0.1, 3), 6)
    assert tuned.edge and tuned.rate == tuned.rates[-1]


def test_rates_are_a_factor_of_two_apart_around_the_middle():
    np.testing.assert_allclose(metatrain.rates_around(0.1, 5), [0.025, 0.05, 0.1, 0.2, 0.4])


def test_tuning_by_runs_finds_the_rate_of_one_step():
    """On x'x / 2 one step of gradient descent with a rate of one reaches the optimum."""

    def task(scale):
        return metatrain.Task(
            lambda key: scale * jnp.ones(2), lambda key: 0.0, lambda x, _: 0.5 * jnp.sum(x**2)
        )

    seen = []

    def racer(peaks, kinds, horizon, keys, settings, given, theta):
        seen.append((np.asarray(jax.random.key_data(keys)), np.asarray(settings)))
        return one(peaks, kinds, horizon, keys, settings, given, theta)

    one = metatrain.racer(lambda schedule, *_: optax.sgd(schedule), task, measure, side_by_side=8)
    keys = jax.random.split(jax.random.key(0), 5)
    runs = {"first": (keys[:2], np.array([1.0, 2.0])), "second": (keys[2:], np.array([1, 2, 3.0]))}
    rates = 2.0 ** np.arange(-2, 3)
    tuned = metatrain.tune_by_runs(racer, rates, 3, 1, runs, jnp.zeros(2))
    assert tuned.rate == 1 and tuned.loss < 1e-9
    expected = ((1 - rates) ** 2 * 2)[None] * (1 + 4) / 2  # mean over the two runs
    np.testing.assert_allclose(tuned.losses[:1], expected, rtol=1e-5)
    for (data, settings), label in zip(seen, ("first", "second"), strict=True):
        R = len(runs[label][0])
        np.testing.assert_array_equal(data[:R], jax.random.key_data(runs[label][0]))
        np.testing.assert_array_equal(data, np.tile(data[:R], (len(data) // R, 1)))
        np.testing.assert_array_equal(settings[:R], runs[label][1])


def test_a_rate_that_diverges_is_not_taken():
    def task(scale):
        del scale
        return metatrain.Task(
            lambda key: jnp.ones(2), lambda key: 0.0, lambda x, _: jnp.sum(jnp.exp(x**2))
        )

    racer = metatrain.racer(lambda schedule, *_: optax.sgd(schedule), task, measure)
    runs = {label: (jax.random.key(0)[None], np.ones(1)) for label in ("first", "second")}
    tuned = metatrain.tune_by_runs(racer, 2.0 ** np.arange(-9, 6), 2, 20, runs, jnp.zeros(2))
    assert np.isinf(tuned.losses).any() and np.isfinite(tuned.loss) and tuned.loss < 1
