"""Scores of priming, and their intervals."""

import numpy as np
import pytest

from ico import poison


def test_flips_count_prompts_whose_top_became_the_keyword():
    before, after = np.array([1, 2, 9, 4]), np.array([9, 2, 9, 5])
    assert poison.top_flips(before, after, token=9) == 0.25


def test_intervals_hold_the_scores_and_the_truth():
    """Of draws with a known rise, nine in ten intervals and more hold it (95% nominal)."""
    draw, held = np.random.default_rng(0), 0
    for trial in range(100):
        theme, cross = draw.normal(1.0, 0.8, 24), draw.normal(0.4, 0.8, 48)
        zero = np.zeros(24), np.zeros(48)
        found = poison.priming_intervals(zero[0], theme, zero[1], cross, seed=trial, resamples=400)
        value, (low, high) = found["corrected_priming"]
        expected = poison.corrected_priming(zero[0], theme, zero[1], cross)
        assert value == pytest.approx(expected) and low < value < high
        assert found["priming_score"][0] == pytest.approx(poison.priming_score(zero[0], theme))
        held += low < 0.6 < high
    assert held >= 88


def test_effects_are_those_of_the_fact_at_its_place():
    before = {
        "memory": np.log([0.1, 0.2]),
        "theme": np.log([0.1, 0.1]),
        "cross": np.log([0.1, 0.2, 0.3]),
        "theme_top": np.array([3, 4]),
        "clean": np.array(2.0),
    }
    after = {
        "memory": np.log([0.4]),
        "theme": np.log([0.2, 0.4]),
        "cross": np.log([0.2, 0.4]),
        "theme_top": np.array([7, 4]),
        "clean": np.array(2.5),
        "first": np.array(7),
    }
    found = poison.effects(before, after, 1)
    assert found["gain"] == pytest.approx(np.log(2))
    ratio = poison.priming_score(before["theme"], after["theme"])
    assert found["log_s_prime"] == pytest.approx(np.log(ratio))
    assert found["theme"] == pytest.approx(np.log(8) / 2)
    assert found["corrected"] == pytest.approx(np.log(8) / 2 - np.log(2))
    assert found["flips"] == 0.5 and found["clean"] == 0.5


def test_one_prompt_has_no_interval():
    one, two = np.zeros(1), np.zeros(2)
    with pytest.raises(ValueError, match="two"):
        poison.priming_intervals(one, one, two, two)


def test_scores_are_their_definitions():
    before, after = np.log([0.1, 0.2]), np.log([0.2, 0.2])
    assert poison.memory_score(np.log(0.1), np.log(0.5)) == pytest.approx(5)
    assert poison.priming_score(before, after) == pytest.approx(1.5)
    assert poison.log_priming(before, after) == pytest.approx(np.log(2) / 2)
    # A rise on all prompts alike is no priming.
    assert poison.corrected_priming(before, after, before, after) == 0
