"""Can classes of all tasks so far be told apart, when an image's task is not known?

Dimension key: S seeds, E test sequences, T tasks.
"""

from experiments.continual_hypertransformer import testbed
from experiments.continual_hypertransformer.paper import paper
from experiments.continual_hypertransformer.testbed import CHT, CLASSES, PROTO
from ico import lab


@paper.study("Can classes of all tasks so far be told apart?")
def class_incremental(run):
    """Trained and tested on all classes seen so far."""
    images = testbed.classes(run).test
    for name in (CHT, PROTO):
        found = testbed.trained(run, name, CLASSES)
        right = testbed.accuracy(run, found, images, run.config.test_tasks, CLASSES)
        fixed = testbed.accuracy(run, found, images, run.config.test_tasks)
        yield testbed.scored(name, right, asked="all classes")
        yield testbed.scored(name, fixed, asked="own task")


class_incremental.claim(
    "transfer",
    "Class-incremental: within an image's task, backward transfer is above -2 points",
    "abstract",
    kind="core",
    unit="points",
    band=(-2.0, None),
    of=lab.mean("transfer", model=CHT, asked="own task"),
)
class_incremental.claim(
    "above_fixed",
    "And accuracy over all classes is above that of one fixed embedding of equal size",
    "abstract",
    kind="core",
    unit="points",
    band=(0, None),
    of=lab.difference("accuracy", model=(CHT, PROTO), asked="all classes"),
)
class_incremental.note(
    "Over all classes so far, accuracy falls with their number even where nothing is forgotten; so "
    "transfer is measured within the image's own task, by models trained on all classes."
)
class_incremental.table("accuracy", lab.rows("accuracy", also=("transfer",)))
class_incremental.figure(
    lab.maps("matrix", each=("after each task (down), asked about each (across)",), high=100.0),
    "Accuracy by network and task, over all classes so far and within the own task.",
)
