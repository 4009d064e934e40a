"""Newton's method: ridge after one step, least squares after many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import algorithms

# Compiled whole: one operation at a time they are dozens of small programs.
newton = jax.jit(algorithms.newton, static_argnames=("num_steps", "all_steps"))
ridge = jax.jit(algorithms.ridge)


def test_one_full_step_is_ridge(make_episode, x64):
    N = 6
    prompt = make_episode(0, 3, N, 4, 2, 3).prompt
    got = newton({"rate": 1.0, "damping": 0.3}, prompt)
    np.testing.assert_allclose(got, ridge({"noise_variance": 0.3 * N}, prompt), atol=1e-12)


@pytest.mark.parametrize(("rate", "damping"), [(1.0, 2e-3), (0.7, 1e-13)])
def test_many_steps_remove_the_bias_of_the_penalty(rate, damping, make_episode, x64):
    """Towards least squares: what is left is 1 - rate a step, or damping / eigenvalue at rate 1."""
    prompt = make_episode(1, 3, 12, 4, 2, 3).prompt
    x, y, query = map(np.asarray, prompt)
    got = newton({"rate": rate, "damping": damping}, prompt, num_steps=6)
    expected = query @ (np.linalg.pinv(x) @ y)
    np.testing.assert_allclose(got, (1 - (1 - rate) ** 6) * expected, atol=1e-9)


def test_steps_are_those_of_autodiff(make_episode, x64):
    """Gradient and Hessian from the written loss, the step by a dense solve."""
    prompt = make_episode(2, 1, 5, 3, 2, 4).prompt
    w0 = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3)))
    params = {"rate": 0.6, "damping": 0.2, "w0": w0}
    got = newton(params, prompt, num_steps=3, all_steps=True)
    assert got.shape == (3, 1, 4, 2)
    np.testing.assert_array_equal(newton(params, prompt, num_steps=3), got[-1])

    def loss(w):
        return jnp.mean(jnp.sum((prompt.x[0] @ w.reshape(2, 3).T - prompt.y[0]) ** 2, axis=1)) / 2

    derivatives = jax.jit(lambda w: (jax.hessian(loss)(w), jax.grad(loss)(w)))
    w, query = np.asarray(w0).ravel(), np.asarray(prompt.x_query[0])
    for prediction in got:
        hessian, gradient = map(np.asarray, derivatives(w))
        w = w - 0.6 * np.linalg.solve(hessian + 0.2 * np.eye(6), gradient)
        np.testing.assert_allclose(prediction[0], query @ w.reshape(2, 3).T, atol=1e-12)


@pytest.mark.parametrize("num_steps", [0, -1])
def test_no_steps(num_steps, make_episode):
    with pytest.raises(ValueError, match=f"num_steps must be at least 1, not {num_steps}"):
        newton({"rate": 1.0, "damping": 0.1}, make_episode().prompt, num_steps=num_steps)
