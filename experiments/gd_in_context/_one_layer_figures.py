"""Figures of the studies of one layer: each takes a StudyResult and returns a figure, or None.

Dimension key: S seeds, T tasks, X positions, E token width.
"""

import numpy as np

from experiments.gd_in_context._panels import (
    LOOKS,
    LOSS,
    STEP,
    dots,
    finite,
    level,
    log_y,
    name_places,
    ordered,
    seeds,
    single,
    titles,
    whole_x,
)
from ico.report import band, canvas, legend_below


def training(result):
    """Fig. 2: loss, cosine and differences while one layer trains."""
    arrays = result.arrays
    # Histories are [rows, S].
    step, curve = arrays["curve/step"], {k: finite(v).T for k, v in arrays.items() if "curve" in k}
    fig, axes = canvas(3, height=3.5)
    left, middle, right = axes[0]
    seeds(left, step, curve["curve/loss"], "model", "trained layer")
    seeds(left, step, curve["curve/interpolated"], "interpolated", "interpolated")
    gd_loss = arrays.get("curve/gd_loss", arrays["gd_loss"])
    level(left, gd_loss, "gd", "gradient descent, 1 step")
    top = np.nanmax([np.nanmax(curve["curve/loss"]), float(gd_loss)])
    left.set_ylim(0, 1.1 * top)
    titles(left, STEP, LOSS)
    seeds(middle, step, curve["curve/cosine"], "model", "trained layer")
    titles(middle, STEP, "cosine with gradient descent")
    seeds(right, step, curve["curve/model_difference"], "second", "difference of sensitivities")
    seeds(right, step, curve["curve/prediction_difference"], "third", "difference of predictions")
    right.set_ylim(bottom=0)
    titles(right, STEP, "distance to gradient descent")
    legend_below(fig, axes, 3)
    return fig


def weights(result):
    """Trained weight products beside those of the construction."""
    arrays = result.arrays
    shown = min(3, len(arrays["weights/kq"]))
    fig, axes = canvas(shown + 1, 2, height=2.1)
    names = ["construction", *(f"trained, seed {i + 1}" for i in range(shown))]
    for row, (key, word) in enumerate((("kq", "$W_{KQ}/\\beta$"), ("pv", "$\\beta\\,W_{PV}$"))):
        target = arrays[f"weights/built_{key}"]
        matrices = [finite(m) for m in (target, *arrays[f"weights/{key}"][:shown])]
        # Around the construction, so that a seed far from it cannot hide the others.
        limit = 1.5 * max(np.abs(target).max(), 1e-12)
        for ax, matrix, name in zip(axes[row], matrices, names, strict=True):
            ax.imshow(matrix, cmap="PuOr", vmin=-limit, vmax=limit)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(False)
            ax.spines[:].set_visible(True)
            if row == 0:
                ax.set_title(name, fontsize=11)
        axes[row, 0].set_ylabel(word, fontsize=13)
        fig.colorbar(axes[row, 0].images[0], ax=axes[row], shrink=0.8, extend="both")
    return fig


def _beside_ratio(x, xlabel, model_SX, gd_X, draw_left=None):
    """Left the losses, right the model's over gradient descent's for every seed."""
    fig, axes = canvas(2, height=3.6)
    left, right = axes[0]
    if draw_left is None:
        seeds(left, x, model_SX, "model", "trained layer")
        single(left, x, gd_X, "gd", "gradient descent")
    else:
        draw_left(left)
    titles(left, xlabel, LOSS)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_SX = finite(model_SX) / finite(gd_X)
    right.axhline(1.0, color="0.4", linewidth=1)
    seeds(right, x, ratio_SX, "model", "trained layer")
    right.ticklabel_format(axis="y", useOffset=False)
    titles(right, xlabel, "loss / loss of gradient descent")
    legend_below(fig, axes)
    return fig, left, right


def dimensions(result):
    """Fig. 2: the sweep over N = d."""
    arrays = result.arrays
    dims = np.asarray(arrays["dims"])
    model_STX = np.stack([arrays[f"model/{d}"] for d in dims], axis=-1)
    gd_TX = np.stack([arrays[f"gd/{d}"] for d in dims], axis=-1)

    def losses(ax):

        band(ax, dims, finite(model_STX), label="trained layer", **LOOKS["model"])
        band(ax, dims, finite(gd_TX), label="gradient descent", **LOOKS["gd"])

    fig, *axes = _beside_ratio(dims, "N = d", model_STX.mean(1), gd_TX.mean(0), losses)
    for ax in axes:
        ax.set_xticks(dims)
    return fig


def roll_out(result):
    """Figs. 1 and 10: the trained layer applied again and again."""
    model_SX, gd_X = result.arrays["model"], result.arrays["gd"]
    steps = np.arange(1, len(gd_X) + 1)
    fig, left, right = _beside_ratio(steps, "step (application of the layer)", model_SX, gd_X)
    log_y(left)
    whole_x(left)
    whole_x(right)
    return fig


def _pair(ax, arrays, name, xlabel, title=""):
    seeds(ax, arrays[f"{name}/x"], arrays[f"{name}/model"], "model", "trained layer")
    single(ax, arrays[f"{name}/x"], arrays[f"{name}/gd"], "gd", "gradient descent")
    titles(ax, xlabel, LOSS, title)
    log_y(ax)


def ranges(result):
    """Figs. 2 and 6: other input ranges and weight scales."""
    fig, axes = canvas(2, height=3.6)
    _pair(axes[0, 0], result.arrays, "input_range", "input range (training: 1)")
    _pair(axes[0, 1], result.arrays, "weight_scale", "weight scale (training: 1)")
    legend_below(fig, axes)
    return fig


def distributions(result):
    """Fig. 6: inputs of other distributions."""
    fig, axes = canvas(3, height=3.6)
    for ax, name in zip(axes[0], ("normal", "exponential", "laplace"), strict=True):
        _pair(ax, result.arrays, name, "norm of the context inputs", name.capitalize())
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
    legend_below(fig, axes)
    return fig


def softmax_heads(result):
    """Figs. 11 and 12: softmax attention with one head and with two."""
    arrays = result.arrays
    looks = {"linear, 1 head": "model", "softmax, 1 head": "second", "softmax, 2 heads": "third"}
    fig, axes = canvas(2, height=3.9, width_ratios=(3, 2))
    left, right = axes[0]
    for name, look in looks.items():
        seeds(left, arrays[f"curve/{name}/step"], finite(arrays[f"curve/{name}/loss"]).T, look,
              name)  # fmt: skip
    level(left, arrays["gd_loss"], "gd", "gradient descent, 1 step")
    titles(left, STEP, LOSS)
    cosines = {row["learner"]: row["cosine with GD"] for row in result.tables["losses"]
               if row.get("cosine with GD") is not None}  # fmt: skip
    for place, (name, look) in enumerate(looks.items()):
        dots(right, place, cosines[name], look)
    name_places(right, [name.replace(", ", "\n") for name in looks])
    titles(right, "", "cosine with gradient descent")
    legend_below(fig, axes, 2)
    return fig


def layer_norm(result):
    """Fig. 14: one layer behind a LayerNorm."""
    arrays = result.arrays
    fig, axes = canvas(2, height=3.7, width_ratios=(3, 1))
    left, right = axes[0]
    loss_SX = finite(arrays["curve/loss"]).T
    seeds(left, arrays["curve/step"], loss_SX, "model", "trained layer with LayerNorm")
    level(left, arrays["gd_loss"], "gd", "gradient descent, 1 step")
    titles(left, STEP, LOSS)
    dots(right, 0, arrays["cosine"], "model")
    name_places(right, ["after training"])
    titles(right, "", "cosine with gradient descent")
    legend_below(fig, axes)
    return fig


def distractors(result):
    """Random labels in the context."""
    arrays = result.arrays
    xlabel = "random labels among 10"
    x, model, gd = (arrays[f"count/{key}"] for key in ("x", "model", "gd"))
    return _beside_ratio(x, xlabel, model, gd)[0]


def task_set_curves(result):
    """Figs. 15 and 16: training on finite sets of tasks."""
    arrays = result.arrays
    sizes = [int(size) for size in arrays["sizes"]]
    fig, axes = canvas(2, height=4.0)
    kinds = (("train", "on its own tasks"), ("test", "on fresh tasks"))
    for ax, (kind, title) in zip(axes[0], kinds, strict=True):
        for size, style in zip(sizes, ordered(len(sizes)), strict=True):
            values_SX = finite(arrays[f"curve/{size}/{kind}"]).T
            seeds(ax, arrays[f"curve/{size}/step"], values_SX, "", f"{size:,} tasks", **style)
        gd_loss = arrays.get("curve/gd_loss", arrays["gd_loss"])
        level(ax, gd_loss, "gd", "gradient descent, fresh tasks")
        titles(ax, STEP, LOSS, title)
        log_y(ax)
    legend_below(fig, axes, 3)
    return fig


def task_set_sizes(result):
    """Figs. 15 and 16: the loss after training by the number of tasks."""
    rows = result.tables["losses"]
    sizes = [row["tasks"] for row in rows]
    fresh, low, high = (finite([row[k] for row in rows]) for k in ("loss", "95% low", "95% high"))
    fig, axes = canvas(1, height=4.0)
    ax = axes[0, 0]
    ax.set_xscale("log", base=2)
    single(ax, sizes, fresh, "model", "trained layer, fresh tasks")
    ax.fill_between(sizes, low, high, color="C0", alpha=0.2, linewidth=0)
    own = [row["loss on its own tasks"] for row in rows]
    single(ax, sizes, own, "second", "trained layer, its own tasks")
    level(ax, result.arrays["gd_loss"], "gd", "gradient descent, fresh tasks")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    titles(ax, "tasks trained on", LOSS)
    log_y(ax)
    ax.legend()
    return fig
