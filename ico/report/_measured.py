"""From samples to a measurement with its interval.

Dimension key: S seeds, T tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ico.report._claims import Band, Measurement
from ico.report._statistics import interval


def measured(
    *samples: Shaped[Any, ...],
    statistic: Callable[..., float] | None = None,
    note: str = "",
    failure_rate: float | None = None,
) -> Measurement:
    """A statistic of the grand means of [S, T] or [T] arrays, with its interval (`interval`)."""
    value, ci95 = interval(*samples, statistic=statistic)
    return Measurement(value, ci95, *_counts(samples), note, failure_rate)


@dataclasses.dataclass(frozen=True)
class EveryPair:
    """A statistic of several pairs of samples, for a claim that has to hold for each of them.

    What is measured depends on the band, so it waits for it: `within(band)`.

    Args:
      pairs: (a, b), each [S, T] or [T].
      statistic: of the two grand means.
      note, failure_rate: of the measurement.
      runs: whether the first axis is runs of one model (one learned optimizer, say), which are
        resampled all the same, but counted as tasks and not as seeds.
    """

    pairs: Sequence[tuple[Any, Any]]
    statistic: Callable[[float, float], float]
    note: str = ""
    failure_rate: float | None = None
    runs: bool = False

    def within(self, band: Band) -> Measurement:
        """Reproduced if every pair's interval is inside; refuted if one is outside at 0.05/pairs.

        The value is that of the pair nearest to the end of the band, or furthest beyond it. The
        interval is the hull of all pairs' 95% intervals, since the claim holds if each lies inside.
        It fails if the interval of one pair lies outside at the level 0.05 / number of pairs, which
        is then given alone: the worst of many draws is beyond a band too often. (One interval of
        the extreme itself would be biased.) Where one pair is not finite, nothing is.
        """
        band_low, band_high = band

        def room(low: float, high: float) -> float:
            """How far [low, high] is inside the band; negative beyond it."""
            lower = [] if band_low is None else [low - band_low]
            return min(lower + ([] if band_high is None else [band_high - high]))

        counts = _counts([sample for pair in self.pairs for sample in pair])
        counts = (1, len(self.pairs[0][0])) if self.runs else counts
        found = [interval(*pair, statistic=self.statistic) for pair in self.pairs]
        if not np.isfinite([(value, *ci95) for value, ci95 in found]).all():
            nan = float("nan")  # min and max would pass over it
            note = self._noted(f"of {len(found)} pairs one is not finite")
            return Measurement(nan, (nan, nan), *counts, note, self.failure_rate)
        worst = min(range(len(found)), key=lambda i: room(found[i][0], found[i][0]))
        # Towards an open end of the band the other pairs say nothing of the worst one.
        low, high = found[worst][1]
        ends = (
            low if band_low is None else min(ci[0] for _, ci in found),
            high if band_high is None else max(ci[1] for _, ci in found),
        )
        note = f"{len(found)} pairs; the hull of their intervals"
        level = 1 - 0.05 / len(found)
        strict = [
            interval(*pair, statistic=self.statistic, resamples=4000, level=level)
            for pair in self.pairs
        ]
        # An interval lies outside if even its better end does.
        refuted = [i for i, (_, (low, high)) in enumerate(strict) if room(high, low) < 0]
        if refuted:
            worst = min(refuted, key=lambda i: room(found[i][0], found[i][0]))
            ends = strict[worst][1]
            note = f"of {len(found)} pairs the one furthest outside, at 0.05 over their number"
        value = found[worst][0]
        return Measurement(value, ends, *counts, self._noted(note), self.failure_rate)

    def _noted(self, note: str) -> str:
        return f"{note}; {self.note}" if self.note else note


def ratio(a: float, b: float) -> float:
    """The ratio of two means, not finite where the second is zero: a statistic for `measured`."""
    return a / b if b else float("nan") if a == 0 or a != a else a * float("inf")


def difference(a: float, b: float) -> float:
    """How much larger the first mean is."""
    return a - b


def _counts(samples: Sequence[Any]) -> tuple[int, int]:
    """Seeds and tasks behind the samples."""
    seeds = max((len(a) for a in map(np.asarray, samples) if a.ndim == 2), default=1)
    return seeds, int(np.shape(samples[0])[-1])
