"""Do layer and gradient descent agree on tasks never trained on? (Figs. 2 and 6)

Both are as they are for the training distribution: the layer's weights, and the searched rate.
"""

from typing import Any

from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import GD, LAYER
from ico import lab

RANGES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
SCALES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
NORMS = {f"{name} inputs, norm": name for name in ("normal", "exponential", "laplace")}


@paper.study("Do layer and gradient descent agree on tasks never trained on?")
def out_of_distribution(run):
    """The trained layer and gradient descent, at its training-time rate, on other tasks."""
    learners = {LAYER: regression.trained_layer(run), GD: regression.gradient_step(run)}
    changes: list[tuple[str, float, dict[str, Any]]]
    changes = [("input_range", value, {"input_range": value}) for value in RANGES]
    changes += [("weight_scale", value, {"weight_scale": value}) for value in SCALES]
    for name, inputs in NORMS.items():
        norms = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
        changes += [(name, norm, {"inputs": inputs, "input_range": norm}) for norm in norms]
    for name, value, changed in changes:
        task = regression.task_of(run, **changed)
        episode = regression.draw(run, f"out_of_distribution/{name}/{value}", task)
        yield from regression.compared(learners, episode, change=name, value=value)


for _name, _words, _values in (
    ("input_range", "Other input ranges, 0.5 to 1.5", RANGES[:5]),
    ("weight_scale", "Other weight scales, 0.5 to 3", SCALES[:5]),
):
    out_of_distribution.claim(
        _name,
        f"{_words}: the value furthest from one of the ratio to gradient descent",
        "Figs. 2 and 6",
        unit="ratio",
        band=(0.95, 1.05),
        of=lab.every(lab.ratio("loss", change=_name, learner=(LAYER, GD)), value=_values),
    )
out_of_distribution.table("losses", lab.rows("loss", reference={"learner": GD}))
out_of_distribution.figure(
    regression.along(
        "value",
        "scale (training: 1)",
        panel="change",
        log="y",
        change=["input_range", "weight_scale"],
    ),
    "Paper, Figs. 2 and 6. The layer trained at range and scale 1, and one gradient step at the "
    "rate searched there, on tasks with inputs of another range and weights of another scale. "
    "Means with their 95% intervals, on logarithmic loss axes.",
    name="out_of_distribution_scale",
)
out_of_distribution.figure(
    regression.along(
        "value", "norm of the context inputs", panel="change", log="y", change=list(NORMS)
    ),
    "Paper, Fig. 6. The same two on inputs of other distributions, each task rescaled so that its "
    "context inputs have the Frobenius norm on the horizontal axis. Means with their 95% "
    "intervals, on logarithmic loss axes.",
    name="out_of_distribution_inputs",
)
