"""How does a model trained on three tasks do on five and on ten?

Dimension key: S seeds, E test sequences, T tasks.
"""

from experiments.continual_hypertransformer import testbed
from experiments.continual_hypertransformer.paper import paper
from experiments.continual_hypertransformer.testbed import CHT, PROTO
from ico import lab


@paper.study("How does a model trained on three tasks do on five and on ten?")
def extrapolation(run):
    """Task-incremental, at each length of the sequence."""
    images = testbed.classes(run).test
    config = run.config
    for name in (CHT, PROTO):
        found = testbed.trained(run, name)
        for length in sorted({config.num_tasks, config.test_tasks, config.most_tasks}):
            right = testbed.accuracy(run, found, images, length)
            yield testbed.scored(name, right, tasks=length)


extrapolation.claim(
    "five",
    "Trained on three tasks, accuracy after five is within 5 points of that after three",
    "abstract",
    kind="core",
    unit="points",
    band=(-5.0, None),
    of=lab.difference("accuracy", model=CHT, tasks=(5, 3)),
)
extrapolation.table("accuracy", lab.rows("accuracy", also=("transfer",)))
extrapolation.figure(
    lab.lines(
        "tasks", "accuracy", color="model", xlabel="tasks in the sequence", ylabel="accuracy, %"
    ),
    "Accuracy after the last task over all tasks of a sequence, by its length, with 95% intervals; "
    "models are trained on sequences of three.",
)
