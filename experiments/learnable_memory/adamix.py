"""Can adapters that were drawn at random in training be merged after it (AdaMix, 2205.12410)?

Dimension key: S seeds, T test images.
"""

import numpy as np

from experiments.learnable_memory import testbed
from experiments.learnable_memory.paper import paper
from experiments.learnable_memory.testbed import ADAMIX, ADAPTERS, INDEPENDENT
from ico import lab, report

SINGLE, COPIED, APART = "one adapter", "merged, copied starts", "merged, independent starts"


@paper.study("Can adapters that were drawn at random in training be merged after it?")
def adamix(run):
    """On every target, at equal width; each at its best learning rate."""
    for kind, name in ((SINGLE, ADAPTERS), (COPIED, ADAMIX), (APART, INDEPENDENT)):
        for target in run.config.targets:
            found = testbed.adapt(run, name, target)
            yield lab.record(adapters=kind, target=target, accuracy=100 * found.right)


def _joined(records, kind):
    found = [records.one(adapters=kind, target=target) for target in records.axis("target")]
    return np.concatenate([one["accuracy"] for one in found], axis=1)


def lead(first, second):
    """Over the images of all targets, in points."""

    def measure(records):
        pair = _joined(records, first), _joined(records, second)
        return lab.measured(*pair, statistic=report.difference)

    return measure


adamix.claim(
    "merged",
    "Merged adapters with copied starts are at most one point below a single one",
    "2205.12410",
    unit="points",
    band=(-1.0, None),
    of=lead(COPIED, SINGLE),
)
adamix.claim(
    "independent_starts",
    "With independent starts merging loses against copied ones",
    "control",
    kind="ours",
    unit="points",
    band=(0, None),
    of=lead(COPIED, APART),
)
adamix.table("accuracy", lab.rows("accuracy"))
adamix.figure(
    lab.bars("accuracy", x="target", color="adapters", ylabel="accuracy, %", xlabel=""),
    "Accuracy of one adapter and of four that were merged, by how they started; 95% intervals.",
)
