"""The figures of the report, drawn from the saved studies of a run.

Captions say what is plotted and never what came out: that stands in the claims.
"""

import os

import numpy as np

from ico.report import canvas, draw_figures, legend_below, palette

_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY, _BLACK = palette()
_COLORS = (_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY, "gray")
_LOSS = "half squared error"
# A learner has the same colour and line wherever it appears.
_LOOKS = {
    "least squares": (_BLACK, "--"),
    "one gradient step": (_BLACK, ":"),
    "mesa-1": (_VERMILION, "-"),
    "softmax, mesa": (_VERMILION, "-"),
    "softmax, linear": (_BLUE, "-"),
    "softmax": (_PINK, "-"),
    "Proposition 2": (_GREEN, "-."),
}
_MIXERS = {
    "softmax": (_PINK, "-"), "linear": (_BLUE, "-"), "gated_linear": (_BLUE, "--"),
    "delta": (_GREEN, "-"), "gated_delta": (_GREEN, "--"), "mesa": (_VERMILION, "-"),
    "gated_mesa": (_VERMILION, "--"), "mesa_cg": (_ORANGE, "-"),
}  # fmt: skip


def _looks(names) -> dict:
    """Colour and line of every learner: its own, or the next that no other one has."""
    known = {name: _LOOKS[name] for name in names if name in _LOOKS}
    free = [(color, line) for line in ("-", "--", ":") for color in _COLORS
            if (color, line) not in known.values()]  # fmt: skip
    rest = iter(free)
    return {name: known.get(name) or next(rest) for name in names}


def _by_position(ax, curves: dict, label_x: str = "position") -> None:
    looks = _looks(curves)
    for name, values in curves.items():
        color, line = looks[name]
        ax.plot(np.arange(1, len(values) + 1), values, color=color, linestyle=line, label=name)
    ax.set(yscale="log", xlabel=label_x)


def one_layer(result):
    """Loss by position of one layer and one gradient step."""
    fig, axes = canvas(1)
    curves = {name.removeprefix("loss/"): a for name, a in result.arrays.items()}
    _by_position(axes[0, 0], curves)
    axes[0, 0].set_ylabel(_LOSS)
    axes[0, 0].set_yscale("linear")
    axes[0, 0].legend()
    return fig


def depth(result):
    """Loss by position of all models on constructed tokens."""
    fig, axes = canvas(1, height=4.4)
    _by_position(axes[0, 0], {n.removeprefix("loss/"): a for n, a in result.arrays.items()})
    axes[0, 0].set_ylabel(_LOSS)
    legend_below(fig, axes, 3)
    return fig


def copying(result):
    """Attention maps of the first layer, a head a column."""
    names = list(result.arrays)
    heads = len(result.arrays[names[0]])
    fig, axes = canvas(heads, len(names), height=2.5)
    for row, name in enumerate(names):
        _, system, model = name.split("/")
        for head, matrix in enumerate(result.arrays[name]):
            ax = axes[row, head]
            ax.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
            ax.grid(False)
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{system} system, {model}\nhead {head + 1}" if head == 0
                         else f"head {head + 1}", fontsize=9)  # fmt: skip
    return fig


def probes(result):
    """Errors of probes by layer."""
    fig, axes = canvas(2)
    for ax, kind, label in zip(axes[0], ("target", "preconditioned"),
                               (_LOSS, "share not explained"), strict=True):  # fmt: skip
        place = 0
        for name, values in result.arrays.items():
            if name.startswith(f"{kind}/"):
                ax.plot(values, marker="o", color=_COLORS[place], label=name.split("/")[1])
                place += 1
        ax.set(title={"target": "next token", "preconditioned": "preconditioned input"}[kind],
               xlabel="after layer", ylabel=label)  # fmt: skip
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_yscale("log")
    legend_below(fig, axes)
    return fig


def linearised(result):
    """Loss with one layer replaced, over that of the softmax model."""
    fig, axes = canvas(1)
    ax = axes[0, 0]
    for place, (n, ratios) in enumerate(result.arrays.items()):
        ax.plot(np.arange(1, len(ratios) + 1), ratios, marker="o", color=_COLORS[place],
                label=f"{n} inputs")  # fmt: skip
    ax.axhline(1, color="gray", linewidth=0.8)
    ax.set(xlabel="layer replaced", ylabel="loss over softmax")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return fig


def few_shot(result):
    """Loss by pair, one task and two in a row."""
    fig, axes = canvas(2, height=4.4, sharey=True)
    for ax, kind, title in zip(axes[0], ("one", "two"), ("one task", "a new task half way"),
                               strict=True):  # fmt: skip
        curves = {name.split("/", 1)[1]: values for name, values in result.arrays.items()
                  if name.startswith(f"{kind}/")}  # fmt: skip
        looks = _looks(dict.fromkeys(name.partition(" + ")[0] for name in curves))
        for learner, values in curves.items():
            base, _, arm = learner.partition(" + ")
            color, line = looks[base]
            line = {"": line, "EOS": "--", "EOS + prefix": ":"}[arm]
            ax.plot(np.arange(1, len(values) + 1), values, color=color, linestyle=line,
                    label=learner)  # fmt: skip
        ax.set(title=title, xlabel="pair", yscale="log")
    axes[0, 0].set_ylabel(_LOSS)
    legend_below(fig, axes, 3)
    return fig


def comparison(result):
    """Loss by position of full models, a panel a system."""
    names = list(dict.fromkeys(name.split("/")[0] for name in result.arrays))
    fig, axes = canvas(min(len(names), 3), -(-len(names) // 3), height=3.2)
    for ax, system in zip(axes.ravel(), names, strict=False):
        curves = {name.split("/")[1]: a for name, a in result.arrays.items()
                  if name.split("/")[0] == system}  # fmt: skip
        _by_position(ax, curves)
        ax.set_title(f"{system} system")
    for ax in axes.ravel()[len(names) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel(_LOSS)
    legend_below(fig, axes)
    return fig


def recalled(result):
    """Accuracy by task, and at greater lengths."""
    keys = [name.rsplit("/", 2) for name in result.arrays]
    tasks = list(dict.fromkeys(key[0] for key in keys))
    mixers = list(dict.fromkeys(key[1] for key in keys))
    fig, axes = canvas(min(len(tasks), 3), -(-len(tasks) // 3), height=2.8, sharey=True)
    for ax, task in zip(axes.ravel(), tasks, strict=False):
        for mixer in mixers:
            times = [int(key[2]) for key in keys if key[:2] == [task, mixer]]
            low, high, value = np.array([result.arrays[f"{task}/{mixer}/{t}"] for t in times]).T
            color, line = _MIXERS[mixer]
            ax.plot(times, value, marker="o", color=color, linestyle=line, label=mixer)
            ax.fill_between(times, low, high, color=color, alpha=0.15)
        ax.axhline(0.9, color="gray", linewidth=0.8, linestyle=":")
        ax.set(title=task, xscale="log", xlabel="times the trained length", ylim=(0, 1.03))
        ax.set_xticks(times, [str(t) for t in times])
        ax.minorticks_off()
    for ax in axes.ravel()[len(tasks) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy")
    legend_below(fig, axes)
    return fig


def by_token(result):
    """Negative log-likelihood by position in a row, less that of linear attention."""
    fig, axes = canvas(1, height=4.2)
    ax = axes[0, 0]
    names = list(result.arrays)
    base = result.arrays["linear" if "linear" in names else names[0]]
    width = max(len(base) // 16, 1)
    count = len(base) // width
    looks = _looks(names)
    for name in names:
        gap = (result.arrays[name] - base)[: count * width].reshape(count, width).mean(1)
        color, line = looks[name]
        ax.plot(width * (np.arange(count) + 0.5), gap, color=color, linestyle=line, marker="o",
                markersize=4, label=name)  # fmt: skip
    ax.set(xlabel="position in the row", ylabel="nats a token, less linear attention's")
    legend_below(fig, axes)
    return fig


# study -> (figure name, its function, caption), in the order of showing.
FIGURES = {
    "one_layer_gd": (
        ("one_layer_gd", one_layer,
         "Paper, Fig. 4A. Loss by position, 1/2 |error|^2, of one trained linear layer, its "
         "reading as scalars, the model halfway between, and one gradient step at the best rate."),
    ),
    "deep": (
        ("deep", depth,
         "Paper, Fig. 4B. Loss by position on constructed tokens: linear layers (LSA) by depth, "
         "the scalars that describe the deepest, one mesa layer, and least squares that counts "
         "every pair."),
    ),
    "token_binding": (
        ("token_binding", copying,
         "Paper, Fig. 3. Attention of the first layer's heads in one seed, mean over sequences; "
         "rows are the attending positions. One colour scale, from zero to one."),
    ),
    "probes": (
        ("probes", probes,
         "Paper, Figs. 4E and 4F. Errors of linear probes after each layer (0: the tokens): for "
         "the next token, and for the input preconditioned by the past."),
    ),
    "linearisation": (
        ("linearisation", linearised,
         "Paper, Fig. 5. Loss of softmax models in which one layer is replaced by a linear one, "
         "over their own, by the number of inputs."),
    ),
    "few_shot": (
        ("few_shot", few_shot,
         "Paper, Fig. 8. Loss by pair of regressions, of models trained on dynamics alone: "
         "untuned, with a tuned token behind each pair (EOS), with a tuned prefix, too. Right: "
         "after the middle pair the task is another."),
    ),
    "model_comparison": (
        ("model_comparison", comparison,
         "Paper, Figs. 6C, 7 and 12. Loss by position of full models, on three kinds of systems, "
         "contracting ones, and on one fixed system."),
    ),
    "recall": (
        ("recall", recalled,
         "Accuracy where the answer stood before, by length of the sequence over the trained one. "
         "Bands are 95% intervals; the dotted line is 90%."),
    ),
    "language": (
        ("language", by_token,
         "Negative log-likelihood of held-out text less that of linear attention, by the position "
         "in the row, means over sixteenths."),
    ),
}  # fmt: skip


def draw(directory: str | os.PathLike) -> list[tuple[str, str, str]]:
    """Draws the figures of a run folder: see `ico.report.draw_figures`."""
    return draw_figures(directory, FIGURES)
