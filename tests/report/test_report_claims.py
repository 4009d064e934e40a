"""The verdict rule, and that declaring claims costs nothing."""

import math
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ico.report import Claim, EveryPair, Measurement, interval, ratio, unjudged, verdict

FINITE = st.floats(-10, 10)
ANY = st.one_of(FINITE, st.sampled_from([math.nan, math.inf, -math.inf]))


def _claim(low, high):
    return Claim("study.loss", "It learns.", "Paper, Fig. 1", "nats", (low, high))


def _measure(value, ci95):
    return Measurement(value, ci95, n_seeds=3, n_tasks=100, claim="study.loss")


@st.composite
def bands(draw):
    low, high = sorted((draw(FINITE), draw(FINITE)))
    ends = draw(st.sampled_from(["both", "low", "high"]))
    return (None if ends == "high" else low, None if ends == "low" else high)


@st.composite
def intervals(draw):
    low, high = draw(ANY), draw(ANY)
    return (high, low) if low > high else (low, high)


@hypothesis.given(bands(), ANY, intervals())
def test_interval_verdict_is_the_rule(band, value, ends):
    low = -math.inf if band[0] is None else band[0]
    high = math.inf if band[1] is None else band[1]
    result = verdict(_claim(*band), _measure(value, ends))
    finite = all(map(math.isfinite, (value, *ends)))
    inside = all(low <= end <= high for end in ends)
    outside = ends[1] < low or ends[0] > high
    assert (result == "reproduced") == (finite and inside)
    assert (result == "not reproduced") == outside
    assert result in ("reproduced", "not reproduced", "inconclusive")


@hypothesis.given(bands(), ANY)
def test_identity_is_judged_by_its_value(band, value):
    low = -math.inf if band[0] is None else band[0]
    high = math.inf if band[1] is None else band[1]
    inside = math.isfinite(value) and low <= value <= high
    result = verdict(_claim(*band), _measure(value, None))
    assert result == ("reproduced" if inside else "not reproduced")


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.2, 0.3), "reproduced"),
        ((0.25, 0.26), "reproduced"),
        ((0.19, 0.3), "inconclusive"),
        ((0.1, 0.4), "inconclusive"),
        ((0.3, 0.31), "inconclusive"),
        ((0.31, 0.32), "not reproduced"),
        ((0.1, 0.19), "not reproduced"),
        ((math.nan, 0.25), "inconclusive"),
        ((0.25, math.inf), "inconclusive"),
    ],
)
def test_cases_by_hand(ends, expected):
    assert verdict(_claim(0.2, 0.3), _measure(0.25, ends)) == expected


def test_wrong_pairs_are_refused():
    with pytest.raises(ValueError, match="reversed"):
        verdict(_claim(0, 1), _measure(0.5, (0.6, 0.4)))
    with pytest.raises(ValueError, match=r"other\.loss"):
        verdict(_claim(0, 1), Measurement(0.5, None, 0, 1, claim="other.loss"))


@pytest.mark.parametrize("band", [(None, None), (1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
def test_bad_bands_are_refused(band):
    with pytest.raises(ValueError, match="band"):
        _claim(*band)


@pytest.mark.parametrize("name", ["loss", "a.b.c", "A.loss", "a. loss", "a/b.c", "a.", '"><.x'])
def test_bad_ids_are_refused(name):
    with pytest.raises(ValueError, match="claim id"):
        Claim(name, "", "", "", (0, 1))


def test_study_is_the_id_before_the_dot():
    assert _claim(0, 1).study == "study"


def test_kinds_are_three(annotations_off):
    for kind in ("core", "paper", "ours"):
        assert Claim("a.b", "", "", "", (0, 1), kind).kind == kind
    with pytest.raises(ValueError, match="kind"):
        Claim("a.b", "", "", "", (0, 1), "main")


def test_what_cannot_be_measured_is_inconclusive_whatever_the_band():
    for band in ((None, 0), (0, None), (-1, 1)):
        assert verdict(_claim(*band), unjudged("left out")) == "inconclusive"


def test_import_is_light():
    code = (
        "import sys; from ico.report import Claim; import ico.report; "
        "print([m for m in sys.modules if m.split('.')[0] in ('scipy', 'matplotlib', 'jax')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


BAND = (None, 1.05)


def _pairs(*ratios, noise=0.01):
    rng = np.random.default_rng(0)
    return [(r * (1 + noise * rng.normal(size=100)), np.ones(100)) for r in ratios]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_pair_that_is_not_finite_fails_for_all(place):
    """Wherever it stands: min and max pass over a nan that is not the first."""
    claim, pairs = Claim("a.b", "", "", "ratio", BAND), _pairs(1.0, 1.0, 1.0)
    assert verdict(claim, EveryPair(pairs, ratio).within(BAND)) == "reproduced"
    pairs[place][0][5] = np.nan
    found = EveryPair(pairs, ratio).within(BAND)
    assert verdict(claim, found) == "inconclusive" and np.isnan(found.value)


def test_every_pair_is_judged_by_the_worst():
    claim = Claim("a.b", "", "", "ratio", (0.9, 1.1))
    good = EveryPair(_pairs(1.0, 1.02, 0.97), ratio).within(claim.band)
    assert verdict(claim, good) == "reproduced"
    hull = [interval(*pair, statistic=ratio)[1] for pair in _pairs(1.0, 1.02, 0.97)]
    assert good.ci95 == (min(low for low, _ in hull), max(high for _, high in hull))
    bad = EveryPair(_pairs(1.0, 1.3, 0.97), ratio).within(claim.band)
    assert verdict(claim, bad) == "not reproduced" and 1.29 < bad.value < 1.31
    near = EveryPair(_pairs(1.0, 1.1, 0.97, noise=0.3), ratio).within(claim.band)
    assert verdict(claim, near) == "inconclusive"


def test_every_pair_of_one_is_a_plain_comparison():
    pair = _pairs(0.98)[0]
    found = EveryPair([pair], ratio).within((0.9, 1.1))
    value, ends = interval(*pair, statistic=ratio)
    assert (found.value, found.ci95) == (value, ends)
