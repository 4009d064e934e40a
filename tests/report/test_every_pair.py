"""Claims that have to hold for several pairs at once: `ico.report.EveryPair`."""

import numpy as np
import pytest

from ico.report import EveryPair, ratio

BAND = (0.99, 1.01)


def pairs(rng, ratios, seeds=3, tasks=200, seed_deviation=0.002):
    """Losses of models [S, T] and of references [T] with the given true ratios."""
    samples = []
    for factor in ratios:
        reference_T = rng.exponential(size=tasks)
        by_seed_S1 = factor + seed_deviation * rng.normal(size=(seeds, 1))
        samples.append((by_seed_S1 * reference_T, reference_T))
    return samples


def judge(samples):
    low, high = EveryPair(samples, ratio).within(BAND).ci95
    return "yes" if low >= 0.99 and high <= 1.01 else "no" if low > 1.01 or high < 0.99 else "?"


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [0.01, 0.05])
def test_true_claims_are_seldom_refuted(deviation):
    """The largest of several noisy ratios often lies beyond a band: that refutes nothing."""
    rng = np.random.default_rng(0)
    verdicts = [judge(pairs(rng, [1.0] * 5, seed_deviation=deviation)) for _ in range(20)]
    assert verdicts.count("no") <= 3


def test_one_ratio_outside_refutes_and_all_inside_confirm():
    rng = np.random.default_rng(1)
    assert judge(pairs(rng, [1.0, 1.0, 1.1], seed_deviation=1e-3)) == "no"
    assert judge(pairs(rng, [1.0, 0.9, 1.0], seed_deviation=1e-3)) == "no"
    assert judge(pairs(rng, [1.0, 1.001, 0.999], seed_deviation=5e-4)) == "yes"
    found = EveryPair(pairs(rng, [1.0, 1.1], seed_deviation=1e-3), ratio).within(BAND)
    assert found.value == pytest.approx(1.1, abs=0.01)


def test_runs_of_one_model_are_counted_as_tasks():
    """The interval is the same: both axes are resampled."""
    rng = np.random.default_rng(5)
    pairs = [(rng.normal(1, 0.1, (6, 40)), rng.normal(2, 0.1, (6, 40)))]
    seeds, runs = (EveryPair(pairs, ratio, runs=runs).within((None, 1.0)) for runs in (False, True))
    assert (seeds.n_seeds, seeds.n_tasks) == (6, 40) and (runs.n_seeds, runs.n_tasks) == (1, 6)
    assert (seeds.value, seeds.ci95) == (runs.value, runs.ci95)
