"""Grid search over any parameters of any learner."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.algorithms import gd, gd_plus_plus, grid_search, refined_search
from ico.tasks import LinearRegression, half_squared_error, linear_regression

KEY = jax.random.key(0)
SAMPLER = functools.partial(linear_regression, config=LinearRegression(200, 3, 2, 5, 2))


def test_it_returns_the_best_of_all_with_its_loss():
    rng = np.random.default_rng(0)
    candidates = {"rate": rng.uniform(1, 9, (6, 2)), "gamma": rng.uniform(0, 0.3, 6)}
    candidates = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), candidates)
    params, losses = grid_search(gd_plus_plus, candidates, SAMPLER, KEY)

    @jax.jit
    def loss(params):
        episode = SAMPLER(KEY)
        return half_squared_error(gd_plus_plus(params, episode.prompt), episode.y_query).mean()

    each = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], candidates) for i in range(6)]
    expected = [float(loss(one)) for one in each]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    best = each[int(np.argmin(expected))]
    jax.tree.map(np.testing.assert_array_equal, params, best)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_candidates_without_a_finite_loss_are_passed_over(bad):
    rates = jnp.array([bad, 1.0, 6.0, bad], jnp.float32)
    params, losses = grid_search(gd, {"rate": rates}, SAMPLER, KEY)
    assert params["rate"] == 6.0
    np.testing.assert_array_equal(np.isfinite(losses), [False, True, True, False])


def test_it_says_so_if_no_candidate_is_left():
    rates = jnp.array([jnp.nan, 1e30])
    with pytest.raises(ValueError, match="no candidate has a finite loss"):
        grid_search(gd, {"rate": rates}, SAMPLER, KEY)


def test_the_last_step_decides():
    """The rate that is best after one step is not the best after two."""
    rates = jnp.arange(0.5, 25, 0.5)
    every = functools.partial(gd_plus_plus, num_steps=2, all_steps=True)
    last = functools.partial(gd_plus_plus, num_steps=2)
    candidates = {"rate": rates, "gamma": jnp.full(49, 0.4)}
    (one, losses), (other, expected) = (
        grid_search(apply, candidates, SAMPLER, KEY) for apply in (every, last)
    )
    assert one["rate"] == other["rate"]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    first, _ = grid_search(gd, {"rate": rates}, SAMPLER, KEY)
    assert first["rate"] != one["rate"]


def test_a_refined_search_comes_close_to_the_minimum_even_beyond_its_first_range():
    def loss(a, b):
        return np.log(a / 3.0) ** 2 + np.log(b / 40.0) ** 2

    (a, b), least = refined_search(loss, [(0.1, 10.0), (0.5, 20.0)], 9, rounds=6)
    np.testing.assert_allclose([a, b], [3.0, 40.0], rtol=0.1)
    assert least == loss(a, b)
    assert refined_search(lambda a: np.nan, [(0.1, 1.0)], 3, rounds=1)[1] == np.inf
