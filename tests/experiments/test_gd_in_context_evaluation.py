"""Claims that have to hold for several pairs at once."""

import numpy as np
import pytest

from experiments.gd_in_context import evaluation as ev
from ico.report import ratio

CLAIM = "dimensions.loss_ratio"  # band 0.99 to 1.01


def pairs(rng, ratios, seeds=3, tasks=200, seed_deviation=0.002):
    """Losses of models [S, T] and references [T] with the given true ratios."""
    samples = []
    for factor in ratios:
        reference_T = rng.exponential(size=tasks)
        by_seed_S1 = factor + seed_deviation * rng.normal(size=(seeds, 1))
        samples += [by_seed_S1 * reference_T, reference_T]
    return samples


def judge(samples):
    found = ev.all_measured(CLAIM, *samples, statistic=ratio)
    low, high = found.ci95
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
    found = ev.all_measured(CLAIM, *pairs(rng, [1.0, 1.1], seed_deviation=1e-3), statistic=ratio)
    assert found.value == pytest.approx(1.1, abs=0.01)


def test_a_chain_is_its_neighbours():
    assert ev.chain([1, 2, 3]) == [1, 2, 2, 3]
