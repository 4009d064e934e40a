"""Which of its parts does L3RS need, at the horizon and at four times it?"""

import numpy as np

from experiments.learned_optimizer.learners import ABLATIONS, specialised
from experiments.learned_optimizer.paper import paper
from experiments.learned_optimizer.problems import problem
from experiments.learned_optimizer.races import losses_at_end
from ico import lab, report

_WHOLE = "all its parts"


@paper.study("Which of its parts does it need?")
def ablations(run):
    """A record an ablation, each meta-trained anew, and horizon: loss and that of all, [R, N]."""
    config, wholes = run.config, {}
    of = problem(run, config.ablation_task)
    for ablation in ("", *(config.ablations or ABLATIONS)):
        trained = specialised(run, "l3rs", of.name, ablation)
        meta_loss = np.asarray(trained.learned.last_loss)
        for horizon in (config.horizon, 4 * config.horizon):
            found = losses_at_end(run, of, trained, horizon)
            found["whole"] = wholes.setdefault(horizon, found["loss"])
            name = ablation or _WHOLE
            yield lab.record(ablation=name, horizon=horizon, meta_loss=meta_loss, **found)
    run.note(
        f"On {of.name}; each meta-trained anew, from the same seed on the same tasks and batches: "
        "intervals are over test runs and images alone."
    )


ablations.table(
    "ablations", lab.rows("loss", over="whole", name="over the whole", also=("loss", "meta_loss"))
)


@ablations.figure("Loss of L3RS without a part over that of the whole, with 95% intervals.")
def ratios(records):
    """A panel a horizon, a row an ablation."""
    horizons, names = records.axis("horizon"), records.axis("ablation")[1:]
    fig, axes = report.canvas(len(horizons), height=1.2 + 0.3 * len(names), sharey=True)
    for ax, horizon in zip(axes[0], horizons, strict=True):
        for place, name in enumerate(names):
            one = records.one(ablation=name, horizon=horizon)
            ratio, ends = report.interval(one["loss"], one["whole"], statistic=report.ratio)
            ax.plot(ends, [place, place], color="0.15", linewidth=1.2)
            ax.plot(ratio, place, "o", color=report.palette()[1])
        ax.axvline(1, color="0.5", linewidth=0.8)
        ax.set(title=f"{horizon} steps", xlabel="ratio", yticks=range(len(names)))
        ax.set_yticklabels(names)
    return fig
