"""The figures of the report, drawn from the saved studies of a run.

Captions say what is plotted and never what came out: that stands in the claims.
"""

import os

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ico.report import canvas, draw_figures, legend_below, palette

_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY, _BLACK = palette()
_COLORS = (_BLUE, _GREEN, _PINK, _ORANGE, _SKY, "gray", _BLACK)
_OURS = "L3RS"
_WITHOUT = "L3RS, no average"


_STEPS = (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 1.8, 2, 2.2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)


def _log(axis):
    """Gives a logarithmic axis, drawn on already, few plain numbers: often it is under a decade."""
    low, high = axis.get_view_interval()
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for steps in _STEPS:
        ticks = [tick for tick in np.outer(decades, steps).ravel() if low <= tick <= high]
        if len(ticks) > 2:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def meta_losses(result):
    """Meta-losses along meta-training."""
    tasks = list(dict.fromkeys(name.split("/")[0] for name in result.arrays))
    columns = min(len(tasks), 2)
    fig, axes = canvas(columns, -(-len(tasks) // columns), height=2.8)
    looks = {"l3rs": _VERMILION, "l3rs, no average": _ORANGE, "adafac_mlp": _BLUE,
             "direction_mlp": _GREEN}  # fmt: skip
    for ax in axes.ravel()[len(tasks) :]:
        ax.set_axis_off()
    for ax, task in zip(axes.ravel(), tasks, strict=False):
        for name, found in result.arrays.items():
            on, learner = name.split("/")
            if on == task:
                ax.plot(*found, color=looks[learner], label=learner)
        ax.set(title=task, xlabel="outer step")
        ax.set_yscale("log")
        _log(ax.yaxis)
    for ax in axes[:, 0]:
        ax.set_ylabel("meta-loss, nats")
    legend_below(fig, axes)
    return fig


def by_time(result):
    """The same by what the steps cost."""
    return curves(result, "milliseconds")


def curves(result, unit: str = "step"):
    """Mean test losses along the runs, a task and horizon a panel."""
    panels = list(dict.fromkeys("/".join(name.split("/")[:2]) for name in result.arrays))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    fig, axes = canvas(columns, rows, height=3.0)
    names = list(dict.fromkeys(name.split("/")[2] for name in result.arrays))
    others = [name for name in names if name not in (_OURS, _WITHOUT)]
    looks = {name: (_COLORS[i % len(_COLORS)], ("-", "--", ":")[i // len(_COLORS)])
             for i, name in enumerate(others)}  # fmt: skip
    looks |= {_OURS: (_VERMILION, "-"), _WITHOUT: (_VERMILION, "--")}
    for ax in axes.ravel()[len(panels) :]:
        ax.set_axis_off()
    for ax, panel in zip(axes.ravel(), panels, strict=False):
        for name in [*others, _WITHOUT, _OURS]:
            found = result.arrays.get(f"{panel}/{name}")
            if found is None:
                continue
            color, line = looks[name]
            ax.plot(*found, color=color, linestyle=line, label=name,
                    linewidth=2.2 if name in (_OURS, _WITHOUT) else 1.1)  # fmt: skip
        task, horizon = panel.split("/")
        ax.set(title=f"{task}, {horizon} steps", xlabel=unit)
        ax.set_yscale("log")
        _log(ax.yaxis)
        if unit != "step":
            ax.set_xscale("log")
            _log(ax.xaxis)
    for ax in axes[:, 0]:
        ax.set_ylabel("test loss, nats")
    legend_below(fig, axes)
    return fig


def transfer(result):
    """Test losses by the task that an optimizer is used on and the one it was trained on."""
    matrix = result.arrays["matrix"]
    tasks = [row["used on"] for row in result.tables["transfer"]]
    over = matrix / np.diag(matrix)[:, None]
    fig, axes = canvas(1, height=3.8)
    ax = axes[0, 0]
    ax.imshow(np.log(over), cmap="RdBu_r", vmin=-np.log(2), vmax=np.log(2))
    for i, row in enumerate(over):
        for j, value in enumerate(row):
            dark = abs(np.log(value)) > 0.4
            ax.text(j, i, f"{value:.2f}", ha="center", va="center",
                    color="white" if dark else "black")  # fmt: skip
    ax.grid(False)
    ax.set(xticks=range(len(tasks)), yticks=range(len(tasks)), xticklabels=tasks,
           yticklabels=tasks, xlabel="trained on", ylabel="used on")  # fmt: skip
    return fig


def steps_and_mixes(result):
    """Steps and shares of RMSprop by layer along a fine-tuning."""
    tasks = list(dict.fromkeys(name.split("/")[0] for name in result.arrays))
    fig, axes = canvas(max(len(tasks), 1), 2, height=2.6, sharex=True)
    for column, task in enumerate(tasks):
        place = 0
        for name, values in result.arrays.items():
            on, rest = name.split("/", 1)
            layer, kind = rest.rsplit("/", 1)
            if on != task:
                continue
            ax = axes[0 if kind == "step" else 1, column]
            ax.plot(np.arange(1, len(values) + 1), values, color=_COLORS[place // 2 % len(_COLORS)],
                    label=layer)  # fmt: skip
            place += 1
        axes[0, column].set(title=task, yscale="log")
        axes[1, column].set(xlabel="step", ylim=(0, 1))
        axes[1, column].legend(fontsize=8)
    axes[0, 0].set_ylabel("step")
    axes[1, 0].set_ylabel("share of RMSprop")
    return fig


FIGURES = {
    "meta_train": (
        ("meta_losses", meta_losses,
         "Meta-losses along meta-training, on data that is not trained on."),
    ),
    "in_distribution": (
        ("curves", curves,
         "Mean test losses along fine-tunings at the horizon; L3RS are the thick lines."),
    ),
    "new_initialisation": (
        ("unseen", curves, "The same from networks of unseen pretraining seeds."),
    ),
    "new_dataset": (
        ("new_data", curves, "The same on data that L3RS was not trained on."),
    ),
    "longer_horizon": (("longer", curves, "The same for more steps."),),
    "specialisation": (
        ("transfer", transfer,
         "Test loss of L3RS by the task it is used on and the one it was trained on, over that of "
         "the optimizer of the task itself."),
    ),
    "cost": (
        ("by_time", by_time,
         "Mean test losses at the horizon by the time that the steps take, one run alone."),
    ),
    "what_it_learned": (
        ("steps_and_mixes", steps_and_mixes,
         "The step and RMSprop's share of the direction in every layer, means over fine-tunings."),
    ),
}  # fmt: skip


def draw(directory: str | os.PathLike) -> list[tuple[str, str, str]]:
    """Draws the figures of a run folder: see `ico.report.draw_figures`."""
    return draw_figures(directory, FIGURES)
