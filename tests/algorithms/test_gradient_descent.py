"""Gradient descent and GD++ on the context."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from ico import algorithms
from ico.algorithms import grid_search
from ico.tasks import LinearRegression, linear_regression
from ico.tasks import half_squared_error as error_of

# Compiled whole: one operation at a time they are dozens of small programs.
gd = jax.jit(algorithms.gd, static_argnames=("num_steps", "all_steps"))
gd_plus_plus = jax.jit(algorithms.gd_plus_plus, static_argnames=("num_steps", "all_steps"))
half_squared_error = jax.jit(error_of)
SIZE = st.integers(1, 4)


def loss(w_KD, x_ND, y_NK):
    """The loss as the paper writes it: 1/(2N) sum_i |W x_i - y_i|^2."""
    return sum(jnp.sum((w_KD @ x - y) ** 2) for x, y in zip(x_ND, y_NK, strict=True)) / (
        2 * len(x_ND)
    )


@settings(max_examples=3)
@given(st.integers(0, 99), SIZE, SIZE, SIZE, SIZE, SIZE, SIZE, st.booleans())
def test_gd_is_autodiff_on_the_written_loss(make_episode, seed, B, N, D, K, Q, S, start):
    with jax.enable_x64(True):
        prompt = make_episode(seed, B, N, D, K, Q).prompt
        rng = np.random.default_rng(seed)
        params = {"rate": jnp.asarray(rng.uniform(0.1, 1, S))}
        if start:
            params["w0"] = jnp.asarray(rng.standard_normal((K, D)))
        got = gd(params, prompt, all_steps=True)
        assert got.shape == (S, B, Q, K)
        np.testing.assert_array_equal(gd(params, prompt), got[-1])
        gradient = jax.jit(jax.grad(loss))
        for b in range(B):
            x, y, query = (np.asarray(leaf)[b] for leaf in prompt)
            w = np.asarray(params.get("w0", np.zeros((K, D))))
            for s in range(S):
                w = w - np.asarray(params["rate"])[s] * np.asarray(gradient(w, x, y))
                np.testing.assert_allclose(got[s, b], query @ w.T, atol=1e-13)


@pytest.mark.parametrize("N", [12, 4])
def test_many_steps_reach_least_squares(N, make_episode, x64):
    """Of all solutions (with N < D there are many) the one of least norm, from a start of zero."""
    prompt = make_episode(0, 3, N, 6).prompt
    x, y, query = map(np.asarray, prompt)
    rate = 1 / (np.linalg.norm(x, 2, axis=(1, 2)) ** 2 / N).max()
    got = gd({"rate": rate}, prompt, num_steps=20_000)
    np.testing.assert_allclose(got, query @ (np.linalg.pinv(x) @ y), atol=1e-8)


def test_every_step_descends(make_episode, x64):
    """Below 1 / L the training loss falls: asked for predictions on its own context."""
    prompt = make_episode(1, 3, 8, 4).prompt
    prompt = prompt._replace(x_query=prompt.x)
    predictions = gd({"rate": 0.5}, prompt, num_steps=10, all_steps=True)
    losses = half_squared_error(predictions, prompt.y)
    assert (np.diff(losses, axis=0) < 0).all()


def oracle_gd_plus_plus(rate, gamma, prompt):
    """Steps of GD++ for each task apart: labels and inputs both start from the inputs before."""
    predictions = []
    for x, y, query in zip(*map(np.asarray, prompt), strict=True):
        prediction = np.zeros((len(query), y.shape[1]))
        for eta, g in zip(rate, gamma, strict=True):
            curvature = np.eye(x.shape[1]) - g * x.T @ x
            step = eta / len(x) * x.T @ y
            prediction, y = prediction + query @ step, y - x @ step
            x, query = x @ curvature, query @ curvature
        predictions.append(prediction)
    return np.stack(predictions)


@settings(max_examples=3)
@given(st.integers(0, 99), SIZE, SIZE, SIZE, SIZE, SIZE, SIZE)
def test_gd_plus_plus_is_its_definition(make_episode, seed, B, N, D, K, Q, S):
    with jax.enable_x64(True):
        prompt = make_episode(seed, B, N, D, K, Q).prompt
        rng = np.random.default_rng(seed)
        rate, gamma = rng.uniform(0.1, 1, S), rng.uniform(0, 0.1, S)
        params = {"rate": jnp.asarray(rate), "gamma": jnp.asarray(gamma)}
        got = gd_plus_plus(params, prompt, all_steps=True)
        assert got.shape == (S, B, Q, K)
        for s in range(S):
            expected = oracle_gd_plus_plus(rate[: s + 1], gamma[: s + 1], prompt)
            np.testing.assert_allclose(got[s], expected, atol=1e-12)
        np.testing.assert_array_equal(gd_plus_plus(params, prompt), got[-1])


def test_gd_plus_plus_without_gamma_is_gd(make_episode, x64):
    prompt = make_episode(2, 3, 7, 4, 2, 3).prompt
    rates = jnp.array([0.3, 0.7, 0.5])
    one = gd_plus_plus({"rate": rates, "gamma": 0.0}, prompt, all_steps=True)
    np.testing.assert_allclose(one, gd({"rate": rates}, prompt, all_steps=True), atol=1e-14)


def test_scalars_are_repeated_and_zero_steps_do_nothing(make_episode, x64):
    prompt = make_episode(3).prompt
    w0 = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3)))
    for apply, extra in ((gd, {"w0": w0}), (gd_plus_plus, {"gamma": 0.02})):
        once = apply({"rate": 0.5, **extra}, prompt)
        np.testing.assert_array_equal(apply({"rate": 0.5, **extra}, prompt, num_steps=1), once)
        np.testing.assert_array_equal(
            apply({"rate": 0.5, **extra}, prompt, num_steps=3),
            apply({"rate": jnp.full(3, 0.5), **extra}, prompt),
        )
    none = gd({"rate": 0.5, "w0": w0}, prompt, num_steps=0)
    np.testing.assert_allclose(none, prompt.x_query @ w0.T, atol=1e-14)
    none = gd_plus_plus({"rate": 0.5, "gamma": 0.02}, prompt, num_steps=0)
    np.testing.assert_array_equal(none, np.zeros_like(none))


@pytest.mark.parametrize(
    ("apply", "params", "message"),
    [
        (gd, {"rate": np.ones(2)}, "3 steps, but rate has 2 entries"),
        (gd, {"rate": np.ones((3, 1))}, r"rate must be a scalar or \[S\].*not \(3, 1\)"),
        (gd_plus_plus, {"rate": 1.0, "gamma": np.ones(2)}, "3 steps, but gamma has 2 entries"),
        (gd_plus_plus, {"rate": np.ones(2), "gamma": np.ones(3)}, "but rate has 2 entries"),
    ],
)
def test_rates_that_do_not_match(apply, params, message, make_episode):
    with pytest.raises(ValueError, match=message):
        apply(params, make_episode().prompt, num_steps=3)


def one_step_loss(rate, N=10, D=10):
    """E 1/2 (w^T (I - rate A) x)^2 with A = X^T X / N, w ~ N(0, I), x ~ U(-1/2, 1/2)^D.

    = s/2 E tr (I - rate A)^2 = s/2 (D - 2 rate E tr A + rate^2 E tr A^2), where s = E x_j^2.
    tr A^2 = 1/N^2 sum_ij (x_i . x_j)^2: N terms |x|^4 and N (N - 1) of mean D s^2.
    """
    s, fourth = 1 / 12, 1 / 80
    trace = D * s
    norm4 = D * fourth + D * (D - 1) * s**2
    trace2 = (N * norm4 + N * (N - 1) * D * s**2) / N**2
    return s / 2 * (D - 2 * rate * trace + rate**2 * trace2), trace / trace2


def test_the_closed_form_of_one_step():
    best = one_step_loss(0)[1]
    assert best == pytest.approx(6.061, abs=5e-4)
    assert one_step_loss(best)[0] == pytest.approx(0.20623, abs=5e-6)
    assert one_step_loss(0)[0] == pytest.approx(0.41667, abs=5e-6)


@pytest.mark.parametrize("rate", [1.0, 6.061, 9.0])
def test_monte_carlo_agrees_with_the_closed_form(rate):
    episode = jax.jit(linear_regression, static_argnums=1)(
        jax.random.key(0), LinearRegression(batch_size=40_000)
    )
    losses = np.asarray(half_squared_error(gd({"rate": rate}, episode.prompt), episode.y_query))
    error = losses.std(ddof=1) / np.sqrt(losses.size)
    assert error < 0.01
    assert abs(losses.mean() - one_step_loss(rate)[0]) < 4 * error


def test_grid_search_finds_the_best_rate():
    """The authors' search; its error is that of minimising a sampled parabola."""
    sampler = functools.partial(linear_regression, config=LinearRegression(batch_size=10_000))
    rates = jnp.arange(0.001, 25, 0.1)
    params, losses = grid_search(gd, {"rate": rates}, sampler, jax.random.key(5))
    assert losses.shape == rates.shape and params["rate"] == rates[jnp.argmin(losses)]
    episode = jax.jit(sampler)(jax.random.key(5))
    p = np.asarray(gd({"rate": 1.0}, episode.prompt), np.float64).ravel()
    y = np.asarray(episode.y_query).ravel()
    best = (p @ y) / (p @ p)
    assert abs(params["rate"] - best) < 0.0501
    # Delta method: best = mean(p y) / mean(p p).
    error = np.std(p * (y - best * p)) / np.mean(p * p) / np.sqrt(p.size)
    assert abs(best - one_step_loss(0)[1]) < 4 * error < 0.5
