"""How much memory is enough?

Dimension key: S seeds, T test images.
"""

import numpy as np

from experiments.learnable_memory import testbed
from experiments.learnable_memory.adaptation import joined
from experiments.learnable_memory.paper import paper
from experiments.learnable_memory.testbed import TOKEN
from ico import lab, report


@paper.study("How much memory is enough?")
def cells(run):
    """Numbers of memory tokens a layer, on every target; none is the class token alone."""
    for count in (0, *run.config.cells):
        way = testbed.cells(count) if count else TOKEN
        for target in run.config.targets:
            found = testbed.adapt(run, way, target)
            yield lab.record(
                way=way,
                cells=count,
                target=target,
                accuracy=100 * found.right,
                parameters=np.asarray(found.parameters),
            )


def from_ten_to_twenty(records):
    """What ten more cells gain, over the images of all targets, in points."""
    found = [joined(records, testbed.cells(count)) for count in (20, 10)]
    _, (low, _) = report.interval(found[1], joined(records, TOKEN), statistic=report.difference)
    if not low > 0:  # useless memory is flat, too
        raise lab.Missing("10 cells are not above none")
    return lab.measured(*found, statistic=report.difference)


cells.claim(
    "flat",
    "From 10 cells to 20 nothing is gained or lost: within one point",
    "abstract and table of accuracies",
    kind="core",
    unit="points",
    band=(-1.0, 1.0),
    of=from_ten_to_twenty,
)
cells.table("accuracy", lab.rows("accuracy", also=("parameters",)))
cells.figure(
    lab.lines(
        "cells", "accuracy", color="target", xlabel="memory tokens a layer", ylabel="accuracy, %"
    ),
    "Accuracy by the number of memory tokens a layer, with 95% intervals over seeds and images.",
)
