"""Learners for classes, against the definition and against an optimum found elsewhere."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.special import log_softmax

from ico import algorithms as al
from ico.types import Prompt


@pytest.fixture
def prompt(x64):
    rng = np.random.default_rng(0)
    labels = np.array([[0, 1, 2, 0, 1, 2, 0, -1], [2, 2, 1, 0, 0, 1, -1, -1]])
    y = (labels[..., None] == np.arange(3)).astype(float)
    x = rng.normal(size=(2, 8, 4)) + np.pad(y, ((0, 0), (0, 0), (0, 1)))
    return Prompt(*map(jnp.asarray, (x, y, rng.normal(size=(2, 5, 4)))))


def test_nearest_class_mean_is_its_definition_and_does_not_see_what_has_no_label(prompt):
    found = al.nearest_class_mean({"scale": 2.0}, prompt)
    for b in range(2):
        means = [prompt.x[b][prompt.y[b, :, k] == 1].mean(0) for k in range(3)]
        gaps = [[float(((q - m) ** 2).sum()) for m in means] for q in prompt.x_query[b]]
        np.testing.assert_allclose(found[b], -2 * np.array(gaps), rtol=1e-12)
    nowhere = prompt.x.at[0, 7].set(1e3)
    np.testing.assert_array_equal(
        al.nearest_class_mean({"scale": 2.0}, prompt._replace(x=nowhere)), found
    )


def test_logistic_regression_reaches_the_optimum(prompt):
    """L-BFGS of scipy finds the same predictions."""
    found = al.logistic_regression({"penalty": 0.1}, prompt, num_steps=2_000)
    for b in range(2):
        known = np.asarray(prompt.y[b].sum(-1)) > 0
        x, y = np.asarray(prompt.x[b])[known], np.asarray(prompt.y[b])[known]

        def loss(flat, x=x, y=y):
            w, bias = flat[:12].reshape(4, 3), flat[12:]
            errors = -(y * log_softmax(x @ w + bias, axis=-1)).sum(-1)
            return errors.mean() + 0.05 * (w**2).sum()

        best = scipy.optimize.minimize(loss, np.zeros(15), tol=1e-14).x
        expected = np.asarray(prompt.x_query[b]) @ best[:12].reshape(4, 3) + best[12:]
        expected -= expected.mean(-1, keepdims=True)  # a common shift of all logits is free
        centred = found[b] - found[b].mean(-1, keepdims=True)
        np.testing.assert_allclose(centred, expected, atol=1e-4)
