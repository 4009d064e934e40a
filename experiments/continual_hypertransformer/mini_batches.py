"""Does a network get better when one task's images come in parts?

Dimension key: S seeds, E test sequences, T parts.
"""

import numpy as np

from experiments.continual_hypertransformer import testbed
from experiments.continual_hypertransformer.paper import paper
from experiments.continual_hypertransformer.testbed import CHT, PARTS, PROTO
from ico import lab


@paper.study("Does a network get better when one task's images come in parts?")
def mini_batches(run):
    """One labelled image of each class a part; prototypes are averaged over parts."""
    images = testbed.classes(run).test
    for name in (CHT, PROTO):
        found = testbed.trained(run, name, PARTS)
        right = testbed.accuracy(run, found, images, run.config.test_tasks, PARTS)
        yield testbed.scored(name, right)
        for part in range(right.shape[-1]):
            after = np.nanmean(right[..., part, :], axis=-1)
            yield lab.record("part", model=name, part=part + 1, accuracy=100 * after)


mini_batches.claim(
    "transfer",
    "Mini-batches: queries of a part are not answered worse after the parts that follow",
    "abstract",
    kind="core",
    unit="points",
    band=(-2.0, None),
    of=lab.mean("transfer", model=CHT),
)
mini_batches.claim(
    "above_fixed",
    "And accuracy after all parts is above that of one fixed embedding of equal size",
    "abstract",
    kind="core",
    unit="points",
    band=(0, None),
    of=lab.difference("accuracy", model=(CHT, PROTO)),
)
mini_batches.table("accuracy after all parts", lab.rows("accuracy", also=("transfer",)))
mini_batches.figure(
    lab.lines(
        "part", "accuracy", record="part", color="model", xlabel="parts seen", ylabel="accuracy, %"
    ),
    "Accuracy after each part of one support set, one labelled image of each class a part, with "
    "95% intervals over seeds and sequences.",
)
