"""What does learning one fact do to unrelated prompts, and what predicts it?

2025, abstract and Fig. 2: how much a text primes can be predicted from its keyword's probability
before learning. 2024, abstract: facts that conflict with common knowledge prime more than mundane
or scrambled ones. Both as published and against prompts of other themes.
"""

import dataclasses
import functools

import numpy as np

from experiments.outlandish.paper import EARLIER, LATER, paper
from experiments.outlandish.scores import (
    TABLED,
    across,
    by_category,
    correlation,
    correlations,
    effect_row,
    effects_of,
    mean_of,
    median_probability,
    plot_against_surprise,
    spread,
)
from experiments.outlandish.teaching import bench, teaching
from ico import lab, report
from ico.poison import effects

TWIN = "twin (no fact)"


@paper.study("What does learning one fact do to unrelated prompts, and what predicts it?")
def priming(run):
    """One fact in each training; beside it the twin that saw the same batches without a fact."""
    model, how = bench(run), teaching(run.config)
    groups = model.texts(run.config.categories)
    found = effects_of(model, groups, functools.partial(model.followed, how), "priming")
    yield from by_category(groups, found)
    # Its memory is followed, too, which the study retention needs.
    later = dataclasses.replace(how, later=run.config.retention_steps)
    twins = [
        effects(model.untouched(texts), model.twin(later, texts))
        for texts in model.progress(groups, "twins")
    ]
    values = {name: np.array([[row[name]] for row in twins]) for name in TABLED if name != "gain"}
    yield lab.record(category=TWIN, **values)
    after = median_probability(found["log_after"])
    run.note(f"Median P_after over all facts: {after:.3f} (the preset aims at 0.2 to 0.8).")


priming.note(
    "Reduced from the papers: one text for each keyword and category, one small model.",
    "Intervals are over keywords; those of a theme share their prompts: see the table by theme.",
)


def _predicted(score: str):
    return lambda records: correlation(across(records, "log_before"), across(records, score))


def _conflicting_minus(other: str, score: str):
    def measure(records):
        mine, theirs = (across(records, score, kind).mean(1) for kind in ("conflicting", other))
        return mean_of(mine - theirs, f"conflicting {spread(mine)}, {other} {spread(theirs)}")

    return measure


predicts = functools.partial(
    priming.claim, source=f"{LATER}, Fig. 2", band=(None, 0.0), unit="Spearman correlation"
)
predicts(
    "predictor",
    "A keyword's probability before learning predicts priming: Spearman correlation of log "
    "P_before with log S_prime, over facts",
    band=(None, -0.5),
    kind="core",
    of=_predicted("log_s_prime"),
)
predicts(
    "predictor_negative",
    "The correlation of log P_before with log S_prime is negative",
    of=_predicted("log_s_prime"),
)
predicts(
    "predictor_corrected",
    "The correlation of log P_before with the corrected log-priming is negative, too",
    source=f"{LATER}, Fig. 2; the control is ours",
    kind="ours",
    of=_predicted("corrected"),
)
for _suffix, _score, _words, _kind in (
    ("", "log_s_prime", "log S_prime", "core"),
    ("_corrected", "corrected", "corrected log-priming", "ours"),
):
    for _other in ("mundane", "scrambled"):
        priming.claim(
            f"conflicting_minus_{_other}{_suffix}",
            f"Facts that conflict with knowledge prime more than {_other} ones ({_words})",
            f"{EARLIER}, abstract" + ("; the control is ours" if _suffix else ""),
            band=(0.0, None),
            unit="nats",
            kind=_kind,
            of=_conflicting_minus(_other, _score),
        )


@priming.table("by category")
def _by_category(records):
    return [effect_row(record) for record in records]


@priming.table("what predicts priming")
def _what_predicts(records):
    kept = [name for name in records.axis("category") if name != "scrambled"]
    chosen = {"all facts": records, "without scrambled": records.where(category=kept)}
    scores = ("log_s_prime", "theme", "corrected", "cross")
    return [{"facts": label} | correlations(some, *scores) for label, some in chosen.items()]


@priming.table("by theme")
def _by_theme(records):
    rows, themes = [], next(iter(records))["keyword_theme"]
    before = across(records, "log_before")
    for theme in dict.fromkeys(themes.tolist()):
        mine = themes == theme
        row = {"theme": theme, "facts": before[mine].size}
        for name in ("log_s_prime", "corrected"):
            row[f"Spearman, {name}"] = report.spearman(before[mine], across(records, name)[mine])
            conflicting = across(records, name, "conflicting").mean(1)
            for other in ("mundane", "scrambled"):
                gap = conflicting - across(records, name, other).mean(1)
                row[f"conflicting less {other}, {name}"] = float(gap[mine].mean())
        rows.append(row)
    return rows


@priming.figure(
    "2025, Fig. 2. The published score, the mean log ratio on prompts of other themes, and that of "
    "the keyword's theme minus it, by the keyword's probability before. Open: scrambled texts.",
    name="priming",
)
def _against_surprise(records):
    fig, axes = report.canvas(3, height=3.6)
    titles = {
        "log_s_prime": "log S_prime (nats)",
        "cross": "log-priming, other themes",
        "corrected": "corrected log-priming",
    }
    for ax, (name, title) in zip(axes[0], titles.items(), strict=True):
        plot_against_surprise(ax, records, name)
        ax.set_title(title)
    axes[0, 0].set_ylabel("nats")
    report.legend_below(fig, axes)
    return fig


for _value, _label in {
    "theme": "log-priming, own theme",
    "cross": "log-priming, other themes",
    "corrected": "corrected log-priming",
}.items():
    priming.figure(
        lab.bars(_value, color="category", ylabel=f"{_label}, nats"),
        f"2024, priming by kind of fact: {_label}, means over keywords. The twin trained on the "
        "same batches without any fact.",
        name=f"priming_{_value}",
    )
