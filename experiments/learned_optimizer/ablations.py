"""Which of its parts does L3RS need, at the horizon and at four times it?"""

import numpy as np

from experiments.learned_optimizer.learners import ABLATIONS, specialised
from experiments.learned_optimizer.paper import paper
from experiments.learned_optimizer.problems import problem
from experiments.learned_optimizer.races import losses_at_end, over
from ico import lab

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
