"""From samples to a claim's measurement, with its interval.

Dimension key: S seeds, T tasks.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ico.report._claims import Claim, Measurement
from ico.report._statistics import interval


def measured(
    claim: str,
    *samples: Shaped[Any, "..."],
    statistic: Callable[..., float] | None = None,
    note: str = "",
) -> Measurement:
    """A claim's measurement: a statistic of grand means of [S, T] or [T] arrays (`interval`)."""
    value, ci95 = interval(*samples, statistic=statistic)
    return Measurement(claim, value, ci95, *_counts(samples), note)


def all_measured(
    claim: Claim, *samples: Shaped[Any, "..."], statistic: Callable[[float, float], float]
) -> Measurement:
    """A claim on several pairs of samples (a_1, b_1, a_2, b_2 ...) that has to hold for each.

    The value is that of the pair nearest to the end of the band, or furthest beyond it. The claim
    holds if every pair's 95% interval lies inside, so their hull is given. It fails if the interval
    of one lies outside at 0.05 over the number of pairs, which is then given alone: the worst of
    many draws is beyond a band too often. (One interval of the extreme itself would be biased.)
    Where one pair is not finite, nothing is.
    """
    band_low, band_high = claim.band

    def room(low, high):
        ends = ([] if band_low is None else [low - band_low]) + (
            [] if band_high is None else [band_high - high]
        )
        return min(ends)

    pairs = list(zip(samples[::2], samples[1::2], strict=True))
    found = [interval(*pair, statistic=statistic) for pair in pairs]
    if not np.isfinite([(value, *ci95) for value, ci95 in found]).all():
        nan = float("nan")  # min and max would pass over it
        note = f"of {len(pairs)} pairs one is not finite"
        return Measurement(claim.id, nan, (nan, nan), *_counts(samples), note)
    worst = min(range(len(pairs)), key=lambda i: room(found[i][0], found[i][0]))
    # Towards an open end of the band the other pairs say nothing of the worst one.
    low, high = found[worst][1]
    ends = (
        low if band_low is None else min(ci[0] for _, ci in found),
        high if band_high is None else max(ci[1] for _, ci in found),
    )
    note = f"{len(pairs)} pairs; the hull of their intervals"
    strict = [
        interval(*pair, statistic=statistic, resamples=4000, level=1 - 0.05 / len(pairs))
        for pair in pairs
    ]
    # An interval lies outside if even its better end does.
    refuted = [i for i, (_, (low, high)) in enumerate(strict) if room(high, low) < 0]
    if refuted:
        worst = min(refuted, key=lambda i: room(found[i][0], found[i][0]))
        ends = strict[worst][1]
        note = f"of {len(pairs)} pairs the one furthest outside, at 0.05 over their number"
    return Measurement(claim.id, found[worst][0], ends, *_counts(samples), note)


def ratio(a: float, b: float) -> float:
    """The ratio of two means: a statistic for `measured`."""
    return a / b


def difference(a: float, b: float) -> float:
    """How much more the first mean is."""
    return a - b


def _counts(samples) -> tuple[int, int]:
    """Seeds and tasks behind the samples."""
    seeds = max((len(a) for a in map(np.asarray, samples) if a.ndim == 2), default=1)
    return seeds, int(np.shape(samples[0])[-1])
