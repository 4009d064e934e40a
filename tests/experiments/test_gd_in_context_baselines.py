"""The exact expected loss that baselines are fitted by, against the algorithms themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.gd_in_context import baselines
from experiments.gd_in_context.config import SMOKE
from experiments.launch import Context
from ico import algorithms, tasks

TASK = tasks.LinearRegression(batch_size=4, num_inputs=4, num_context=6)


@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_expected_loss_is_the_mean_loss_given_the_context(gamma):
    """For one context, averaged over w and x_query by quadrature of their second moments."""
    prompt = tasks.linear_regression(jax.random.key(0), TASK).prompt
    rates, gammas = jnp.array([2.0, 5.0, 3.0]), jnp.full(3, gamma)
    apply = functools.partial(algorithms.gd_plus_plus, all_steps=True)

    # The prediction is bilinear in w and x_query: basis vectors give its whole matrix.
    def error_matrix(x_ND):
        eye = jnp.eye(4)
        y_WNK = jnp.einsum("nd,wd->wn", x_ND, eye)[..., None]
        one = prompt._replace(
            x=jnp.broadcast_to(x_ND, (4, 6, 4)), y=y_WNK, x_query=jnp.broadcast_to(eye, (4, 4, 4))
        )
        return apply({"rate": rates, "gamma": gammas}, one)[..., 0] - eye[None]

    for x_ND in prompt.x:
        exact = 0.5 / 12 * jnp.sum(error_matrix(x_ND) ** 2, axis=(1, 2))
        values = np.linalg.eigvalsh(np.asarray(x_ND.T @ x_ND, np.float64))[None]
        by_spectrum = baselines.expected_loss(rates, gammas, jnp.asarray(values), 6, 1 / 12)
        np.testing.assert_allclose(by_spectrum, exact, rtol=1e-4)


def test_the_fitted_rate_of_one_step_is_its_closed_form(tmp_path):
    """Minimum of a quadratic: rate = N E tr(S) / E tr(S^2) over the contexts it is fitted on."""
    context = Context(SMOKE.__class__(fit_contexts=500, fit_steps=400), tmp_path, 0, "smoke", False)
    fitted = baselines.fit(context, "test", TASK, 1, plain=True)["tied"]
    fit_key = jax.random.split(context.key("baselines/test"))[0]
    values = baselines.eigenvalues(fit_key, TASK, 500)
    best = 6 * values.sum() / (values**2).sum()
    assert float(fitted["rate"]) == pytest.approx(best, rel=1e-2)
    assert float(fitted["gamma"]) == 0.0


@pytest.mark.slow
def test_free_steps_end_no_higher_than_tied_ones_on_other_contexts(tmp_path):
    """Also twelve of them, which a fit to few contexts blows up."""
    config = SMOKE.__class__(fit_contexts=2_000, fit_steps=60)
    context = Context(config, tmp_path, 0, "smoke", False)
    fitted = baselines.fit(context, "test", TASK, 12)
    values = jnp.asarray(baselines.eigenvalues(jax.random.key(1), TASK, 20_000), jnp.float32)
    tied, free = (
        baselines.expected_loss(
            *(jnp.broadcast_to(fitted[kind][name], (12,)) for name in ("rate", "gamma")),
            values,
            TASK.num_context,
            1 / 12,
        )[-1]
        for kind in ("tied", "free")
    )
    assert free < tied < 0.5 * 4 / 12
