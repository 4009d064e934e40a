"""Averages of iterates: their definition, their gradients, and the schedules they stand for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import optim

T = 40
AVERAGES = [
    optim.EMA(0.9),
    optim.SWA(10),
    optim.SWA(),
    optim.SWA(5, every=3),
    optim.TwoPoint(17),
]
each_average = pytest.mark.parametrize("average", AVERAGES, ids=str)
each_curvature = pytest.mark.parametrize("curvature", [0.0, 2.0])


def run(rates, noise, start, curvature):
    """SGD on `curvature (w - noise_t)^2 / 2`: the iterates [T + 1]."""
    w = [start]
    for rate, target in zip(rates, noise, strict=True):
        w.append(w[-1] - rate * curvature * (w[-1] - target))
    return np.array(w)


@each_average
def test_it_is_the_weighted_mean_of_the_iterates(average):
    """Carried beside them, which move as without it; weights sum to one."""
    weights = average.weights(T)
    np.testing.assert_allclose(weights.sum(), 1)
    optimizer = optim.averaged(optax.adam(0.1), average, T)
    gradients = {"a": jax.random.normal(jax.random.key(0), (T, 3))}

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    start = {"a": jnp.array([1.0, -2, 3])}
    (params, state), moved = jax.lax.scan(step, (start, optimizer.init(start)), gradients)
    iterates = np.concatenate([start["a"][None], moved["a"]])
    found = optim.eval_params(state, params)
    chex.assert_trees_all_close(found, {"a": np.float32(weights @ iterates)}, atol=2e-6)


@each_average
@each_curvature
def test_the_schedule_reproduces_the_average(average, curvature):
    """Path by path, whatever the noise; at curvature 0 for gradients that no step changes."""
    rng = np.random.default_rng(0)
    noise, rate = rng.normal(size=T), 0.2
    with jax.enable_x64(True):
        schedule = optim.equivalent_schedule(average, rate, T, curvature=curvature)
        rates = np.array([schedule(t) for t in range(T)])
    if curvature:
        iterates = run(np.full(T, rate), noise, 3.0, curvature)
        last = run(rates, noise, 3.0, curvature)[-1]
    else:
        iterates = 3 - np.cumsum(np.append(0, rate * noise))
        last = 3 - rates @ noise
    np.testing.assert_allclose(last, average.weights(T) @ iterates, rtol=1e-12)
    back = optim.equivalent_average(lambda t: rates[t], rate, T, curvature=curvature)
    np.testing.assert_allclose(back, average.weights(T), atol=1e-12)


@each_average
def test_shares_of_recorded_gradients(average):
    """Exact for any loss, with a learning rate that changes."""
    rates = 0.3 / (1 + np.arange(T))
    w, gradients = [2.0], []
    for rate in rates:
        gradients.append(np.cos(3 * w[-1]) + w[-1] ** 3)
        w.append(w[-1] - rate * gradients[-1])
    shares = optim.gradient_shares(average, T)
    found = 2.0 - np.sum(rates * shares * gradients)
    np.testing.assert_allclose(found, average.weights(T) @ w, rtol=1e-13)


def test_known_schedules():
    """The mean of all iterates is linear decay; two points end at half the rate."""
    shares = optim.gradient_shares(optim.SWA(), T)
    np.testing.assert_allclose(shares, 1 - np.arange(T) / T)
    schedule = optim.equivalent_schedule(optim.TwoPoint(30), 0.2, T, curvature=4.0)
    np.testing.assert_allclose(schedule(T - 1), 0.1, rtol=1e-5)
    constant = optim.equivalent_average(lambda t: 0.2, 0.2, T, curvature=4.0)
    np.testing.assert_allclose(constant, np.eye(T + 1)[-1], atol=1e-12)


def test_the_latest_are_averaged_at_any_moment():
    optimizer = optim.latest_averaging(optax.sgd(1.0), size=3, every=2)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    update = jax.jit(chex.assert_max_traces(optimizer.update, 1))
    for step in range(1, 10):
        updates, state = update(-jnp.ones(2), state, params)
        params = params + updates
        taken = [t for t in range(2, step + 1, 2)][-3:]
        wanted = sum(taken) / 3  # those not yet taken are the start, zero
        chex.assert_trees_all_close(optim.eval_params(state, params), jnp.full(2, wanted))


def test_wrong_arguments_are_refused():
    for wrong in (
        lambda: optim.EMA(1.0),
        lambda: optim.TwoPoint(0),
        lambda: optim.SWA(0),
        lambda: optim.SWA(5).weights(3),
        lambda: optim.averaged(optax.sgd(1.0), optim.TwoPoint(50), T),
        lambda: optim.latest_averaging(optax.sgd(1.0), 0),
        lambda: optim.equivalent_schedule(optim.SWA(), 0.1, T, curvature=-1.0),
        lambda: optim.equivalent_average(lambda t: 0.1, 0.0, T, curvature=1.0),
        lambda: optim.gradient_shares(np.ones(3), T),
    ):
        with pytest.raises(ValueError, match="must|needs|want"):
            wrong()
