"""Does it matter who hears whom?

Dimension key: S seeds, N test images.
"""

from experiments.multihead_distillation import testbed
from experiments.multihead_distillation.paper import paper
from experiments.multihead_distillation.testbed import Setting
from ico import lab

GRAPHS = ("complete", "random", "changing", "cycle", "islands")


@paper.study("Does it matter who hears whom?")
def topology(run):
    """Graphs with one neighbour heard a step, all heads, the largest skew."""
    most, skew = max(run.config.heads), max(run.config.skews)
    for graph in GRAPHS:
        setting = Setting(heads=most, skew=skew, graph=graph)
        yield testbed.recorded(run, setting, graph=graph)


topology.claim(
    "islands",
    "Two islands know less of all labels than a complete graph",
    "section on topology",
    unit="points",
    band=(0, None),
    of=lab.difference("shared", graph=("complete", "islands")),
)
topology.claim(
    "changing",
    "A graph of one neighbour that changes is at least as good as a cycle that stays",
    "ours",
    kind="ours",
    unit="points",
    band=(0, None),
    of=lab.difference("shared", graph=("changing", "cycle")),
)
topology.table("accuracy", lab.rows("shared", also=("main_shared", "private")))
topology.figure(
    lab.bars("shared", x="graph", xlabel="", ylabel="accuracy on all labels, %"),
    "Accuracy of the last head over all labels alike by who hears whom, with 95% intervals.",
)
