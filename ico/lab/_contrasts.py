"""Tables and pictures in which learners stand against each other, declared over records.

Dimension key: S seeds, X places along an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ico import report
from ico.lab._show import _found
from ico.report import Records, panels

Interval = tuple[float, tuple[float, float]]


def _difference(a: np.ndarray, b: np.ndarray) -> Interval:
    return report.interval(a, b, statistic=report.difference)


def gaps(
    value: str,
    *,
    rows: tuple[str, ...],
    axis: str,
    first: str | Callable[[Records], str],
    of: Callable[[np.ndarray, np.ndarray], Interval] = _difference,
    record: str = "",
    **where: Any,
) -> Callable[[Records], list[dict]]:
    """A table of how one learner differs from every other, paired; lower values are better.

    Its columns: `rows`, "<first> minus" (the other), "difference", the ends of its 95% interval,
    and "better": who of the two is, "undecided" where the interval holds zero.

    Args:
      value: [S, T] or [T].
      rows: axes that tell the places apart at which learners are compared.
      axis: the axis that tells learners apart.
      first: the learner, or how it is found in the records.
      of: the two arrays -> difference and 95% interval; by default of the means.
      record: the sort of record, by default that without a name.
      **where: which records.
    """

    def table(records: Records) -> list[dict]:
        found, shown = _found(records, record, where, [value, axis, *rows]), []
        name = first if isinstance(first, str) else first(found)
        for other in found:
            if other[axis] == name:
                continue
            place = {one: other.axes[one] for one in rows}
            mine = found.one(**place, **{axis: name})
            gap, (low, high) = of(mine[value], other[value])
            better = name if high < 0 else other[axis] if low > 0 else "undecided"
            row = {f"{name} minus": other[axis], "difference": gap}
            shown.append(place | row | {"95% low": low, "95% high": high, "better": better})
        return shown

    return table


def dots(
    value: str,
    *,
    y: str,
    color: str,
    most: float = np.inf,
    record: str = "",
    xlabel: str = "",
    looks: Mapping[Any, Mapping[str, Any]] | None = None,
    **where: Any,
) -> Callable[[Records], Any]:
    """Means on a logarithmic horizontal axis: a row a place, a marker a learner.

    Args:
      value: [S, T] or [T].
      y: the axis whose values are the rows, from the top.
      color: the axis that tells learners apart.
      most: means beyond it (or not finite) are arrows at the right edge.
      record: the sort of record, by default that without a name.
      xlabel: by default the name of the value.
      looks: value of `color` -> colour, marker, fill style.
      **where: which records.
    """

    def draw(records: Records):
        found = _found(records, record, where, [value, y, color])
        names, learners = found.axis(y), found.axis(color)
        fig, axes = report.canvas(1, height=max(2.5, 1 + 0.4 * len(names)))
        ax = axes[0, 0]
        for number, learner in enumerate(learners):
            style = dict((looks or {}).get(learner) or panels.look(number))
            style |= {"linestyle": "none", "marker": style["marker"] or "|", "markersize": 7}
            mine = list(found.where(**{color: learner}))
            means = np.array([one[value].mean() for one in mine])
            places = np.array([names.index(one[y]) for one in mine])
            places = places + 0.08 * (number - len(learners) / 2)
            near = means <= most  # not so NaN
            ax.plot(means[near], places[near], label=learner, **style)
            if np.isfinite(most):
                ax.plot(np.full((~near).sum(), most), places[~near], **style | {"marker": ">"})
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set(xscale="log", xlabel=xlabel or value)
        if np.isfinite(most):
            ax.set_xlim(right=1.3 * most)
        report.legend_below(fig, axes)
        return fig

    return draw


def beside(
    x: str,
    y: str,
    *,
    axis: str,
    pair: tuple[str, str],
    record: str = "",
    xlabel: str = "",
    ylabel: str = "",
    log: bool = False,
    **where: Any,
) -> Callable[[Records], Any]:
    """Two panels: the means of two learners against an axis, and the ratio of the two.

    Args:
      x: an axis with numbers.
      y: a value, [S, T] or [T]; a thin line a seed.
      axis: the axis that tells learners apart.
      pair: the two; the ratio is of the first over the second.
      record: the sort of record, by default that without a name.
      xlabel, ylabel: by default the names.
      log: whether the vertical axis of the left panel is logarithmic.
      **where: which records.
    """

    def draw(records: Records):
        found = _found(records, record, where, [x, y, axis])
        of = [found.where(**{axis: name}) for name in pair]
        places = [one[x] for one in of[0]]
        first_SX, second_SX = (
            np.stack([np.atleast_2d(one[y]).mean(-1) for one in some], -1) for some in of
        )
        fig, axes = report.canvas(2, height=3.6)
        left, right = axes[0]
        for number, means_SX in enumerate((first_SX, second_SX)):
            panels.seeds(left, places, means_SX, pair[number], **panels.look(number))
        left.set(xlabel=xlabel or x, ylabel=ylabel or y)
        if log:
            panels.log_y(left)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio_SX = panels.finite(first_SX) / panels.finite(second_SX)
        right.axhline(1.0, color="0.4", linewidth=1)
        panels.seeds(right, places, ratio_SX, pair[0], **panels.look(0))
        right.ticklabel_format(axis="y", useOffset=False)
        right.set(xlabel=xlabel or x, ylabel=f"{y} / {y} of {pair[1]}")
        for ax in axes[0]:
            panels.whole_x(ax)
        report.legend_below(fig, axes)
        return fig

    return draw
