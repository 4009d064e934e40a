"""Which of its parts does L3RS need, at the horizon and at four times it?"""

import numpy as np

from experiments.learned_optimizer.learners import ABLATIONS, specialised
from experiments.learned_optimizer.paper import paper
from experiments.learned_optimizer.problems import problem
from experiments.learned_optimizer.races import losses_at_end, over
from ico import lab, report

_WHOLE = "all its parts"


@paper.study("Which of its parts does it need?")
def ablations(run):
    """A record an ablation, each meta-trained anew, and horizon: loss [R, N]."""
    config = run.config
    of = problem(run, config.ablation_task)
    for ablation in ("", *(config.ablations or ABLATIONS)):
        trained = specialised(run, "l3rs", of.name, ablation)
        meta_loss = np.asarray(trained.learned.last_loss)
        for horizon in (config.horizon, 4 * config.horizon):
            found = losses_at_end(run, of, trained, horizon)
            name = ablation or _WHOLE
            yield lab.record(ablation=name, horizon=horizon, meta_loss=meta_loss, **found)
    run.note(
        f"On {of.name}; each meta-trained anew, from the same seed on the same tasks and batches: "
        "intervals are over test runs and images alone."
    )


@ablations.table("ablations")
def _(records):
    rows: dict[str, dict] = {}
    for one in records:
        name, horizon = one["ablation"], one["horizon"]
        whole = records.one(ablation=_WHOLE, horizon=horizon)
        row = rows.setdefault(name, {"L3RS with": name, "meta-loss": float(one["meta_loss"])})
        row[f"loss after {horizon} steps"] = float(one["loss"].mean())
        row |= over(f"over the whole, {horizon}", one["loss"], whole["loss"], one is not whole)
    return list(rows.values())


@ablations.figure("Loss of L3RS without a part over that of the whole, with 95% intervals.")
def ratios(records):
    """A panel a horizon, a row an ablation."""
    horizons, names = records.axis("horizon"), records.axis("ablation")[1:]
    fig, axes = report.canvas(len(horizons), height=1.2 + 0.3 * len(names), sharey=True)
    for ax, horizon in zip(axes[0], horizons, strict=True):
        whole = records.one(ablation=_WHOLE, horizon=horizon)["loss"]
        for place, name in enumerate(names):
            loss = records.one(ablation=name, horizon=horizon)["loss"]
            ratio, ends = report.interval(loss, whole, statistic=report.ratio)
            ax.plot(ends, [place, place], color="0.15", linewidth=1.2)
            ax.plot(ratio, place, "o", color=report.palette()[1])
        ax.axvline(1, color="0.5", linewidth=0.8)
        ax.set(title=f"{horizon} steps", xlabel="ratio", yticks=range(len(names)))
        ax.set_yticklabels(names)
    return fig
