"""Are earlier tasks forgotten when five are learned one after the other?

Dimension key: S seeds, E test sequences, T tasks.
"""

from experiments.continual_hypertransformer import testbed
from experiments.continual_hypertransformer.paper import paper
from experiments.continual_hypertransformer.testbed import CHT, CROSS, PROTO
from ico import lab


@paper.study("Are earlier tasks forgotten when five are learned one after the other?")
def five_tasks(run):
    """Trained on sequences of three tasks; an image's task is known (task-incremental)."""
    images = testbed.classes(run).test
    for name in (CHT, CROSS, PROTO):
        found = testbed.trained(run, name)
        right = testbed.accuracy(run, found, images, run.config.test_tasks)
        yield testbed.scored(name, right)


five_tasks.claim(
    "transfer",
    "Task-incremental: backward transfer over five tasks is above -2 points",
    "abstract",
    kind="core",
    unit="points",
    band=(-2.0, None),
    of=lab.mean("transfer", model=CHT),
)
five_tasks.claim(
    "above_fixed",
    "And accuracy is above that of one fixed embedding of equal size",
    "abstract",
    kind="core",
    unit="points",
    band=(0, None),
    of=lab.difference("accuracy", model=(CHT, PROTO)),
)
five_tasks.claim(
    "cross_entropy",
    "With cross-entropy in place of prototypes it forgets: backward transfer below -15 points",
    "abstract",
    kind="core",
    unit="points",
    band=(None, -15.0),
    of=lab.mean("transfer", model=CROSS),
)
five_tasks.table("accuracy after five tasks", lab.rows("accuracy", also=("transfer",)))
five_tasks.figure(
    lab.maps("matrix", each=("after each task (down), asked about each (across)",), high=100.0),
    "Accuracy by network and task: a row after each task learned, a column for the task asked "
    "about. What is forgotten gets darker down a column.",
)
