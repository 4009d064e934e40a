"""Parts of pictures: a line a seed, levels, dots, logarithmic axes with readable numbers.

Every function draws into the axes it is given, in the colours of `ico.report.style`.

Dimension key: S seeds, X positions.
"""

import numpy as np

from ico.report._figures import palette

_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY, _BLACK = palette()

# Colour, line and marker that go together, in the order in which learners should take them.
LOOKS = (
    {"color": _BLUE, "linestyle": "-", "marker": "o"},
    {"color": _VERMILION, "linestyle": "--", "marker": "s"},
    {"color": _GREEN, "linestyle": "-.", "marker": "^"},
    {"color": _PINK, "linestyle": ":", "marker": "D"},
    {"color": _ORANGE, "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": _SKY, "linestyle": (0, (6, 2)), "marker": "P"},
    {"color": _BLACK, "linestyle": (0, (1, 2)), "marker": "x"},
)


def look(place: int) -> dict:
    """The look of the learner at a place of a list; beyond seven, colours with other lines."""
    turn, place = divmod(place, len(LOOKS))
    other = LOOKS[(place + turn) % len(LOOKS)]
    return LOOKS[place] | {"linestyle": other["linestyle"], "marker": other["marker"]}


def finite(values) -> np.ndarray:
    """Values as float64, with a gap where they are infinite."""
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def seeds(ax, x, values_SX, label: str | None = None, **style) -> None:
    """The mean over seeds as a line with markers, and every seed as a thin line.

    Args:
      ax: where.
      x: [X] positions.
      values_SX: [S, X], or [X] for a learner without seeds.
      label: for the legend.
      **style: to `ax.plot`: color, linestyle, marker; see `look`.
    """
    values_SX = np.atleast_2d(finite(values_SX))
    if len(values_SX) > 1:
        color = style.setdefault("color", ax._get_lines.get_next_color())
        ax.plot(x, values_SX.T, color=color, linewidth=0.8, alpha=0.45, zorder=1.5)
    line(ax, x, values_SX.mean(0), label, **style)


def line(ax, x, values_X, label: str | None = None, **style) -> None:
    """One line, with about eight markers if long."""
    values_X = finite(values_X)
    every = 1 if len(values_X) <= 20 else round(len(values_X) / 8)
    ax.plot(x, values_X, label=label, markevery=every, **style)


def level(ax, value, label: str | None = None, **style) -> None:
    """A value that does not change along the axis; nothing if it is not finite."""
    style.pop("marker", None)
    if np.isfinite(value):
        ax.axhline(float(value), label=label, **style)


def dots(ax, place: float, values_S, **style) -> None:
    """Every seed as an open marker and their mean as a short bar, at one place of the x axis."""
    values_S = finite(np.atleast_1d(values_S))
    color, marker = style.get("color", _BLUE), style.get("marker", "o")
    spread = place + 0.12 * (np.arange(len(values_S)) - (len(values_S) - 1) / 2)
    open_marker = {"marker": marker, "fillstyle": "none", "markeredgewidth": 1.5}
    ax.plot(spread, values_S, linestyle="none", color=color, **open_marker)
    ax.plot([place - 0.25, place + 0.25], [values_S.mean()] * 2, color=color)


def name_places(ax, names) -> None:
    """Words below the places 0, 1 ... of an x axis."""
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.grid(False, axis="x")


def log_y(ax) -> None:
    """A logarithmic y axis whose numbers are written out, some between powers of ten too.

    Left linear where nothing positive is drawn.
    """
    _log(ax, ax.yaxis, ax.set_yscale, [line.get_ydata() for line in ax.get_lines()])


def log_x(ax) -> None:
    """The same for the x axis."""
    _log(ax, ax.xaxis, ax.set_xscale, [line.get_xdata() for line in ax.get_lines()])


def _log(ax, axis, set_scale, drawn) -> None:
    drawn = [np.asarray(values, dtype=float).ravel() for values in drawn]
    values = np.concatenate([*drawn, [np.nan]])
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return
    set_scale("log")
    decades = np.log10(positive.max() / positive.min())
    from matplotlib import ticker

    plain = ticker.FuncFormatter(lambda value, _: f"{value:g}" if value < 1e5 else f"{value:.0e}")
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0) if decades < 1 else (1.0, 2.0, 5.0)
    if decades < (4 if axis is ax.yaxis else 3):
        axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=15))
        axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(ticker.NullFormatter())


def whole_x(ax) -> None:
    """Ticks at whole numbers alone: layers, steps."""
    from matplotlib import ticker

    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))


def ordered(n: int) -> list[dict]:
    """Looks for n values of a quantity that grows (sizes, depths), dark to light."""
    from matplotlib import pyplot

    colors = pyplot.get_cmap("viridis")(np.linspace(0, 0.85, n))
    markers = "osD^vPX*"
    lines = ("-", "--", "-.", ":")
    return [
        {"color": color, "marker": markers[i % 8], "linestyle": lines[i % 4]}
        for i, color in enumerate(colors)
    ]
