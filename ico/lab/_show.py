"""Figures and tables as declarations over records; a free function serves where these do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ico import report
from ico.report import Missing, Record, Records

Looks = Mapping[Any, Mapping[str, Any]]


def lines(
    x: str,
    y: str,
    *,
    over: str = "",
    of: Callable[[np.ndarray], float] | None = None,
    color: str | None = None,
    panel: str | tuple[str, str] | None = None,
    columns: int = 3,
    record: str = "",
    xlabel: str = "",
    ylabel: str = "",
    log: str = "",
    looks: Looks | Callable[[], Looks] | None = None,
    **where: Any,
) -> Callable[[Records], Any]:
    """A value against an axis of the records, or against another value of theirs (a curve).

    Args:
      x: an axis with numbers (a point a record: the mean of `y` in its 95% interval), or a value
        [X] (a line a record, and a thin one a seed).
      y: a value, [S, T] or [T] for points, [S, X] or [X] for curves.
      over: a value of the same record whose mean the mean of `y` is divided by, for points: right
        answers over questions, a loss over that of another model. Paired over seeds and tasks.
      of: a statistic of `y` [T] in place of its mean, for points, such as a median.
      color: the axis that tells lines apart; its values are the legend.
      panel: the axis that tells panels apart; or two axes, whose values are the columns and the
        rows of panels.
      columns: of panels, at most, where one axis tells them apart.
      record: the sort of record, by default that without a name.
      xlabel, ylabel: of the axes; by default the names.
      log: "x", "y" or "xy".
      looks: value of `color` -> colour, line style and marker; or a function that gives them, for
        colours of `ico.report.palette`, which loads Matplotlib.
      **where: which records.
    """

    def draw(records: Records):
        found = _found(records, record, where, [x, y, *([over] if over else [])])
        panels, across = _panels(found, panel, columns)
        fig, axes = report.canvas(across, -(-len(panels) // across), height=3.6)
        colors = found.axis(color) if color else [None]
        styles = looks() if callable(looks) else looks or {}
        for ax, (title, place) in zip(axes.flat, panels, strict=False):
            here = found.where(**place)
            for number, one in enumerate(colors):
                mine = here if one is None else here.where(**{str(color): one})
                style = styles.get(one) or report.panels.look(number)
                if len(mine):
                    _line(ax, mine, x, y, over, of, _label(color, one), dict(style))
            ax.set(xlabel=xlabel or x, ylabel=ylabel or y, title=title)
            if "x" in log:
                report.panels.log_x(ax)
            elif all(np.asarray(one[x]).dtype.kind in "iu" for one in here):
                report.panels.whole_x(ax)
            if "y" in log:
                report.panels.log_y(ax)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        if color:
            report.legend_below(fig, axes)
        return fig

    return draw


def _panels(found: Records, panel, columns: int) -> tuple[list[tuple[Any, dict[str, Any]]], int]:
    """Title and axes of every panel, and the number of columns."""
    if panel is None:
        return [("", {})], 1
    if isinstance(panel, str):
        places = [(value, {panel: value}) for value in found.axis(panel)]
        return places, min(columns, len(places))
    across, down = (found.axis(axis) for axis in panel)
    places = [(f"{a}\n{d}", dict(zip(panel, (a, d), strict=True))) for d in down for a in across]
    return places, len(across)


def _label(axis: str | None, value: Any) -> str | None:
    """A value in a legend; a number with the name of its axis."""
    return value if value is None or isinstance(value, str) else f"{axis} {value}"


def _number(record: Record, axis: str) -> Any:
    return record.axes[axis]


def _line(ax, records: Records, x, y, over, of, label: str | None, style: dict) -> None:
    if all(x in record.values for record in records):
        for record in records:
            report.panels.seeds(ax, record[x], record[y], label, **style)
            label = None
        return
    ordered: list[Any] = sorted(list(records), key=lambda record: _number(record, x))
    found = [
        report.interval_of(of, record[y], resamples=300) if of else _interval(record, y, over)
        for record in ordered
    ]
    places = [record.axes[x] for record in ordered]
    low, high = report.panels.finite([ends for _, ends in found]).T
    report.panels.line(ax, places, [value for value, _ in found], label, **style)
    ax.fill_between(places, low, high, color=style["color"], alpha=0.2, linewidth=0)


def bars(
    y: str,
    *,
    x: str | None = None,
    color: str | None = None,
    record: str = "",
    xlabel: str = "",
    ylabel: str = "",
    log: bool = False,
    **where: Any,
) -> Callable[[Records], Any]:
    """Means with their 95% intervals, side by side.

    Args:
      y: a value, [S, T] or [T].
      x: the axis whose values are groups along the horizontal axis.
      color: the axis whose values are the bars of a group.
      record: the sort of record, by default that without a name.
      xlabel, ylabel: of the axes.
      log: whether the vertical axis is logarithmic.
      **where: which records.
    """

    def draw(records: Records):
        found = _found(records, record, where, [y])
        groups = found.axis(x) if x else [None]
        colors = found.axis(color) if color else [None]
        fig, axes = report.canvas(1 if len(groups) * len(colors) < 8 else 2, height=3.8)
        ax = axes[0, 0] if axes.size == 1 else _merge(axes)
        width, named = 0.8 / len(colors), set()
        for number, one in enumerate(colors):
            look = report.panels.look(number)
            for group, place in enumerate(groups):
                axes_of = {a: v for a, v in ((x, place), (color, one)) if a is not None}
                for r in found.where(**axes_of):
                    value, ends = report.interval(r[y])
                    value, *ends = report.panels.finite([value, *ends])  # a gap if it diverged
                    at = group + width * (number - (len(colors) - 1) / 2)
                    error = np.abs(np.array(ends)[:, None] - value)
                    label = None if one is None or one in named else str(one)
                    named.add(one)
                    ax.bar(at, value, 0.9 * width, color=look["color"], label=label)
                    ax.errorbar(at, value, error, color="0.15", capsize=3, linewidth=1.2)
        report.panels.name_places(ax, ["" if g is None else str(g) for g in groups])
        ax.set(xlabel=xlabel or (x or ""), ylabel=ylabel or y)
        if log:
            ax.set_yscale("log")
        if color:
            report.legend_below(fig, ax)  # not axes: two may have been merged
        return fig

    return draw


def maps(
    value: str,
    *,
    each: str | Sequence[str] = "map",
    record: str = "",
    low: float | None = 0,
    high: float | Callable[[np.ndarray], float] = 1,
    cmap: str = "",
    **where: Any,
) -> Callable[[Records], Any]:
    """Matrices as pictures: a row a record, a column a matrix.

    Args:
      value: [M, X, Y], M matrices of each record: the attention patterns of heads, say.
      each: what a matrix is of, for its title ("head"), or the titles of all.
      record: the sort of record, by default that without a name.
      low, high: the ends of the colour scale. Where `high` is a function of a record's matrices,
        each row has its own, with a bar beside it; `low` None is minus `high`.
      cmap: of the colours, by default "viridis", or "RdBu_r" around zero.
      **where: which records.
    """

    def draw(records: Records):
        found = list(_found(records, record, where, [value]))
        columns = max(len(one[value]) for one in found)
        fig, axes = report.canvas(columns, len(found), height=2.5)
        for row, one in zip(axes, found, strict=True):
            matrices = report.panels.finite(one[value])
            top = high(matrices) if callable(high) else high
            ends = {"vmin": -top if low is None else low, "vmax": top}
            names = ", ".join(str(axis) for axis in one.axes.values())
            for column, (ax, matrix) in enumerate(zip(row, matrices, strict=False)):
                ax.imshow(matrix, cmap=cmap or ("RdBu_r" if low is None else "viridis"), **ends)
                ax.grid(False)
                ax.set(xticks=[], yticks=[])
                title = f"{each} {column + 1}" if isinstance(each, str) else each[column]
                ax.set_title(title if column or not names else f"{names}\n{title}", fontsize=9)
            for ax in row[len(matrices) :]:
                ax.set_axis_off()
            if callable(high):
                fig.colorbar(row[0].images[0], ax=row, shrink=0.8)
        return fig

    return draw


def _merge(axes):
    """One wide panel in place of two."""
    grid = axes[0, 0].get_gridspec()
    figure = axes[0, 0].figure
    for ax in axes[0]:
        ax.remove()
    return figure.add_subplot(grid[0, :])


def rows(
    value: str = "loss",
    *,
    over: str = "",
    name: str = "",
    record: str = "",
    reference: Mapping[str, Any] | None = None,
    also: tuple[str, ...] = (),
    **where: Any,
) -> Callable[[Records], list[dict]]:
    """A table row a record: its axes, the mean of a value with its interval, best and worst seed.

    Args:
      value: [S, T] or [T].
      over: a value of the same record whose mean that of `value` is divided by (see `lines`).
      name: of the column; by default that of the value.
      record: the sort of record, by default that without a name.
      reference: axes of the record that the others are divided by, in a column "ratio"; axes it
        does not name are those of the row.
      also: further values, of which the means are shown.
      **where: which records.
    """

    def table(records: Records) -> list[dict]:
        found = _found(records, record, where, [value, *([over] if over else [])])
        return [_row(found, one, value, over, name or value, reference, also) for one in found]

    return table


def _row(found: Records, one: Record, value: str, over: str, name: str, reference, also) -> dict:
    mean, (low, high) = _interval(one, value, over)
    row = dict(one.axes) | {name: mean, "95% low": low, "95% high": high}
    if one[value].ndim == 2 and len(one[value]) > 1:
        by_seed = one[value].mean(axis=1) / (one[over].mean(axis=-1) if over else 1)
        row |= {"best seed": float(by_seed.min()), "worst seed": float(by_seed.max())}
    if reference is not None:
        try:
            other = found.one(**dict(one.axes) | dict(reference))
            row["ratio"] = report.interval(one[value], other[value], statistic=report.ratio)[0]
        except Missing:
            row["ratio"] = None
    return row | {name: float(np.mean(one[name])) for name in also if name in one.values}


def _interval(one: Record, value: str, over: str):
    """The mean of a value, or its ratio to that of another, with the 95% interval."""
    if not over:
        return report.interval(one[value])
    return report.interval(one[value], one[over], statistic=report.ratio)


def grid(
    value: str,
    *,
    rows: tuple[str, ...],
    columns: str,
    of: Callable[[np.ndarray], float] = np.mean,
    record: str = "",
    **where: Any,
) -> Callable[[Records], list[dict]]:
    """A table with a row for each place on some axes, and a column for each value of another.

    Args:
      value: an array.
      rows: axes that tell rows apart.
      columns: the axis that tells columns apart.
      of: what stands in a cell, of the array; by default its mean.
      record: the sort of record, by default that without a name.
      **where: which records.
    """

    def table(records: Records) -> list[dict]:
        found: dict[tuple, dict] = {}
        for one in _found(records, record, where, [value, columns, *rows]):
            place = {axis: one.axes[axis] for axis in rows}
            row = found.setdefault(tuple(place.values()), place)
            row[str(one.axes[columns])] = float(of(one[value]))
        return list(found.values())

    return table


def points(
    *values: str, along: str, record: str = "", **where: Any
) -> Callable[[Records], list[dict]]:
    """A table with a row for each point of every record's curves.

    Args:
      *values: curves [X].
      along: the value [X] that they are drawn against.
      record: the sort of record, by default that without a name.
      **where: which records.
    """

    def table(records: Records) -> list[dict]:
        names = (along, *values)
        return [
            dict(one.axes) | dict(zip(names, numbers, strict=True))
            for one in _found(records, record, where, list(names))
            for numbers in zip(*(one[name].tolist() for name in names), strict=True)
        ]

    return table


def _found(records: Records, sort: str, where: Mapping[str, Any], names: list[str]):
    """The records that have everything; raises Missing if there are none."""
    found = Records(r for r in records[sort].where(**where) if all(name in r for name in names))
    if not len(found):
        raise Missing(f"this run has no record with {', '.join(names)}")
    return found
