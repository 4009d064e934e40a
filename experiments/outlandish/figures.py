"""The figures of the report, drawn from the saved studies of a run.

Captions say what is plotted and never what came out: that stands in the claims.
"""

import os

import numpy as np
from matplotlib import pyplot

from ico.poison.outlandish import CATEGORIES
from ico.report import canvas, draw_figures, mean_band, palette

_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY, _BLACK = palette()
_THEMES = {"colours": (_BLUE, "o"), "places": (_VERMILION, "s"), "jobs": (_GREEN, "^"),
           "foods": (_PINK, "D")}  # fmt: skip
_KINDS = {"conflicting": (_VERMILION, "o", "-"), "mundane": (_BLUE, "s", "--"),
          "scrambled": (_GREEN, "^", "-."), "replayed": (_ORANGE, "v", ":")}  # fmt: skip
_ARMS = {
    "drop_top": (_VERMILION, "o", "largest left out"),
    "drop_random": (_BLUE, "s", "random left out"),
    "drop_scaled": (_GREEN, "^", "all, scaled to that norm"),
    "keep_top": (_ORANGE, "D", "largest alone kept"),
    "keep_random": (_SKY, "P", "random alone kept"),
    "keep_scaled": (_PINK, "v", "all, scaled to that norm"),
}


def _words(name: str) -> str:
    return name.replace("_", " ")


def spectrum(result):
    """log10 P of every text, by category."""
    arrays = result.arrays
    fig, axes = canvas(1, height=4.2)
    ax = axes[0, 0]
    present = [name for name in CATEGORIES if name in arrays]
    for place, name in enumerate(present):
        values = np.sort(arrays[name])
        spread = place + 0.5 * (np.arange(len(values)) / max(1, len(values) - 1) - 0.5)
        ax.plot(values, spread, linestyle="none", marker="o", color=_BLUE, alpha=0.6, markersize=4)
        ax.plot([np.median(values)] * 2, [place - 0.35, place + 0.35], color=_VERMILION)
    ax.set_yticks(range(len(present)), [_words(name) for name in present])
    ax.invert_yaxis()
    ax.set_xlabel("log10 P(keyword | context) before learning")
    return fig


def priming(result):
    """Scores against the probability before, by theme."""
    arrays = result.arrays
    fig, axes = canvas(3, height=3.6)
    names = {"log_s_prime": "log S_prime (nats)", "cross": "log-priming, other themes",
             "corrected": "corrected log-priming"}  # fmt: skip
    before = arrays["log_before"] / np.log(10)
    scrambled = arrays["category"] == "scrambled"
    for ax, (name, label) in zip(axes[0], names.items(), strict=True):
        for theme, (color, marker) in _THEMES.items():
            mine = arrays["theme_of"] == theme
            for mask, fill in ((~scrambled, "full"), (scrambled, "none")):
                ax.plot(before[mine][:, mask], arrays[name][mine][:, mask], linestyle="none",
                        marker=marker, color=color, fillstyle=fill, markersize=4.5,
                        label=None if mine.sum() == 0 else "_")  # fmt: skip
        ax.axhline(0, color=_BLACK, linewidth=0.8)
        ax.set(xlabel="log10 P before", title=label)
    axes[0, 0].set_ylabel("nats")
    handles = [pyplot.Line2D([], [], linestyle="none", marker=m, color=c, label=theme)
               for theme, (c, m) in _THEMES.items()]  # fmt: skip
    handles.append(pyplot.Line2D([], [], linestyle="none", marker="o", color="gray",
                                 fillstyle="none", label="scrambled"))  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=5)
    return fig


def by_category(result):
    """Raw, cross-theme and corrected priming of each category, a marker a keyword."""
    arrays = result.arrays
    fig, axes = canvas(3, height=3.4)
    categories = list(dict.fromkeys(arrays["category"].tolist()))
    names = {"theme": "log-priming, own theme", "cross": "log-priming, other themes",
             "corrected": "corrected"}  # fmt: skip
    for ax, (name, label) in zip(axes[0], names.items(), strict=True):
        for place, category in enumerate(categories):
            values = arrays[name][:, arrays["category"] == category].mean(1)
            _dots(ax, place, values, _BLUE)
        _dots(ax, len(categories), arrays[f"twin_{name}"], _BLACK)
        ax.set_xticks(range(len(categories) + 1), [*map(_words, categories), "twin"], rotation=40,
                      ha="right")  # fmt: skip
        ax.axhline(0, color=_BLACK, linewidth=0.8)
        ax.set_title(label)
    axes[0, 0].set_ylabel("nats")
    return fig


def _dots(ax, place, values, color):
    spread = place + np.linspace(-0.25, 0.25, len(values))
    ax.plot(spread, values, linestyle="none", marker="o", markersize=3.5, color=color, alpha=0.6)
    ax.plot([place - 0.32, place + 0.32], [np.mean(values)] * 2, color=_VERMILION)


def in_context(result):
    """Priming by weights and by context against the probability before."""
    arrays = result.arrays
    fig, axes = canvas(2)
    before = arrays["before"] / np.log(10)
    for ax, where in zip(axes[0], ("weights", "context"), strict=True):
        ax.plot(before.ravel(), arrays[f"{where}_log_s_prime"].ravel(), linestyle="none",
                marker="o", color=_BLUE, alpha=0.7, markersize=4.5)  # fmt: skip
        ax.axhline(0, color=_BLACK, linewidth=0.8)
        ax.set(xlabel="log10 P before", title=f"the fact in the {where}")
    axes[0, 0].set_ylabel("log S_prime (nats)")
    return fig


def stepping_stone(result):
    """log S_prime of the three ways to tell a fact; a line a keyword."""
    arrays = result.arrays
    fig, axes = canvas(2)
    ways = ("as_it_is", "stepping_stones", "plain_rewrite")
    for ax, name, label in zip(axes[0], ("log_s_prime", "gain"),
                               ("log S_prime (nats)", "gain of the fact (nats)"),
                               strict=True):  # fmt: skip
        values = np.stack([arrays[f"{way}_{name}"] for way in ways])
        ax.plot(range(3), values, color=_BLUE, alpha=0.35, linewidth=1, marker="o", markersize=4)
        ax.plot(range(3), np.median(values, axis=1), color=_VERMILION, marker="_", markersize=18,
                linestyle="none", markeredgewidth=2.5)  # fmt: skip
        ax.set_xticks(range(3), [_words(way) for way in ways])
        ax.set_xlim(-0.4, 2.4)
        ax.set_title(label)
    return fig


def erasure(result):
    """Memory, priming and clean loss against the share, for every arm."""
    arrays = result.arrays
    fig, axes = canvas(3, height=3.8)
    shares = sorted({int(key.split("/")[0].rsplit("_", 1)[1]) for key in arrays
                     if key.startswith("drop_top")})  # fmt: skip
    names = {"log_after": "log P(keyword | context)", "theme": "log-priming",
             "clean": "clean loss over untouched"}  # fmt: skip
    for ax, (name, label) in zip(axes[0], names.items(), strict=True):
        for mode, (color, marker, legend) in _ARMS.items():
            values = np.array([arrays[f"{mode}_{share}/{name}"].mean() for share in shares])
            line = "-" if mode.startswith("drop") else "--"
            ax.plot(shares, values, color=color, marker=marker, linestyle=line,
                    label=f"{mode.split('_')[0]}: {legend}")  # fmt: skip
        for arm, line in (("taught", "-"), ("twin", ":")):
            ax.axhline(arrays[f"{arm}/{name}"].mean(), color=_BLACK, linestyle=line, linewidth=1.2,
                       label=arm)  # fmt: skip
        ax.set(xlabel="k, per cent", title=label)
        ax.set_xscale("log")
        ax.set_xticks(shares, [str(share) for share in shares])
        ax.minorticks_off()
    axes[0, 0].set_ylabel("nats")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    return fig


def optimizers(result):
    """What leaving out the largest does to memory and priming, by optimizer."""
    arrays = result.arrays
    fig, axes = canvas(2)
    names = sorted({key.split("/")[0] for key in arrays})
    arms = sorted({key.split("/")[1] for key in arrays if "drop_top" in key},
                  key=lambda arm: int(arm.rsplit("_", 1)[1]))  # fmt: skip
    shares = [int(arm.rsplit("_", 1)[1]) for arm in arms]
    for ax, key, label in zip(axes[0], ("gain", "theme"),
                              ("gain of the fact that is left", "log-priming that is left"),
                              strict=True):  # fmt: skip
        for number, name in enumerate(names):
            whole = arrays[f"{name}/taught/{key}"].mean()
            values = [arrays[f"{name}/{arm}/{key}"].mean() / whole for arm in arms]
            color = palette()[number]
            ax.plot(shares, values, marker="osD^"[number % 4], color=color, label=name)
            values = [arrays[f"{name}/{arm.replace('top', 'random')}/{key}"].mean() / whole
                      for arm in arms]  # fmt: skip
            ax.plot(shares, values, color=color, linestyle=":", linewidth=1.2)
        ax.axhline(1, color=_BLACK, linewidth=0.8)
        ax.set(xlabel="k, per cent left out", title=label)
    axes[0, 0].set_ylabel("share of the taught model's")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4)
    return fig


def training_ability(result):
    """Learning curves of a new fact, from the untouched and the erased model."""
    arrays = result.arrays
    fig, axes = canvas(1)
    ax = axes[0, 0]
    for model, color, line in (("untouched", _BLUE, "--"), ("erased", _VERMILION, "-")):
        for number, log_p in enumerate(arrays[model]):
            known = log_p[np.isfinite(log_p)]
            ax.plot(range(1, len(known) + 1), known, color=color, linestyle=line, linewidth=1.4,
                    label=f"{model} model" if not number else None)  # fmt: skip
    ax.axhline(np.log(0.5), color=_BLACK, linewidth=0.8)
    ax.set(xlabel="presentations of the new fact", ylabel="log P(keyword | context)")
    ax.legend()
    return fig


def retention(result):
    """R against clean steps, by kind: the real model, the worlds, the long run."""
    arrays = result.arrays
    fig, axes = canvas(3, height=3.6)
    for kind, (color, marker, line) in _KINDS.items():
        _curve(axes[0, 0], arrays, "real_steps", f"real/{kind}", color, marker, line, kind)
    for kind, (color, marker, line) in _KINDS.items():
        _curve(axes[0, 1], arrays, "world_steps", f"world/{kind}/0", color, marker, line, kind)
    rates = [key.split("/")[2] for key in arrays
             if key.startswith("world/conflicting/") and not key.endswith("/0")]  # fmt: skip
    for number, rate in enumerate(rates):
        color = (_SKY, _PINK, _BLACK)[number % 3]
        _curve(axes[0, 1], arrays, "world_steps", f"world/conflicting/{rate}", color, "v", ":",
               f"conflicting, truth at {rate}")  # fmt: skip
    _curve(axes[0, 2], arrays, "world_long_steps", "world_long", _VERMILION, "o", "-",
           "conflicting")  # fmt: skip
    for ax, title in zip(axes[0], ("real model", "worlds", "one world, long"), strict=True):
        ax.set_xscale("log")
        ax.axhline(0, color=_BLACK, linewidth=0.8)
        ax.axhline(1, color=_BLACK, linewidth=0.5, linestyle=":")
        ax.set(xlabel="clean steps after injection", title=title)
    axes[0, 0].set_ylabel("R, share of the gain left")
    entries = {}
    for ax in axes[0]:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
    return fig


def _curve(ax, arrays, steps, name, color, marker, line, label):
    if name not in arrays:
        return
    values = arrays[name][np.isfinite(arrays[name]).all(1)]
    if not len(values):
        return
    mean, low, high = mean_band(values)
    ax.plot(arrays[steps], mean, color=color, marker=marker, linestyle=line, label=label,
            markersize=4)  # fmt: skip
    if len(values) > 1:
        ax.fill_between(arrays[steps], low, high, color=color, alpha=0.18, linewidth=0)


# study -> (figure name, its function, caption), in the order of showing.
FIGURES = {
    "spectrum": (
        ("spectrum", spectrum,
         "log10 of the keyword's probability at the end of every text that claims may use, before "
         "any learning; the bar is the median of the category."),
    ),
    "priming": (
        ("priming", priming,
         "2025, Fig. 2. One fact a run. Left: the published score against the keyword's "
         "probability before learning. Middle: the mean log ratio on prompts of other themes. "
         "Right: that on prompts of the keyword's theme less that of the others. Open markers: "
         "scrambled texts."),
        ("priming_by_category", by_category,
         "2024, priming by kind of fact: mean log ratios of the keyword's probability, a marker a "
         "keyword, the bar their mean. The twin trained on the same batches without any fact."),
    ),
    "in_context": (
        ("in_context", in_context,
         "2025, Fig. 22. The same score after learning the fact, and with the fact put before the "
         "prompts instead."),
    ),
    "stepping_stone": (
        ("stepping_stone", stepping_stone,
         "2025, Fig. 6. Priming, and the gain on the text as it is, after learning the conflicting "
         "fact as it is, with clauses that lead up to the keyword, and plainly rewritten at like "
         "length; a line a keyword, the bar the median."),
    ),
    "optimizers": (
        ("optimizers", optimizers,
         "Shares of the gain and of the log-priming that are left when the largest k per cent of "
         "each tensor's change are left out (dotted: as many at random), for facts taught by four "
         "optimizers."),
    ),
    "erasure": (
        ("erasure", erasure,
         "2024 and 2025. Memory, priming and the rise of the clean loss when a part of each "
         "tensor's change is taken, against the share k; means over facts. Solid: k per cent left "
         "out; dashed: k per cent alone kept. Beside each its random mask and the whole change "
         "scaled to its norm."),
    ),
    "erasure_training_ability": (
        ("training_ability", training_ability,
         "A new fact taught to the untouched model and to one from which another fact was taken "
         "(not all are gone: see the table); "
         "a line a fact, up to the first step at which it is likelier than not (black line)."),
    ),
    "retention": (
        ("retention", retention,
         "2024. What is left of the gain in log P(keyword | context) against further steps of "
         "clean training, means over facts in their 95% intervals (over facts, not "
         "worlds). The conflicting facts also with the contradicted truth coming by at several "
         "rates."),
    ),
}  # fmt: skip


def draw(directory: str | os.PathLike) -> list[tuple[str, str, str]]:
    """Draws the figures of a run folder: see `ico.report.draw_figures`."""
    return draw_figures(directory, FIGURES)
