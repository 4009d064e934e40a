"""What if a client is away for half of the training, and comes back?

Dimension key: S seeds, N test images.
"""

from experiments.multihead_distillation import testbed
from experiments.multihead_distillation.paper import paper
from experiments.multihead_distillation.testbed import Setting
from ico import lab

ALWAYS, AWAY = "always there", "one away in between"


@paper.study("What if a client is away for half of the training, and comes back?")
def dropout(run):
    """The first client is not there from a quarter to three quarters of the training."""
    most, skew = max(run.config.heads), max(run.config.skews)
    for name, absent in ((ALWAYS, 0), (AWAY, 1)):
        found = testbed.trained(run, Setting(heads=most, skew=skew, absent=absent))
        for who, clients in (("the first", slice(0, 1)), ("the others", slice(1, None))):
            yield lab.record(
                clients=name,
                who=who,
                shared=found.shared(clients=clients),
                private=found.private(clients=clients),
            )


dropout.claim(
    "others",
    "The other clients lose at most 3 points on all labels",
    "ours",
    kind="ours",
    unit="points",
    band=(-3.0, None),
    of=lab.difference("shared", who="the others", clients=(AWAY, ALWAYS)),
)
dropout.claim(
    "returned",
    "The one that comes back is at most 5 points below where it would have been",
    "ours",
    kind="ours",
    unit="points",
    band=(-5.0, None),
    of=lab.difference("shared", who="the first", clients=(AWAY, ALWAYS)),
)
dropout.table("accuracy", lab.rows("shared", also=("private",)))
dropout.figure(
    lab.bars("shared", x="who", color="clients", xlabel="", ylabel="accuracy on all labels, %"),
    "Accuracy over all labels alike of a client that was away, and of the others.",
)
