"""What does learning one fact do to unrelated prompts, and what predicts it?

2025, abstract and Fig. 2: how much a text primes can be predicted from its keyword's probability
before learning. 2024, abstract: facts that conflict with common knowledge prime more than mundane
or scrambled ones. Both as published and against prompts of other themes.
"""

import dataclasses

import numpy as np

from experiments.outlandish.paper import EARLIER, LATER, paper
from experiments.outlandish.scores import (
    across,
    by_category,
    correlation,
    effects_of_taught,
    mean_of,
    median_probability,
    spearman,
    spread,
    spreads,
)
from experiments.outlandish.teaching import bench, teaching
from ico import lab, report
from ico.poison import effects
from ico.report import panels

TABLED = ("log_s_prime", "theme", "cross", "corrected", "flips")
RAW_AND_CORRECTED = ("log_s_prime", "corrected")


@paper.study("What does learning one fact do to unrelated prompts, and what predicts it?")
def priming(run):
    """One fact in each training; beside it the twin that saw the same batches without a fact."""
    model, how = bench(run), teaching(run.config)
    groups = model.texts(run.config.categories)
    found = effects_of_taught(model, how, groups, "priming")
    yield from by_category(groups, found)
    # Its memory is followed, too, which the study retention needs.
    later = dataclasses.replace(how, later=run.config.retention_steps)
    twins = [
        effects(model.untouched(texts), model.twin(later, texts))
        for texts in model.progress(groups, "twins")
    ]
    yield lab.record("twin", **{name: np.array([row[name] for row in twins]) for name in TABLED})
    after = median_probability(found["log_after"])
    run.note(f"Median P_after over all facts: {after:.3f} (the preset aims at 0.2 to 0.8).")


priming.note("Reduced from the papers: one text for each keyword and category, one small model.")
priming.note(
    "Intervals are over keywords, and those of a theme share their prompts: see the table by theme."
)


def _predicted_by_surprise(score: str):
    def measure(records):
        facts = records[""]
        return correlation(across(facts, "log_before"), across(facts, score))

    return measure


def _conflicting_minus(other: str, score: str):
    def measure(records):
        mine, theirs = (across(records[""], score, kind).mean(1) for kind in ("conflicting", other))
        return mean_of(mine - theirs, f"conflicting {spread(mine)}, {other} {spread(theirs)}")

    return measure


priming.claim(
    "predictor",
    "A keyword's probability before learning predicts priming: Spearman correlation of log "
    "P_before with log S_prime, over facts",
    f"{LATER}, Fig. 2",
    band=(None, -0.5),
    unit="Spearman correlation",
    kind="core",
    of=_predicted_by_surprise("log_s_prime"),
)
priming.claim(
    "predictor_negative",
    "The correlation of log P_before with log S_prime is negative",
    f"{LATER}, Fig. 2",
    band=(None, 0.0),
    unit="Spearman correlation",
    of=_predicted_by_surprise("log_s_prime"),
)
priming.claim(
    "predictor_corrected",
    "The correlation of log P_before with the corrected log-priming is negative, too",
    f"{LATER}, Fig. 2; the control is ours",
    band=(None, 0.0),
    unit="Spearman correlation",
    kind="ours",
    of=_predicted_by_surprise("corrected"),
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
    rows = []
    for record in records[""]:
        row = {"category": record["category"], "facts": record["gain"].size}
        row["median P before"] = median_probability(record["log_before"])
        row["median P after"] = median_probability(record["log_after"])
        rows.append(row | spreads(record, *TABLED))
    twin = records["twin"].one()
    facts = {"category": "twin (no fact)", "facts": twin["theme"].size}
    return [*rows, facts | spreads(twin, *TABLED)]


@priming.table("what predicts priming")
def _what_predicts(records):
    facts, rows = records[""], []
    kept = [name for name in facts.axis("category") if name != "scrambled"]
    chosen = {"all facts": facts, "without scrambled": facts.where(category=kept)}
    for label, some in chosen.items():
        for name in ("log_s_prime", "theme", "corrected", "cross"):
            pair = across(some, "log_before"), across(some, name)
            value, (low, high) = report.interval_of(spearman, *pair)
            row = {"facts": label, "score": name, "Spearman with log P before": value}
            rows.append(row | {"95% low": low, "95% high": high})
    return rows


@priming.table("by theme")
def _by_theme(records):
    facts, rows = records[""], []
    themes = next(iter(facts))["keyword_theme"]
    before = across(facts, "log_before")
    for theme in dict.fromkeys(themes.tolist()):
        mine = themes == theme
        row = {"theme": theme, "facts": before[mine].size}
        for name in RAW_AND_CORRECTED:
            row[f"Spearman, {name}"] = spearman(before[mine], across(facts, name)[mine])
            conflicting = across(facts, name, "conflicting").mean(1)
            for other in ("mundane", "scrambled"):
                gap = conflicting - across(facts, name, other).mean(1)
                row[f"conflicting less {other}, {name}"] = float(gap[mine].mean())
        rows.append(row)
    return rows


@priming.figure(
    "2025, Fig. 2. One fact in each training. Left: the published score against the keyword's "
    "probability before learning. Middle: the mean log ratio on prompts of other themes. Right: "
    "that on prompts of the keyword's theme minus that of the others. Open markers: scrambled "
    "texts.",
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
        for record in records[""]:
            themes = record["keyword_theme"]
            for number, theme in enumerate(dict.fromkeys(themes.tolist())):
                mine, look = themes == theme, panels.look(number) | {"linestyle": "none"}
                scrambled = record["category"] == "scrambled"
                ax.plot(
                    (record["log_before"][mine] / np.log(10)).ravel(),
                    record[name][mine].ravel(),
                    **look,
                    fillstyle="none" if scrambled else "full",
                    label=None if scrambled else theme,
                )
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(xlabel="log10 P before", title=title)
    axes[0, 0].set_ylabel("nats")
    report.legend_below(fig, axes)
    return fig


@priming.figure(
    "2024, priming by kind of fact: mean log ratios of the keyword's probability, a marker a "
    "keyword, the bar their mean. The twin trained on the same batches without any fact.",
    name="priming_by_category",
)
def _markers_by_category(records):
    fig, axes = report.canvas(3, height=3.4)
    titles = {
        "theme": "log-priming, own theme",
        "cross": "log-priming, other themes",
        "corrected": "corrected",
    }
    shown = {record["category"].replace("_", " "): record for record in records[""]}
    shown["twin"] = records["twin"].one()
    for ax, (name, title) in zip(axes[0], titles.items(), strict=True):
        for place, record in enumerate(shown.values()):
            values = record[name].reshape(len(record[name]), -1).mean(1)
            at = place + np.linspace(-0.25, 0.25, len(values))
            ax.plot(at, values, "o", markersize=3.5, color=report.palette()[0], alpha=0.6)
            ax.plot([place - 0.32, place + 0.32], [values.mean()] * 2, color=report.palette()[1])
        ax.set_xticks(range(len(shown)), shown, rotation=40, ha="right")
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_title(title)
    axes[0, 0].set_ylabel("nats")
    return fig
