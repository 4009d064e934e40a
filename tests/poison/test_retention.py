"""Retention on curves whose decay is known."""

import numpy as np
import pytest

from ico.poison import _retention as retention

STEPS = np.array([1, 3, 10, 30, 100, 300, 1000, 3000])


def power_law(alpha, intercept=1.0):
    return intercept - alpha * np.log10(STEPS)


def noisy(facts, alpha=0.2, seed=0):
    # Every fact has another level and slope.
    draw = np.random.default_rng(seed)
    return np.stack(
        [power_law(alpha + 0.05 * draw.normal(), 0.9 + 0.1 * draw.normal()) for _ in range(facts)]
    )


def test_a_known_decay_is_found():
    decay = retention.decay_rate(STEPS, power_law(0.2))
    np.testing.assert_allclose(decay, (0.2, 1.0, 1.0), atol=1e-12)
    np.testing.assert_allclose(retention.half_life(STEPS, power_law(0.2)), 10**2.5)
    bent = power_law(0.2) + 0.3 * np.cos(np.arange(8))
    slope, intercept = np.polyfit(np.log10(STEPS), bent, 1)
    fitted = intercept + slope * np.log10(STEPS)
    explained = np.corrcoef(fitted, bent)[0, 1] ** 2
    np.testing.assert_allclose(retention.decay_rate(STEPS, bent), (-slope, intercept, explained))


def test_a_curve_that_does_not_fall_has_no_half_life():
    assert retention.half_life(STEPS, power_law(-0.1)) == np.inf
    assert retention.half_life(STEPS, np.full(8, 0.9)) == np.inf


def test_what_is_lost_at_once_has_no_long_life():
    assert retention.half_life(STEPS, np.full(8, 0.2)) == 0
    assert retention.half_life(STEPS, np.linspace(0.15, 0.25, 8)) == 0
    assert retention.decay_rate(STEPS, np.full(8, 0.5)).r_squared == 1


def test_retainability_is_one_at_the_peak_zero_when_lost_and_blind_to_the_unit_of_probability():
    draw = np.random.default_rng(0)
    before, curves = draw.normal(-9, 1, 5), draw.normal(-3, 1, (5, 8))
    peak = retention.find_peak(curves, STEPS, window=30)
    assert (peak.index < 4).all()
    np.testing.assert_array_equal(peak.log_prob, curves[:, :4].max(axis=1))
    kept = retention.retainability(curves, before, peak.log_prob)
    np.testing.assert_allclose(kept[np.arange(5), peak.index], 1)
    lost = retention.retainability(before[:, None], before, peak.log_prob)
    np.testing.assert_array_equal(lost, np.zeros((5, 1)))
    moved = retention.retainability(7 + curves, 7 + before, 7 + peak.log_prob)
    np.testing.assert_allclose(moved, kept)


def test_little_learned_is_no_retention():
    before, peak = np.array([-5.0, -5.0, -5.0, -5.0]), np.array([-4.0, -3.9, -5.0, -6.0])
    np.testing.assert_allclose(retention.effectivity(before, peak), [1, 1.1, 0, -1])
    kept = retention.retainability(np.full((4, 2), -4.5), before, peak)
    assert np.isnan(kept[[0, 2, 3]]).all() and np.isfinite(kept[1]).all()


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    truths = (0.2, 10 ** (0.4 / 0.2), 0.9 - 0.2 * np.log10(300))
    inside = np.zeros(3)
    for seed in range(100):
        found = retention.bootstrap_retention(
            STEPS, noisy(30, seed=seed), 300, num_samples=400, seed=seed
        )
        inside += [x.low <= truth <= x.high for x, truth in zip(found, truths, strict=True)]
    # 95% nominal; percentile intervals of 30 facts cover a little less. 6 sd of 100 draws below.
    assert (inside >= 82).all() and (inside < 100).any(), inside


def test_more_facts_give_a_narrower_interval_around_the_mean_curves_line():
    few, many = noisy(8), noisy(200)
    widths = []
    for curves in (few, many):
        found = retention.bootstrap_retention(STEPS, curves, 100)
        decay = retention.decay_rate(STEPS, curves.mean(axis=0))
        np.testing.assert_allclose(found.alpha.estimate, decay.alpha)
        np.testing.assert_allclose(
            found.half_life.estimate, retention.half_life(STEPS, curves.mean(axis=0))
        )
        np.testing.assert_allclose(found.retainability.estimate, curves.mean(axis=0)[4])
        widths.append([x.high - x.low for x in found])
    assert (np.array(widths[1]) < 0.5 * np.array(widths[0])).all()


def test_undefined_facts_are_left_out_and_half_lives_may_be_infinite():
    curves = noisy(10)
    holes = np.insert(curves, 4, np.nan, axis=0)
    assert retention.bootstrap_retention(STEPS, holes, 10) == retention.bootstrap_retention(
        STEPS, curves, 10
    )
    flat = retention.bootstrap_retention(STEPS, noisy(10, alpha=0.0), 10).half_life
    assert flat.high == np.inf and not np.isnan(flat.low)


def test_the_outlier_filter_is_off_unless_asked_for():
    curves = noisy(20)
    wild = np.concatenate([curves, np.full((1, 8), 1e3)])
    clean = retention.bootstrap_retention(STEPS, curves, 10)
    assert retention.bootstrap_retention(STEPS, wild, 10).retainability.estimate > 40
    filtered = retention.bootstrap_retention(STEPS, wild, 10, outlier_factor=2.0)
    np.testing.assert_allclose(filtered.retainability[0], clean.retainability[0], atol=0.05)
    np.testing.assert_array_equal(
        np.isnan(retention.without_outliers(wild)).all(axis=1), [False] * 20 + [True]
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: retention.find_peak(np.zeros((1, 8)), STEPS, 0), "window"),
        (lambda: retention.decay_rate(np.array([0, 1]), np.ones(2)), "at least 1"),
        (lambda: retention.decay_rate(np.array([3, 3]), np.ones(2)), "different"),
        (lambda: retention.bootstrap_retention(STEPS, noisy(5), 2), "at_step 2"),
        (lambda: retention.bootstrap_retention(STEPS, np.full((5, 8), np.nan), 1), "0 facts"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_readings_reach_the_end():
    steps = retention.reading_steps(2500)
    assert steps[0] == 1 and steps[-1] == 2500 and 1000 in steps and 2000 in steps
    assert (np.diff(steps) > 0).all()
