"""How figures look and how they are saved: the same bytes from the same numbers."""

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from ico.files import write_atomically
from ico.report._statistics import mean_band

if TYPE_CHECKING:  # dear to import, and only what draws needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito: distinguishable with every common colour blindness. Yellow is left out: it
# cannot be read as a thin line on white.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_STYLE = {
    "figure.figsize": (6.4, 3.8),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 10,
}


def palette(n: int | None = None) -> list[str]:
    """n colour-blind-safe colours (all seven by default), repeating beyond seven."""
    n = len(_PALETTE) if n is None else n
    return [_PALETTE[i % len(_PALETTE)] for i in range(n)]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """`with style():` around the drawing: colours, fonts, a light grid. Works in notebooks too."""
    from matplotlib import pyplot

    with pyplot.rc_context():
        pyplot.rcdefaults()  # a user's matplotlibrc must not change the figures
        pyplot.rcParams.update(_STYLE)
        pyplot.rcParams["axes.prop_cycle"] = pyplot.cycler(color=_PALETTE)
        yield


def canvas(
    columns: int = 1, rows: int = 1, *, height: float = 3.4, **options
) -> "tuple[Figure, np.ndarray]":
    """A figure that can be read 700 pixels wide, and its axes, always [rows, columns].

    Args:
      columns, rows: of axes.
      height: of a row, inches.
      **options: to `pyplot.subplots`: sharex, width_ratios ...
    """
    from matplotlib import pyplot

    width = {1: 6.4, 2: 8.2}.get(columns, 9.6)
    return pyplot.subplots(rows, columns, figsize=(width, height * rows), squeeze=False, **options)


def legend_below(fig: "Figure", axes: Any, columns: int = 4) -> None:
    """One legend for all axes, under the figure, each label once."""
    entries: dict = {}
    for ax in np.ravel(axes):
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    # As many columns as fit: a line's sample takes some five letters, an inch holds some twelve.
    widest = max((len(str(label)) for label in entries), default=0) + 6
    fitting = max(1, int(12 * fig.get_figwidth() / widest))
    columns = min(columns, fitting)
    fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


def mean_line(
    ax: "Axes",
    x: Shaped[Any, "X"] | Sequence[float | int],
    values: Shaped[Any, "..."],
    *,
    label: str | None = None,
    color: str | None = None,
    resamples: int = 500,
    **line,
) -> None:
    """Draws the mean over all but the last axis as a line in its 95% bootstrap band.

    Args:
      ax: where.
      x: [X] positions.
      values: [S, T, X] (seeds, tasks), [S, X] or [X] (a line without a band).
      label: for the legend.
      color: by default the next of the palette.
      resamples: bootstrap draws.
      **line: to `ax.plot`: marker, linestyle ...

    Raises:
      ValueError: values of another rank.
    """
    values = np.asarray(values, dtype=float)
    mean_X, low_X, high_X = mean_band(values if values.ndim > 1 else values[None], resamples)
    (drawn,) = ax.plot(x, mean_X, label=label, color=color, **line)
    if values.size > mean_X.size:
        ax.fill_between(x, low_X, high_X, color=drawn.get_color(), alpha=0.2, linewidth=0)


def save_figure(fig: "Figure", directory: str | os.PathLike, name: str) -> Path:
    """Writes DIR/figures/<name>.svg and .png, closes the figure and returns the .png's path.

    The bytes depend on the figure alone: no dates, and ids in the SVG hashed from the name.
    """
    from matplotlib import pyplot

    path = Path(directory) / "figures" / f"{name}.png"
    # No software either: a new Matplotlib that draws the same writes the same.
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    # Letters as paths look the same where the font is missing.
    with pyplot.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        for kind, left_out in metadata.items():
            buffer = io.BytesIO()
            fig.savefig(buffer, format=kind, metadata=left_out, facecolor="white", dpi=160)
            write_atomically(path.with_suffix(f".{kind}"), buffer.getvalue())
    pyplot.close(fig)
    return path
