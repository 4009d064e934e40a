"""What a claim is measured by, declared over a study's records.

    of=lab.mean("cosine", learner="trained layer")
    of=lab.ratio("loss", learner=("trained layer", "gradient descent"))
    of=lab.difference(("before", "after"), method="npo")
    of=lab.reduction("loss", method=("base", "npo"))
    of=lab.every(lab.ratio("loss", learner=("layer", "gd")), dim=...)
    of=lab.falls("loss", along="tasks")

A pair in place of a value or of an axis names the two sides of a comparison. `record` is the sort
of record, by default that without a name. Any function of the records that returns a `Measurement`
(or `EveryPair`) will do as well.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from ico import report
from ico.report import EveryPair, Measurement, Missing, Record, Records

Value = str | tuple[str, str]
Measure = Callable[[Records], Measurement | EveryPair]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A statistic of the means of two sides, paired over seeds and tasks. Call it with records."""

    statistic: Callable[[float, float], float]
    value: Value
    where: dict[str, Any]
    record: str = ""
    note: str = ""
    over: str = ""

    def sides(self, records: Records, **more: Any) -> tuple[Any, Any, float | None]:
        """The two sides' arrays, with axes changed by `more`; and the failure rate named by them.

        Raises:
          Missing: the run has no such record, or it lacks the value.
        """
        where = self.where | more
        names = self.value if isinstance(self.value, tuple) else (self.value, self.value)
        found = []
        for side in (0, 1):
            axes = {a: v[side] if isinstance(v, tuple) else v for a, v in where.items()}
            found.append(records[self.record].one(**axes))
        left, right = (_value(r, name) for r, name in zip(found, names, strict=True))
        return left, right, Records(found).failure_rate()

    def __call__(self, records: Records) -> Measurement:
        left, right, rate = self.sides(records)
        more = {"note": self.note, "failure_rate": rate}
        if not self.over:
            return report.measured(left, right, statistic=self.statistic, **more)
        counts, *_ = dataclasses.replace(self, value=self.over).sides(records)

        def statistic(left, right, count):
            return report.ratio(self.statistic(left, right), count)

        return report.measured(left, right, counts, statistic=statistic, **more)


def ratio(value: Value, *, record: str = "", note: str = "", **where: Any) -> Comparison:
    """The mean of one side over that of the other, paired over seeds and tasks."""
    return Comparison(report.ratio, value, where, record, note)


def difference(
    value: Value, *, over: str = "", record: str = "", note: str = "", **where: Any
) -> Comparison:
    """The mean of one side minus that of the other, paired over seeds and tasks.

    With `over` it is divided by the mean of that value of the first side: right answers by
    questions, nats by tokens, of which both sides have as many.
    """
    return Comparison(report.difference, value, where, record, note, over)


def reduction(value: Value, *, record: str = "", note: str = "", **where: Any) -> Comparison:
    """The share of the first side's mean that the second takes away: `1 - second / first`."""
    return Comparison(
        lambda first, second: 1 - report.ratio(second, first), value, where, record, note
    )


def mean(value: str, *, record: str = "", note: str = "", **where: Any) -> Measure:
    """The grand mean over seeds and tasks of a value of one record."""

    def measure(records: Records) -> Measurement:
        found = records[record].one(**where)
        rate = Records([found]).failure_rate()
        return report.measured(_value(found, value), note=note, failure_rate=rate)

    return measure


def median(value: str, *, record: str = "", note: str = "", **where: Any) -> Measure:
    """The median over seeds and tasks of a value of one record; seeds are resampled (or tasks [T]).

    Tasks of a seed stay together, so the interval is that of new seeds.
    """

    def measure(records: Records) -> Measurement:
        found = records[record].one(**where)
        rows = np.asarray(_value(found, value), float)
        middle, ci95 = report.interval_of(np.median, rows)
        S, T = rows.shape if rows.ndim > 1 else (0, len(rows))
        rate = Records([found]).failure_rate()
        return Measurement(middle, ci95, S, T, note, rate)

    return measure


def exact(
    value: str, *, num_tasks: int = 0, record: str = "", note: str = "", **where: Any
) -> Measure:
    """A deterministic number, judged by its value alone: an identity, a largest error."""

    def measure(records: Records) -> Measurement:
        number = np.asarray(_value(records[record].one(**where), value))
        if number.size != 1:
            raise ValueError(f"exact({value!r}): want one number, not shape {number.shape}")
        return Measurement(float(number.reshape(())), None, 0, num_tasks, note)

    return measure


def every(comparison: Comparison, *, note: str = "", runs: bool = False, **over: Any) -> Measure:
    """A comparison that has to hold at every value of some axes: see `ico.report.EveryPair`.

    Args:
      comparison: of `ratio` or `difference`.
      note: of the measurement.
      runs: whether the arrays' first axis is runs of one model: see `EveryPair`.
      **over: axis -> the values at which it has to hold, all of which the run must have; `...` for
        all that there are.
    """

    if comparison.over:
        raise ValueError("every: of comparisons without `over`")

    def measure(records: Records) -> EveryPair:
        some = records[comparison.record]
        fixed = {
            axis: list(v) if isinstance(v, tuple) else v for axis, v in comparison.where.items()
        }
        choices = [
            some.where(**fixed).axis(axis) if values is ... else list(values)
            for axis, values in over.items()
        ]
        places = [
            dict(zip(over, place, strict=True))
            for place in itertools.product(*choices)
            if _wanted(some, fixed, over, place)
        ]
        if not places:
            raise Missing(f"this run has no record at any {', '.join(over)}")
        found = [comparison.sides(records, **place) for place in places]
        rates = [rate for *_, rate in found if rate is not None]
        pairs = [(left, right) for left, right, _ in found]
        return EveryPair(pairs, comparison.statistic, note, max(rates, default=None), runs)

    return measure


def _wanted(records: Records, fixed: dict, over: dict, place: tuple) -> bool:
    """Whether a place is to be compared: of `...` the combinations that were run, of names all."""
    axes = dict(zip(over, place, strict=True))
    left_open = {axis: value for axis, value in axes.items() if over[axis] is ...}
    return not left_open or bool(len(records.where(**fixed, **left_open)))


def controlled(comparison: Comparison, by: Comparison, *, below: float, note: str = "") -> Measure:
    """A comparison that is judged only where its control came out below a bound.

    Two models that learned nothing agree, too; and what one of them cannot learn says nothing where
    its control, trained alike, did not learn it either.

    Args:
      comparison: what is measured.
      by: the control, whose value is named in the measurement's note.
      below: what the control's value has to be below.
      note: what the control is.
    """

    def measure(records: Records) -> Measurement:
        left, right, _ = by.sides(records)
        value = by.statistic(float(np.mean(left)), float(np.mean(right)))
        words = f"{note}: {value:.3f}"
        if not value < below:
            return report.unjudged(f"the control did not learn; {words}")
        return dataclasses.replace(comparison, note=words)(records)

    return measure


def falls(value: str, *, along: str, record: str = "", note: str = "", **where: Any) -> Measure:
    """The smallest fall of a mean between neighbouring values of an axis, in rising order.

    Each fall has to be inside the band (`EveryPair`): at least zero for "falls with".
    """

    def measure(records: Records) -> EveryPair:
        some = records[record]
        chain = sorted(some.where(**where).axis(along))
        if len(chain) < 2:
            raise Missing(f"a fall needs two values of {along}, this run has {chain}")
        found = [some.one(**where, **{along: place}) for place in chain]
        samples = [_value(r, value) for r in found]
        pairs = list(itertools.pairwise(samples))
        return EveryPair(pairs, report.difference, note, Records(found).failure_rate())

    return measure


def _value(record: Record, name: str) -> np.ndarray:
    if name not in record.values:
        if name in record.axes:
            raise ValueError(f"{name!r} of {record.describe()} is an axis; give it as an array")
        raise Missing(f"this run has no {name!r} of {record.describe()}", name)
    return record.values[name]
