"""Which of several answers should be the target?

Dimension key: S seeds, N test images.
"""

import dataclasses

from experiments.multihead_distillation import testbed
from experiments.multihead_distillation.paper import paper
from experiments.multihead_distillation.testbed import Setting
from ico import lab

CONFIDENT, RANDOM, AVERAGE, OTHERS = (
    "most confident",
    "random",
    "average",
    "most confident of others",
)
_RULES = {
    CONFIDENT: Setting(),
    RANDOM: Setting(rule="random"),
    AVERAGE: Setting(rule="average"),
    OTHERS: Setting(own=False),
}


@paper.study("Which of several answers should be the target?")
def targets(run):
    """All heads, a complete graph, the largest skew."""
    most, skew = max(run.config.heads), max(run.config.skews)
    for name, rule in _RULES.items():
        setting = dataclasses.replace(rule, heads=most, skew=skew)
        yield testbed.recorded(run, setting, target=name)


targets.claim(
    "confident",
    "The most confident answer is a better target than a random one",
    "section on targets",
    unit="points",
    band=(0, None),
    of=lab.difference("shared", target=(CONFIDENT, RANDOM)),
)
targets.table("accuracy", lab.rows("shared", also=("main_shared", "private")))
targets.figure(
    lab.bars("shared", x="target", xlabel="", ylabel="accuracy on all labels, %"),
    "Accuracy of the last head over all labels alike by the rule for targets, with 95% intervals.",
)
