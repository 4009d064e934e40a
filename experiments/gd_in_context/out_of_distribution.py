"""Do layer and gradient descent agree on tasks never trained on? (Figs. 2 and 6)

Both are as they are for the training distribution: the layer's weights, and the searched rate.
"""

import dataclasses

from experiments.gd_in_context.paper import (
    GD,
    LAYER,
    LOSS,
    compared,
    draw,
    looks,
    paper,
    searched_rate,
    task_of,
    trained_layer,
)
from ico import algorithms, lab

# What is changed, and to which values.
SCALES = {
    "input_range": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    "weight_scale": (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0),
}
DISTRIBUTIONS = ("normal", "exponential", "laplace")
NORMS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)


@paper.study("Do layer and gradient descent agree on tasks never trained on?")
def out_of_distribution(run):
    """The trained layer and gradient descent, at its training-time rate, on other tasks."""
    learners = {LAYER: trained_layer(run), GD: (algorithms.gd, searched_rate(run))}
    changes = [(name, value, {name: value}) for name in SCALES for value in SCALES[name]]
    for name in DISTRIBUTIONS:
        inputs = [{"inputs": name, "input_range": norm} for norm in NORMS]
        changes += zip([f"{name} inputs, norm"] * len(NORMS), NORMS, inputs, strict=True)
    for name, value, changed in changes:
        task = dataclasses.replace(task_of(run), **changed)
        episode = draw(run, f"out_of_distribution/{name}/{value}", task)
        yield from compared(learners, episode, change=name, value=value)


out_of_distribution.claim(
    "input_range",
    "Other input ranges, 0.5 to 1.5: the value furthest from one of the ratio to gradient descent",
    "Figs. 2 and 6",
    unit="ratio",
    band=(0.95, 1.05),
    of=lab.every(
        lab.ratio("loss", change="input_range", learner=(LAYER, GD)),
        value=[value for value in SCALES["input_range"] if value <= 1.5],
    ),
)
out_of_distribution.claim(
    "weight_scale",
    "Other weight scales, 0.5 to 3: the value furthest from one of the ratio to gradient descent",
    "Figs. 2 and 6",
    unit="ratio",
    band=(0.95, 1.05),
    of=lab.every(
        lab.ratio("loss", change="weight_scale", learner=(LAYER, GD)),
        value=[value for value in SCALES["weight_scale"] if value <= 3],
    ),
)
out_of_distribution.table("losses", lab.rows("loss", reference={"learner": GD}))


def _along_value(records, changes, xlabel):
    picture = lab.lines(
        "value",
        "loss",
        color="learner",
        panel="change",
        xlabel=xlabel,
        ylabel=LOSS,
        log="y",
        looks=looks(),
        change=list(changes),
    )
    return picture(records)


@out_of_distribution.figure(
    "Paper, Figs. 2 and 6. The layer trained at range and scale 1, and one gradient step at the "
    "rate searched there, on tasks with inputs of another range and weights of another scale. "
    "Means with their 95% intervals, on logarithmic loss axes."
)
def scale(records):
    """Other input ranges and weight scales."""
    return _along_value(records, SCALES, "scale (training: 1)")


@out_of_distribution.figure(
    "Paper, Fig. 6. The same two on inputs of other distributions, each task rescaled so that its "
    "context inputs have the Frobenius norm on the horizontal axis. Means with their 95% "
    "intervals, on logarithmic loss axes."
)
def inputs(records):
    """Inputs of other distributions."""
    changes = [f"{name} inputs, norm" for name in DISTRIBUTIONS]
    return _along_value(records, changes, "norm of the context inputs")
