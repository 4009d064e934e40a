"""Figures of deep models, learned features, token copy and real data.

Each takes a StudyResult and returns a figure, or None if the run left its models out.
Dimension key: S seeds, X positions, L layers, N context pairs.
"""

import re

import numpy as np
from matplotlib import ticker

from experiments.gd_in_context._panels import (
    LOOKS,
    LOSS,
    STEP,
    dots,
    finite,
    level,
    log_y,
    name_places,
    seeds,
    single,
    titles,
    whole_x,
)
from ico.report import canvas, legend_below


def two_tied(result):
    """Fig. 3a."""
    return _deep(result.arrays, "2-tied/", "2 tied layers")


def five_untied(result):
    """Fig. 3b."""
    return _deep(result.arrays, "5-untied/", "5 untied layers")


def ten_tied(result):
    """Fig. 7."""
    return _deep(result.arrays, "10-tied/", "10 tied layers")


def full_block(result):
    """Fig. 8."""
    return _deep(result.arrays, "", "12 blocks, 4 heads, MLP")


def _deep(arrays, prefix: str, name: str):
    """Loss while training and layer by layer; of two tied layers the cosines too."""
    if f"{prefix}model" not in arrays:
        return None
    cosines = prefix == "2-tied/"
    fig, axes = canvas(3 if cosines else 2, height=3.8)
    left, middle = axes[0, :2]
    curve_SX = finite(arrays[f"{prefix}curve/loss"]).T
    seeds(left, arrays[f"{prefix}curve/step"], curve_SX, "model", name)
    level(left, arrays[f"{prefix}gd"][-1], "gd", "gradient descent")
    level(left, arrays[f"{prefix}gd_plus_plus"][-1], "gd_plus_plus", "GD++")
    titles(left, STEP, LOSS, "while training")
    log_y(left)
    _by_layer(middle, arrays, prefix, name)
    middle.set_title("after each layer")
    if cosines:
        dots(axes[0, 2], 0, arrays["two_tied/cosine_gd"], "gd")
        dots(axes[0, 2], 1, arrays["two_tied/cosine_plus"], "gd_plus_plus")
        name_places(axes[0, 2], ["with GD", "with GD++"])
        titles(axes[0, 2], "", "cosine of sensitivities", "after training")
    legend_below(fig, axes)
    return fig


def _by_layer(ax, arrays, prefix: str, name: str) -> None:
    layers = np.arange(1, arrays[f"{prefix}model"].shape[-1] + 1)
    seeds(ax, layers, arrays[f"{prefix}model"], "model", name)
    single(ax, layers, arrays[f"{prefix}gd"], "gd", "gradient descent")
    single(ax, layers, arrays[f"{prefix}gd_plus_plus"], "gd_plus_plus", "GD++")
    titles(ax, "layer (or step)", LOSS)
    log_y(ax)
    whole_x(ax)


def _depths(arrays, kind: str) -> list[int]:
    found = (re.fullmatch(rf"(\d+)-{kind}/model", name) for name in arrays)
    return sorted(int(match[1]) for match in found if match)


def other_depths(result):
    """The depths and ways of sharing weights that have no figure in the paper."""
    wanted = [(d, kind) for kind in ("tied", "untied") for d in _depths(result.arrays, kind)]
    wanted = [pair for pair in wanted if pair not in ((2, "tied"), (5, "untied"), (10, "tied"))]
    if not wanted:
        return None
    columns = min(3, len(wanted))
    fig, axes = canvas(columns, -(-len(wanted) // columns), height=3.6)
    for ax, (depth, kind) in zip(axes.flat, wanted, strict=False):
        _by_layer(ax, result.arrays, f"{depth}-{kind}/", "transformer")
        ax.set_title(f"{depth} {kind} layers")
    for ax in axes.flat[len(wanted) :]:
        ax.set_visible(False)
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    legend_below(fig, axes)
    return fig


def by_depth(result):
    """The loss after the last layer against depth."""
    kinds = [kind for kind in ("tied", "untied") if _depths(result.arrays, kind)]
    if not kinds:
        return None
    fig, axes = canvas(len(kinds), height=3.7)
    for ax, kind in zip(axes[0], kinds, strict=True):
        depths = _depths(result.arrays, kind)
        last = {
            name: np.stack([result.arrays[f"{d}-{kind}/{name}"][..., -1] for d in depths], axis=-1)
            for name in ("model", "gd", "gd_plus_plus")
        }
        seeds(ax, depths, last["model"], "model", "transformer")
        single(ax, depths, last["gd"], "gd", "gradient descent")
        single(ax, depths, last["gd_plus_plus"], "gd_plus_plus", "GD++")
        titles(ax, "layers (steps)", LOSS, f"{kind} weights")
        log_y(ax)
        ax.set_xticks(depths)
    legend_below(fig, axes)
    return fig


def sine_predictions(result):
    """Fig. 4: predictions for four sine waves."""
    arrays = result.arrays
    fig, axes = canvas(2, 2, height=2.7)
    for task, ax in enumerate(axes.flat):
        if "target" in arrays:
            ax.plot(arrays["x"], arrays["target"][task], color="0.55", linewidth=1, label="target")
        for name, look, label in _SINE:
            style = {"marker": "", "linewidth": 2.2}
            single(ax, arrays["x"], arrays[f"prediction/{name}"][task], look, label, **style)
        ax.plot(arrays["context/x"][task], arrays["context/y"][task], linestyle="none", marker="o",
                color="black", label="context", zorder=3)  # fmt: skip
        titles(ax, "x" if task > 1 else "", "y" if task % 2 == 0 else "", f"task {task + 1}")
    legend_below(fig, axes)
    return fig


_SINE = (("attention", "model", "MLP + attention"), ("descent", "gd", "MLP + one gradient step"))


def sine_training(result):
    """Fig. 4: the training curves."""
    arrays = result.arrays
    fig, axes = canvas(1, height=3.8)
    for name, look, label in _SINE:
        loss_SX = finite(arrays[f"curve/{name}/loss"]).T
        seeds(axes[0, 0], arrays[f"curve/{name}/step"], loss_SX, look, label)
    titles(axes[0, 0], STEP, LOSS)
    log_y(axes[0, 0])
    axes[0, 0].legend()
    return fig


def copy_mechanism(result):
    """Fig. 5: what the first layer reads, by gradients and by attention."""
    arrays = result.arrays
    fig, axes = canvas(2, height=4.2, width_ratios=(1, 1))
    left, right = axes[0]
    names = {"own": ("model", "own input"), "next": ("second", "next input"),
             "other": ("zero", "another input, mean")}  # fmt: skip
    for name, (look, label) in names.items():
        norm_SX = arrays[f"gradient/{name}"]
        seeds(left, np.arange(1, norm_SX.shape[-1] + 1), norm_SX, look, label)
    whole_x(left)
    titles(left, "token (odd: x, even: y)", "norm of the gradient", "gradient by inputs")
    legend_below(fig, [left])
    weights = finite(arrays["weights"][0])
    count = len(weights)
    image = right.imshow(weights, cmap="viridis", vmin=0, origin="upper",
                         extent=(0.5, weights.shape[1] + 0.5, count + 0.5, 0.5))  # fmt: skip
    right.grid(False)
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(integer=True))
    titles(right, "token attended to", "token that attends", "attention, layer 1, first seed")
    fig.colorbar(image, ax=right, shrink=0.75)
    return fig


def copy_training(result):
    """Fig. 5: training curves, and the prefix-matching score."""
    arrays = result.arrays
    fig, axes = canvas(2, height=3.9, width_ratios=(3, 2))
    left, right = axes[0]
    for first, look in (("softmax", "model"), ("linear", "second")):
        loss_SX = finite(arrays[f"curve/{first}/loss"]).T
        seeds(left, arrays[f"curve/{first}/step"], loss_SX, look, f"{first}, then linear layer")
    level(left, arrays["gd_loss"], "gd", "gradient descent, 1 step")
    titles(left, STEP, LOSS)
    for place, (name, look) in enumerate((("matching", "model"), ("shuffled", "zero"))):
        values_S = finite(arrays[name])
        color = LOOKS[look]["color"]
        right.bar(place, values_S.mean(), 0.6, color=color, alpha=0.3, edgecolor=color,
                  hatch=("", "//")[place])  # fmt: skip
        dots(right, place, values_S, look)
    name_places(right, ["repeated\npair", "another\npair"])
    titles(right, "", "share of attention, layer 2")
    legend_below(fig, axes, 2)
    return fig


_LEARNERS = {
    "trained layer": ("model", "trained layer"),
    "GD, rate of training": ("gd", "GD, rate of training"),
    "gradient descent, searched": ("second", "GD, searched rate"),
    "GD++, 2 steps, searched": ("gd_plus_plus", "GD++, 2 steps, searched"),
    "ridge regression, searched": ("third", "ridge regression, searched"),
    "zero predictor": ("zero", "zero predictor"),
}
_UNSCALED = {
    "trained layer": ("model", "trained layer"),
    "layer, update not scaled": ("interpolated", "layer, update not scaled"),
    "layer, inputs not scaled": ("second", "layer, inputs not scaled"),
    "layer, neither scaled": ("third", "layer, neither scaled"),
    "zero predictor": ("zero", "zero predictor"),
}


def real_learners(result):
    """Real data: all learners as they are meant to be used."""
    return _real(result, _LEARNERS)


def real_unscaled(result):
    """Real data: the trained layer without the scaling of its update or of its inputs."""
    return _real(result, _UNSCALED)


def _real(result, learners):
    """Mean losses with their 95% intervals, by rows in context; learners stand side by side."""
    rows = result.tables["losses"]
    contexts = sorted({row["rows in context"] for row in rows})
    fig, axes = canvas(1, height=4.4)
    ax = axes[0, 0]
    for i, (name, (look, label)) in enumerate(learners.items()):
        own = {row["rows in context"]: row for row in rows if row["learner"] == name}
        loss, low, high = (finite([own[n][key] for n in contexts])
                           for key in ("loss", "95% low", "95% high"))  # fmt: skip
        missing = int(np.isnan(loss).sum())
        shift = 0.7 * ((i + 0.5) / len(learners) - 0.5)
        style = LOOKS[look] | {"linestyle": "none", "capsize": 3, "markersize": 6}
        label += f" ({missing} of {len(contexts)} not finite)" if missing else ""
        ax.errorbar(np.arange(len(contexts)) + shift, loss, [loss - low, high - loss],
                    label=label, **style)  # fmt: skip
    name_places(ax, [str(n) for n in contexts])
    titles(ax, "rows in context", LOSS)
    log_y(ax)
    legend_below(fig, axes, 2)
    return fig
