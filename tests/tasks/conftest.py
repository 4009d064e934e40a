"""How far a sample of n may lie from the truth: bounds that chance breaks once in 10^4 tests."""

import numpy as np
import pytest
import scipy.stats


@pytest.fixture(scope="session")
def follows():
    """`follows(sample, "norm", ...)`: Kolmogorov-Smirnov against an exact distribution."""

    def check(sample, distribution, args=()):
        sample = np.asarray(sample, np.float64).ravel()
        exact = getattr(scipy.stats, distribution)(*args)
        distance = scipy.stats.kstest(sample, exact.cdf).statistic
        assert distance * np.sqrt(sample.size) < 2.2, (distance, sample.size)

    return check


@pytest.fixture(scope="session")
def uncorrelated():
    """`uncorrelated(a, b)`: the sample correlation of independent numbers is N(0, 1/n)."""

    def check(a, b):
        a, b = np.ravel(a), np.ravel(b)
        r = np.corrcoef(a, b)[0, 1]
        assert abs(r) * np.sqrt(a.size) < 4, (r, a.size)

    return check


@pytest.fixture(scope="session")
def averages():
    """`averages(per_task, mean)`: the mean over independent tasks, within 4 standard errors."""

    def check(per_task, mean):
        per_task = np.asarray(per_task, np.float64)
        error = per_task.std(ddof=1) / np.sqrt(per_task.size)
        assert abs(per_task.mean() - mean) < 4 * error, (per_task.mean(), mean, error)

    return check
