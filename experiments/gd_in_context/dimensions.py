"""Does the match of one layer and one gradient step hold for other sizes, N = d? (Fig. 2)"""

import numpy as np

from experiments.gd_in_context.paper import (
    GD,
    LAYER,
    beside_gd,
    compared,
    draw,
    paper,
    searched_rate,
    task_of,
    trained_layer,
)
from ico import algorithms, lab


@paper.study("Does the match hold for other sizes, N = d?")
def dimensions(run):
    """One layer trained, and gradient descent's rate searched, for each N = d."""
    for dim in sorted({10, *run.config.sweep_dims}):
        rate = searched_rate(run, dim)
        episode = draw(run, f"dimensions/{dim}", task_of(run, dim))
        learners = {LAYER: trained_layer(run, dim), GD: (algorithms.gd, rate)}
        yield from compared(learners, episode, dim=dim, rate=np.asarray(rate["rate"]))


dimensions.claim(
    "loss_ratio",
    "The match holds for every N = d: the ratio furthest from one",
    "Fig. 2",
    unit="ratio",
    band=(0.99, 1.01),
    of=lab.every(lab.ratio("loss", learner=(LAYER, GD)), dim=...),
)
dimensions.table("losses", lab.rows("loss", reference={"learner": GD}, also=("rate",)))
dimensions.figure(
    beside_gd("dim", "N = d"),
    "Paper, Fig. 2. A layer trained for each number of context pairs N = d, beside one gradient "
    "step. Left: mean loss. Right: the ratio of the two losses. Thick lines are means over seeds, "
    "thin lines the seeds.",
)
