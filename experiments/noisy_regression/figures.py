"""The figures of the report, drawn from the saved studies of a run.

Captions say what is plotted and never what came out: that stands in the claims.
"""

import os

import numpy as np

from ico.report import canvas, draw_figures, legend_below, palette

_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY, _BLACK = palette()
_LOSS = "excess over the oracle"
# A learner has the same colour, marker and line wherever it appears.
_LOOKS = {
    "GD++": (_GREEN, "^", "-."),
    "DIAG": (_BLUE, "o", "-"),
    "DIAG, free scalars": (_SKY, "P", "-"),
    "FULL": (_PINK, "D", "--"),
    "ConstRR": (_ORANGE, None, ":"),
    "AdaRR": (_VERMILION, None, "--"),
    "TunedRR": (_BLACK, None, "-."),
}
_SIGMAS = (_BLUE, _GREEN, _ORANGE, _VERMILION)


def _split(name: str) -> tuple[str, int]:
    """Variant and layers of a name such as "DIAG, 4 layers"."""
    words = name.removesuffix(" layers").rsplit(" ", 1)
    return words[0].rstrip(","), int(words[1])


def table1(result):
    """Loss by depth for every noise setting, baselines as levels."""
    rows = result.tables["losses"]
    settings = list(dict.fromkeys(row["noise up to, or among"] for row in rows))
    fig, axes = canvas(2, -(-len(settings) // 2), sharex=True)
    for ax, setting in zip(axes.ravel(), settings, strict=False):
        mine = [row for row in rows if row["noise up to, or among"] == setting]
        for learner, (color, marker, line) in _LOOKS.items():
            of = [row for row in mine if row["learner"] == learner]
            if not of:
                continue
            if of[0]["layers"] is None:
                if of[0]["loss"] > 1e-9:
                    ax.axhline(of[0]["loss"], color=color, linestyle=line, label=learner)
                continue
            of = sorted(of, key=lambda row: row["layers"])
            x, y = [row["layers"] for row in of], np.array([row["loss"] for row in of])
            ax.plot(x, np.maximum(y, 1e-12), color=color, marker=marker, linestyle=line,
                    label=learner)  # fmt: skip
            paper = [(row["layers"], row["paper"]) for row in of if row["paper"]]
            if paper:
                ax.plot(*zip(*paper, strict=True), linestyle="none", marker="x", color=_BLACK,
                        label="the paper", zorder=5)  # fmt: skip
        among = "among" if setting[0] == "{" else "up to"
        ax.set(yscale="log", title="no noise" if setting == "0" else f"noise {among} {setting}")
        ax.set_ylim(top=min(10, ax.get_ylim()[1]))
        ax.xaxis.get_major_locator().set_params(integer=True)
    for ax in axes.ravel()[len(settings) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel(_LOSS)
    for ax in axes[-1]:
        ax.set_xlabel("layers")
    legend_below(fig, axes)
    return fig


def profile(result):
    """Loss against sigma."""
    arrays = result.arrays
    fig, axes = canvas(1, height=4.2)
    ax, sigma = axes[0, 0], arrays["sigma"]
    names = [name.removeprefix("loss/") for name in arrays if name.startswith("loss/")]
    depths = sorted({_split(name)[1] for name in names if name.startswith("DIAG")})
    for name in names:
        mean, low, high = arrays[f"loss/{name}"]
        variant, depth = _split(name) if name not in _LOOKS else (name, 0)
        color, marker, line = _LOOKS[variant]
        alpha = 1.0
        if variant == "DIAG":
            alpha = 0.35 + 0.65 * (depths.index(depth) + 1) / len(depths)
        ax.plot(sigma, mean, color=color, marker=marker, linestyle=line, label=name, alpha=alpha,
                markersize=4)  # fmt: skip
        ax.fill_between(sigma, low, high, color=color, alpha=0.15)
    ax.axvline(5, color="gray", linewidth=0.8)
    ax.set(yscale="log", xlabel="standard deviation of the noise", ylabel=_LOSS)
    ax.set_ylim(bottom=max(1e-5, ax.get_ylim()[0]))
    legend_below(fig, axes, 3)
    return fig


def layers(result):
    """Loss and length along the oracle after each layer, by noise level."""
    arrays = result.arrays
    names = [name.removeprefix("loss/") for name in arrays if name.startswith("loss/")]
    fig, axes = canvas(len(names), 2, height=2.8, sharey="row")
    for column, name in enumerate(names):
        for row, (kind, label) in enumerate((("loss", _LOSS), ("length", "length along oracle"))):
            ax = axes[row, column]
            for color, sigma, values in zip(_SIGMAS, arrays["sigma"], arrays[f"{kind}/{name}"],
                                            strict=True):  # fmt: skip
                ax.plot(np.arange(1, len(values) + 1), values, color=color, marker="o",
                        markersize=4, label=f"sigma {sigma:g}")  # fmt: skip
            ax.xaxis.get_major_locator().set_params(integer=True)
            if kind == "loss":
                ax.set(yscale="log", title=name)
            else:
                ax.axhline(1, color="gray", linewidth=0.8)
                ax.set_xlabel("layer")
            if column == 0:
                ax.set_ylabel(label)
    legend_below(fig, axes)
    return fig


def matrices(result):
    """P and Q of every layer as pictures."""
    p, q = result.arrays["p"], result.arrays["q"]
    fig, axes = canvas(len(p), 2, height=2.4)
    for row, (name, stack) in enumerate((("P", p), ("Q", q))):
        for layer, matrix in enumerate(stack):
            ax, top = axes[row, layer], float(np.abs(matrix).max())
            picture = ax.imshow(matrix, cmap="RdBu_r", vmin=-top, vmax=top)
            ax.set(title=f"{name}, layer {layer + 1}", xticks=[], yticks=[])
            ax.grid(False)
            fig.colorbar(picture, ax=ax, shrink=0.7)
    return fig


def step(result):
    """The effective step by noise level, beside the oracle's."""
    arrays = result.arrays
    fig, axes = canvas(1)
    ax = axes[0, 0]
    looks = _LOOKS | {"oracle": (_BLACK, None, "--")}
    for name in (name for name in arrays if name.startswith("step/")):
        learner = name.removeprefix("step/")
        color, marker, line = looks[learner]
        ax.plot(arrays["sigma"], arrays[name], color=color, marker=marker, linestyle=line,
                label=learner)  # fmt: skip
    ax.set(xlabel="standard deviation of the noise", ylabel="<w, w_OLS> / |w_OLS|^2")
    ax.legend()
    return fig


def convergence(result):
    """Layers needed against the condition number."""
    arrays = result.arrays
    fig, axes = canvas(1)
    ax, kappa = axes[0, 0], arrays["kappa"]
    ax.plot(kappa, arrays["layers"], linestyle="none", marker="o", color=_GREEN, alpha=0.5,
            fillstyle="none")  # fmt: skip
    slope, intercept = arrays["line"]
    ax.plot(kappa, intercept + slope * np.log(kappa), color=_BLACK, linestyle="--",
            label="line fitted to the means")  # fmt: skip
    ax.set(xscale="log", xlabel="condition number", ylabel="layers of GD++")
    ax.set_xticks(kappa, [f"{value:g}" for value in kappa])
    ax.minorticks_off()
    ax.legend()
    return fig


_FURTHEST = 100.0  # of the axis for shifted tasks


def shifted(result):
    """Loss under every shift, by learner."""
    names = list(dict.fromkeys(name.split("/", 1)[0] for name in result.arrays))
    learners = list(dict.fromkeys(name.split("/", 1)[1] for name in result.arrays))
    fig, axes = canvas(1, height=5.0)
    ax = axes[0, 0]
    for place, learner in enumerate(learners):
        variant = learner if learner in _LOOKS else _split(learner)[0]
        color, marker, _ = _LOOKS[variant]
        deep = learner.startswith("DIAG") and place == max(
            i for i, name in enumerate(learners) if name.startswith("DIAG")
        )
        values = np.array([result.arrays[f"{name}/{learner}"][2] for name in names])
        rows = np.arange(len(names)) + 0.08 * (place - len(learners) / 2)
        near = values <= _FURTHEST  # not so NaN
        ax.plot(values[near], rows[near], label=learner, linestyle="none", color=color,
                marker=marker or "|", markersize=7,
                fillstyle="none" if deep else "full")  # fmt: skip
        ax.plot(np.full((~near).sum(), _FURTHEST), rows[~near], linestyle="none", color=color,
                marker=">", markersize=7, fillstyle="none" if deep else "full")  # fmt: skip
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel=_LOSS)
    ax.set_xlim(right=1.3 * _FURTHEST)
    legend_below(fig, axes)
    return fig


def real(result):
    """Losses on real tables, one panel for each and each kind of input."""
    keys = [name.split("/") for name in result.arrays]
    tables, inputs = (list(dict.fromkeys(key[i] for key in keys)) for i in (0, 1))
    noises = list(dict.fromkeys(key[2] for key in keys))
    learners = list(dict.fromkeys(key[3] for key in keys))
    fig, axes = canvas(len(tables), len(inputs), height=3.0)
    looks = _LOOKS | {"ridge, searched": (_SKY, "s", "-"), "zero": ("gray", None, ":")}
    deepest = max(
        (name for name in learners if name.startswith("DIAG")), key=lambda n: _split(n)[1]
    )
    for row, kind in enumerate(inputs):
        for column, table in enumerate(tables):
            ax = axes[row, column]
            for learner in learners:
                variant = learner if learner in looks else _split(learner)[0]
                color, marker, line = looks[variant]
                values = [result.arrays[f"{table}/{kind}/{noise}/{learner}"][2]
                          for noise in noises]  # fmt: skip
                ax.plot([float(noise) for noise in noises], values, color=color, marker=marker,
                        linestyle=line, label=learner, markersize=4,
                        fillstyle="none" if learner == deepest else "full")  # fmt: skip
            ax.set(title=f"{table}\n{kind}")
            # Who is worse than zero is told by the table.
            zero = max(result.arrays[f"{table}/{kind}/{noise}/zero"][2] for noise in noises)
            ax.set_ylim(0, 1.1 * zero)
            if row == len(inputs) - 1:
                ax.set_xlabel("noise added")
            if column == 0:
                ax.set_ylabel("median half squared error")
    legend_below(fig, axes)
    return fig


# study -> (figure name, its function, caption), in the order of showing.
FIGURES = {
    "table1": (
        ("table1", table1,
         "Paper, Fig. 1 and Table 1. Expected excess over the ridge oracle that knows sigma, by "
         "number of layers, one panel a noise setting; best of the seeds, chosen on other "
         "contexts. Crosses: the paper's numbers. Lines without markers: ridge baselines (none "
         "where their loss is zero). The axis ends at 10."),
    ),
    "per_noise_profile": (
        ("per_noise_profile", profile,
         "Paper, Fig. 2. The same loss at fixed noise levels, of models trained and baselines "
         "tuned at noise up to 5 (gray line). DIAG is darker the deeper. Bands are 95% intervals "
         "over contexts; the axis ends at 1e-5."),
    ),
    "layer_predictions": (
        ("layer_predictions", layers,
         "Paper, Figs. 5 and 7. The implicit model after each layer at four noise levels: its "
         "excess over the oracle (top), and its length along the oracle's weights, "
         "E<w_l, w_oracle> / E|w_oracle|^2 (bottom)."),
    ),
    "weights": (
        ("weights", matrices,
         "Paper, Fig. 4. The matrices P and Q of the trained FULL model, one colour scale each; "
         "the last row and column belong to y."),
    ),
    "mechanism": (
        ("effective_step", step,
         "How far the deepest DIAG and GD++ models of the table, ConstRR and the ridge oracle that "
         "knows sigma go along the least-squares solution at each noise level."),
    ),
    "gd_plus_plus_convergence": (
        ("gd_plus_plus_convergence", convergence,
         "Theorem 5.1. Layers of GD++, scalars fitted to each spectrum, until the mean squared "
         "error over its hundred eigenvalues is 1e-4 of its start; interpolated between depths. "
         "Circles: spectra drawn log-uniformly at a condition number."),
    ),
    "out_of_distribution": (
        ("out_of_distribution", shifted,
         "Expected excess over the oracle of the shifted task, for models trained and baselines "
         "tuned at noise up to 5. The open marker is the deepest DIAG. Arrows at the right edge: "
         "means beyond 100, where a few contexts blow up."),
    ),
    "real_data": (
        ("real_data", real,
         "Median half squared error when ten random columns of a real table predict another, by "
         "the noise added to the labels in the context; inputs standardised (top) or whitened "
         "(bottom) by the rows outside the task. The open marker is the deepest DIAG. Axes end "
         "just above the loss of predicting zero."),
    ),
}  # fmt: skip


def draw(directory: str | os.PathLike) -> list[tuple[str, str, str]]:
    """Draws the figures of a run folder: see `ico.report.draw_figures`."""
    return draw_figures(directory, FIGURES)
