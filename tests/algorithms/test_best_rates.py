"""The exact expected loss of GD++, against the algorithm itself, and the rates fitted by it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import algorithms, tasks

TASK = tasks.LinearRegression(batch_size=4, num_inputs=4, num_context=6)
SIZES = {"num_context": TASK.num_context, "input_variance": 1 / 12}


def eigenvalues(seed, count):
    """Those of X^T X, [count, 4]."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-0.5, 0.5, (count, TASK.num_context, TASK.num_inputs))
    return jnp.asarray(np.linalg.eigvalsh(np.swapaxes(x, 1, 2) @ x), jnp.float32)


def judge(values):
    """The expected loss on contexts of its own, in place of the algorithm's loss on tasks."""
    loss = jax.jit(functools.partial(algorithms.expected_loss, **SIZES))
    return lambda params: float(np.asarray(loss(params["rate"], params["gamma"], values))[-1])


class ExpectedLossTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_it_is_the_mean_loss_given_the_context(self):
        """For one context, averaged over w and x_query by quadrature of their second moments."""
        prompt = tasks.linear_regression(jax.random.key(0), TASK).prompt
        rates, eye = jnp.array([2.0, 5.0, 3.0]), np.eye(4, dtype=np.float32)
        descend = jax.jit(functools.partial(algorithms.gd_plus_plus, all_steps=True))
        expected = self.variant(functools.partial(algorithms.expected_loss, **SIZES))
        for gamma in (0.0, 0.1):
            params = {"rate": rates, "gamma": jnp.full(3, gamma)}
            for x_ND in np.asarray(prompt.x):
                # The prediction is bilinear in w and x_query: basis vectors give its matrix.
                y_WNK = np.einsum("nd,wd->wn", x_ND, eye)[..., None]
                x, x_query = (np.broadcast_to(a, (4, *a.shape)) for a in (x_ND, eye))
                basis = prompt._replace(x=jnp.asarray(x), y=jnp.asarray(y_WNK), x_query=x_query)
                prediction = np.asarray(descend(params, basis))[..., 0]
                exact = 0.5 / 12 * np.sum((prediction - eye[None]) ** 2, axis=(1, 2))
                values = jnp.asarray(np.linalg.eigvalsh(x_ND.T @ x_ND)[None])
                by_spectrum = expected(params["rate"], params["gamma"], values)
                chex.assert_trees_all_close(by_spectrum, exact, rtol=1e-4)


def test_the_fitted_rate_of_one_step_is_its_closed_form():
    """Minimum of a quadratic: rate = N E tr(S) / E tr(S^2) over the contexts it is fitted on."""
    values = eigenvalues(0, 200)
    arguments = (values, 1, judge(values), jax.random.key(0))
    fitted = algorithms.best_rates(*arguments, plain=True, num_updates=400, **SIZES)
    best = TASK.num_context * values.sum() / (values**2).sum()
    assert float(fitted["tied"]["rate"]) == pytest.approx(float(best), rel=1e-2)
    assert float(fitted["tied"]["gamma"]) == 0.0
    again = algorithms.best_rates(*arguments, plain=True, num_updates=400, **SIZES)
    chex.assert_trees_all_equal(fitted, again)
    chex.assert_tree_all_finite(fitted)


@pytest.mark.slow
def test_free_steps_end_no_higher_than_tied_ones_on_other_contexts():
    """Also twelve of them, which a fit to the end blows up: iterates are chosen by the judge."""
    others = eigenvalues(1, 2_000)
    fitted = algorithms.best_rates(
        eigenvalues(0, 200), 12, judge(others), jax.random.key(0), num_updates=60, **SIZES
    )
    chex.assert_shape(list(fitted["free"].values()), (12,))
    chex.assert_shape(list(fitted["tied"].values()), ())
    held_out = judge(eigenvalues(2, 20_000))
    tied = jax.tree.map(lambda number: jnp.full(12, number), fitted["tied"])
    assert held_out(fitted["free"]) < held_out(tied) < 0.5 * 4 / 12


def test_a_judge_that_is_never_finite_is_named():
    with pytest.raises(ValueError, match="finite loss"):
        algorithms.best_rates(
            eigenvalues(0, 200), 2, lambda _: np.nan, jax.random.key(0), num_updates=2, **SIZES
        )
