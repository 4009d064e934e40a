"""What all figures of this paper share: one look for each learner, and ways to draw it.

Dimension key: S seeds, X positions.
"""

import numpy as np
from matplotlib import pyplot, ticker

from ico.report import palette

LOSS = "loss (half squared error)"
STEP = "training step"

_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY, _BLACK = palette()

# A learner has the same colour, line and marker wherever it appears.
LOOKS = {
    "model": {"color": _BLUE, "linestyle": "-", "marker": "o"},
    "gd": {"color": _VERMILION, "linestyle": "--", "marker": "s"},
    "gd_plus_plus": {"color": _GREEN, "linestyle": "-.", "marker": "^"},
    "interpolated": {"color": _PINK, "linestyle": ":", "marker": "D"},
    "second": {"color": _ORANGE, "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    "third": {"color": _SKY, "linestyle": (0, (6, 2)), "marker": "P"},
    "zero": {"color": _BLACK, "linestyle": (0, (1, 2)), "marker": "x"},
}


def finite(values) -> np.ndarray:
    """Values as float64, with a gap where they are infinite."""
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def seeds(ax, x, values_SX, look: str, label: str, **changed) -> None:
    """The mean over seeds as a line with markers, and every seed as a thin line."""
    values_SX = finite(values_SX)
    style = LOOKS.get(look, {}) | changed
    if len(values_SX) > 1:
        thin = {"color": style["color"], "linewidth": 0.8, "alpha": 0.45, "zorder": 1.5}
        ax.plot(x, values_SX.T, **thin)
    single(ax, x, values_SX.mean(0), look, label, **changed)


def single(ax, x, values_X, look: str, label: str, **changed) -> None:
    """One line, with about eight markers if long: a learner without seeds, or their mean."""
    values_X = finite(values_X)
    every = 1 if len(values_X) <= 20 else round(len(values_X) / 8)
    ax.plot(x, values_X, label=label, markevery=every, **(LOOKS.get(look, {}) | changed))


def level(ax, value, look: str, label: str) -> None:
    """A loss that does not change along the axis."""
    style = {key: LOOKS[look][key] for key in ("color", "linestyle")}
    if np.isfinite(value):
        ax.axhline(float(value), label=label, **style)


def dots(ax, place: float, values_S, look: str, **changed) -> None:
    """Every seed as an open marker and their mean as a short bar, at one place of the x axis."""
    values_S = finite(np.atleast_1d(values_S))
    style = LOOKS[look] | changed
    spread = place + 0.12 * (np.arange(len(values_S)) - (len(values_S) - 1) / 2)
    ax.plot(spread, values_S, linestyle="none", marker=style["marker"], color=style["color"],
            fillstyle="none", markeredgewidth=1.5)  # fmt: skip
    ax.plot([place - 0.25, place + 0.25], [values_S.mean()] * 2, color=style["color"])


def name_places(ax, names) -> None:
    """Words below the places 0, 1 ... of an x axis."""
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.grid(False, axis="x")


def log_y(ax) -> None:
    """A logarithmic y axis whose numbers are written out, some between powers of ten too.

    Left linear where nothing positive is drawn.
    """
    drawn = [np.asarray(line.get_ydata(), dtype=float).ravel() for line in ax.get_lines()]
    values = np.concatenate([*drawn, [np.nan]])
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return
    ax.set_yscale("log")
    decades = np.log10(positive.max() / positive.min())
    plain = ticker.FuncFormatter(lambda value, _: f"{value:g}" if value < 1e5 else f"{value:.0e}")
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0) if decades < 1 else (1.0, 2.0, 5.0)
    if decades < 4:
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=15))
        ax.yaxis.set_minor_locator(ticker.NullLocator())
    ax.yaxis.set_major_formatter(plain)
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def whole_x(ax) -> None:
    """Ticks at whole numbers alone: layers, steps."""
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))


def titles(ax, x: str, y: str, title: str = "") -> None:
    """Axis labels and a title."""
    ax.set(xlabel=x, ylabel=y, title=title)


def ordered(n: int) -> list[dict]:
    """Colour and marker for n values of a quantity that grows (sizes, depths), dark to light."""
    colors = pyplot.get_cmap("viridis")(np.linspace(0, 0.85, n))
    markers = "osD^vPX*"
    lines = ("-", "--", "-.", ":")
    return [
        {"color": color, "marker": markers[i % 8], "linestyle": lines[i % 4]}
        for i, color in enumerate(colors)
    ]
