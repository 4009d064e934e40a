"""Regressions over tasks: coefficients, share explained, intervals."""

import numpy as np
import pytest

from ico.report import Regression


@pytest.fixture
def columns():
    return np.random.default_rng(0).normal(size=(3, 500, 4))


def test_coefficients_are_found_again(columns):
    """Of steps made of a gradient and of the last step."""
    gradient, last, noise = columns
    fit = Regression.of(0.7 * gradient - 0.3 * last + 0.05 * noise, [gradient, last])
    value, (low, high) = fit.interval(lambda fit: fit.r_squared)
    assert abs(fit.coefficients - [0.7, -0.3]).max() < 0.01
    assert low < value == fit.r_squared < high and value > 0.99
    value, (low, high) = fit.interval(lambda fit: fit.coefficients[1])
    assert value == fit.coefficients[1] and low < -0.3 < high < 0


def test_a_column_that_does_nothing_has_no_coefficient(columns):
    gradient, last, noise = columns
    fit = Regression.of(0.7 * gradient + noise, [gradient, last])
    _, (low, high) = fit.interval(lambda fit: fit.coefficients[1])
    assert fit.r_squared < 0.5 and low < 0 < high


def test_least_squares_by_numpy(columns):
    y, *x = columns
    expected, (residual,), *_ = np.linalg.lstsq(
        np.stack([a.ravel() for a in x], 1), y.ravel(), rcond=None
    )
    fit = Regression.of(y, x)
    np.testing.assert_allclose(fit.coefficients, expected, rtol=1e-10)
    np.testing.assert_allclose(fit.r_squared, 1 - residual / np.sum(y**2), rtol=1e-10)


def test_equal_columns_share_and_nothing_explains_zero(columns):
    gradient, _, _ = columns
    fit = Regression.of(gradient, [gradient, gradient])
    np.testing.assert_allclose(fit.coefficients, [0.5, 0.5])
    assert np.isnan(Regression.of(0 * gradient, [gradient]).r_squared)
