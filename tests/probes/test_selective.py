"""Selective prediction, against its definitions by counting."""

import numpy as np
import pytest

from ico.probes import disagreement, error_detection, recall_at, risk_coverage, threshold_at

RNG = np.random.default_rng(0)
SCORES, WRONG = RNG.integers(0, 6, 60).astype(float), RNG.random(60) < 0.3


def test_disagreement_by_hand():
    predictions = np.array([[0, 1, 2], [1, 1, 0], [1, 0, 2], [1, 1, 2]])
    np.testing.assert_allclose(disagreement(predictions, 0), [1 / 4, 1 / 4, 1 / 4])
    np.testing.assert_allclose(disagreement(predictions, 1), [1 / 16, 3 / 16, 2 / 16])
    np.testing.assert_allclose(disagreement(predictions, None), [1 / 4, 3 / 4, 2 / 4])


def test_risk_is_the_mean_over_orders_of_equal_scores():
    """And the area that of a perfect, a useless and the worst score."""
    found, trials = risk_coverage(SCORES, WRONG), []
    for seed in range(3000):
        order = np.lexsort((np.random.default_rng(seed).random(60), SCORES))
        trials.append(np.cumsum(WRONG[order]) / np.arange(1, 61))
    np.testing.assert_allclose(found.risk, np.mean(trials, 0), atol=0.05)
    np.testing.assert_allclose(found.area, np.mean(trials), atol=5e-3)
    np.testing.assert_allclose(risk_coverage(np.zeros(60), WRONG).risk, WRONG.mean())
    perfect, worst = (risk_coverage(s, WRONG).area for s in (WRONG, ~WRONG))
    assert perfect < found.area < worst
    assert found.at(1) == pytest.approx(WRONG.mean()) and found.at(1 / 60) == found.risk[0]


def test_error_detection_counts_pairs():
    pairs = np.sign(SCORES[WRONG][:, None] - SCORES[~WRONG][None])
    assert error_detection(SCORES, WRONG) == pytest.approx(np.mean((pairs + 1) / 2), abs=1e-12)
    assert error_detection(WRONG, WRONG) == 1 and error_detection(~WRONG, WRONG) == 0
    assert np.isnan(error_detection(SCORES, np.zeros(60, bool)))


@pytest.mark.parametrize("coverage", [1 / 60, 0.3, 0.5, 0.95, 1.0])
def test_a_threshold_is_the_least_that_covers(coverage):
    threshold = threshold_at(SCORES, coverage)
    assert np.mean(SCORES <= threshold) >= coverage - 1e-12
    assert np.mean(SCORES < threshold) < coverage


def test_recall_at_false_alarms():
    scores = np.append(np.arange(100.0), [94.5, 96.0, 200.0, 1.0])
    marked = np.arange(104) >= 100
    assert recall_at(scores, marked, 0.05) == 0.75  # five of a hundred lie above 94
    assert recall_at(scores, marked, 0.0) == 0.25
    assert recall_at(np.zeros(104), marked, 0.05) == 0  # no score that says nothing finds any


def test_wrong_arguments_are_refused():
    for wrong in (
        lambda: disagreement(np.zeros((1, 3))),
        lambda: disagreement(np.zeros((2, 3)), -1),
        lambda: risk_coverage(np.array([np.nan]), np.array([True])),
        lambda: risk_coverage(np.zeros(0), np.zeros(0, bool)),
        lambda: threshold_at(SCORES, 0.0),
        lambda: recall_at(SCORES, WRONG, 1.0),
    ):
        with pytest.raises(ValueError, match="want|must"):
            wrong()
