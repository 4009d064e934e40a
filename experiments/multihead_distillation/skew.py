"""What if clients' labels are more or less alike?

Dimension key: S seeds, N test images.
"""

from experiments.multihead_distillation import testbed
from experiments.multihead_distillation.paper import paper
from experiments.multihead_distillation.testbed import DISTILLED, FEDAVG, SEPARATE, Setting
from ico import lab


@paper.study("What if clients' labels are more or less alike?")
def skew(run):
    """Every skew: with all heads, alone, and averaged."""
    most = max(run.config.heads)
    for value in run.config.skews:
        for kind in (DISTILLED, SEPARATE, FEDAVG):
            setting = Setting(kind, heads=testbed.heads_of(kind, most), skew=value)
            yield testbed.recorded(run, setting, kind=kind, skew=value)


skew.claim(
    "never_worse",
    "With labels spread evenly the last head is at most a point below a client alone",
    "ours",
    kind="ours",
    unit="points",
    band=(-1.0, None),
    of=lab.difference("shared", skew=0.0, kind=(DISTILLED, SEPARATE)),
)
skew.table("accuracy", lab.rows("shared", also=("main_shared", "private")))
skew.figure(
    lab.bars("shared", x="skew", color="kind", xlabel="skew", ylabel="accuracy on all labels, %"),
    "Accuracy over all labels alike by the skew of clients' labels, with 95% intervals.",
)
