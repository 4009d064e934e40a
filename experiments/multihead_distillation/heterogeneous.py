"""Does one larger network lift the small ones?

Dimension key: S seeds, N test images.
"""

import numpy as np

from experiments.multihead_distillation import testbed
from experiments.multihead_distillation.paper import paper
from experiments.multihead_distillation.testbed import Setting
from ico import lab

WITH, WITHOUT = "one is large", "all are small"


@paper.study("Does one larger network lift the small ones?")
def heterogeneous(run):
    """Clients 2 to K, small in both cases; the first is large (four times as wide) or small."""
    most, skew = max(run.config.heads), max(run.config.skews)
    for name, big in ((WITHOUT, 0), (WITH, 1)):
        found = testbed.trained(run, Setting(heads=most, skew=skew, big=big))
        small = slice(1, None)
        yield lab.record(
            clients=name,
            shared=found.shared(clients=small),
            private=found.private(clients=small),
            parameters=np.asarray(found.parameters),
        )


heterogeneous.claim(
    "lifted",
    "Small clients know more of all labels if one client is large",
    "abstract (architectures) and section on heterogeneity",
    unit="points",
    band=(0, None),
    of=lab.difference("shared", clients=(WITH, WITHOUT)),
)
heterogeneous.table("accuracy of the small ones", lab.rows("shared", also=("private",)))
heterogeneous.figure(
    lab.bars("shared", x="clients", xlabel="", ylabel="accuracy on all labels, %"),
    "Accuracy over all labels alike of the small clients, with 95% intervals.",
)
