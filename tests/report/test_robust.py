"""Statistics that bear what overflowed."""

import numpy as np

from ico import report


def test_who_overflows_is_worse_than_who_does_not():
    """On a task where both overflow neither is."""
    nan, inf = np.nan, np.inf
    gap = report.gaps(np.array([nan, inf, 1.0, inf, 3.0]), np.array([1.0, 2.0, inf, nan, 1.0]))
    np.testing.assert_array_equal(gap, [inf, inf, -inf, 0, 2])


def test_a_median_takes_no_number_for_infinite():
    assert report.median(np.array([np.nan, 1.0, np.inf])) == np.inf
    assert report.median(np.array([np.nan, 1.0, 0.0])) == 1.0


def test_rank_correlation_is_one_for_any_rising_function():
    x = np.random.default_rng(0).normal(size=(2, 9))
    assert np.isclose(report.spearman(x, np.exp(x)), 1)
    assert np.isclose(report.spearman(x, -(x**3)), -1)
    assert np.isnan(report.spearman(x, np.ones((2, 9))))


def test_a_regression_on_its_leading_columns_is_that_on_these_alone():
    y, a, b = np.random.default_rng(1).normal(size=(3, 50, 4))
    both, one = report.Regression.of(y, [a, b]), report.Regression.of(y, [a])
    for found, wanted in zip(both.leading(1), one, strict=True):
        np.testing.assert_allclose(found, wanted)
    assert both.r_squared >= one.r_squared
