"""What do random labels in the context do to layer and gradient descent? (appendix)"""

import dataclasses

from experiments.gd_in_context.paper import (
    GD,
    LAYER,
    SEEDS,
    beside_gd,
    compared,
    draw,
    paper,
    searched_rate,
    task_of,
    trained_layer,
)
from ico import algorithms, lab

COUNTS = (0, 2, 4, 6, 8)


@paper.study("What do random labels in the context do to either?")
def distractors(run):
    """Random labels in the context; the layer and the rate are those of clean contexts."""
    learners = {LAYER: trained_layer(run), GD: (algorithms.gd, searched_rate(run))}
    for count in COUNTS:
        task = dataclasses.replace(task_of(run), num_distractors=count)
        yield from compared(learners, draw(run, f"distractors/{count}", task), random_labels=count)


distractors.claim(
    "loss_ratio",
    "With up to 8 of 10 labels random the model degrades as gradient descent does: the largest "
    "ratio of the losses",
    "appendix",
    unit="ratio",
    band=(None, 1.05),
    of=lab.every(lab.ratio("loss", learner=(LAYER, GD)), random_labels=COUNTS),
)
distractors.table("losses", lab.rows("loss", reference={"learner": GD}))
distractors.figure(
    beside_gd("random_labels", "random labels among 10"),
    "Paper, appendix. Some of the ten labels in the context are replaced by noise; layer and "
    "gradient descent's rate are those of clean contexts. Right: the ratio of the two losses. "
    f"{SEEDS}",
)
