"""Does the match of one layer and one gradient step hold for other sizes, N = d? (Fig. 2)"""

from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import GD, LAYER
from ico import lab


@paper.study("Does the match hold for other sizes, N = d?")
def dimensions(run):
    """One layer trained, and gradient descent's rate searched, for each N = d."""
    for dim in sorted({10, *run.config.sweep_dims}):
        descent = regression.gradient_step(run, dim)
        learners = {LAYER: regression.trained_layer(run, dim), GD: descent}
        episode = regression.draw(run, f"dimensions/{dim}", regression.task_of(run, dim))
        yield from regression.compared(learners, episode, dim=dim, rate=descent[1]["rate"])


dimensions.claim(
    "loss_ratio",
    "The match holds for every N = d: the ratio furthest from one",
    "Fig. 2",
    unit="ratio",
    band=(0.99, 1.01),
    of=lab.every(lab.ratio("loss", learner=(LAYER, GD)), dim=...),
)
dimensions.table("losses", lab.rows("loss", reference={"learner": GD}, also=("rate",)))
dimensions.figure(
    regression.beside_gd("dim", "N = d"),
    "Paper, Fig. 2. A layer trained for each number of context pairs N = d, beside one gradient "
    f"step. Left: mean loss. Right: the ratio of the two losses. {regression.SEEDS}",
)
