"""What do random labels in the context do to layer and gradient descent? (appendix)"""

from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import GD, LAYER
from ico import lab

COUNTS = (0, 2, 4, 6, 8)


@paper.study("What do random labels in the context do to either?")
def distractors(run):
    """Random labels in the context; the layer and the rate are those of clean contexts."""
    learners = {LAYER: regression.trained_layer(run), GD: regression.gradient_step(run)}
    for count in COUNTS:
        task = regression.task_of(run, num_distractors=count)
        episode = regression.draw(run, f"distractors/{count}", task)
        yield from regression.compared(learners, episode, random_labels=count)


distractors.claim(
    "loss_ratio",
    "With up to 8 of 10 labels random the model degrades as gradient descent does: the largest "
    "ratio of the losses",
    "appendix",
    unit="ratio",
    band=(None, 1.05),
    of=lab.every(lab.ratio("loss", learner=(LAYER, GD)), random_labels=COUNTS),
)
distractors.table("losses", lab.rows("loss", reference={"learner": GD}))
distractors.figure(
    regression.beside_gd("random_labels", "random labels among 10"),
    "Paper, appendix. Some of the ten labels in the context are replaced by noise; layer and "
    "gradient descent's rate are those of clean contexts. Right: the ratio of the two losses. "
    f"{regression.SEEDS}",
)
