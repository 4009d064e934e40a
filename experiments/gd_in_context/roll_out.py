"""Does the trained layer, repeated, keep descending as gradient descent does? (Figs. 1 and 10)"""

import functools

import ico
from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import GD, LAYER
from ico import algorithms, lab
from ico.models import LinearTransformer, learner

DAMPING = 0.75


@paper.study("Does the trained layer, repeated, keep descending as gradient descent does?")
def roll_out(run):
    """The trained layer repeated with damping, updating labels only, as gradient descent does."""
    steps = run.config.roll_out_steps
    model = LinearTransformer(num_layers=steps, tied=True, damping=DAMPING, update="targets")
    descent = functools.partial(algorithms.gd, num_steps=steps, all_steps=True)
    learners = {
        LAYER: ico.Seeded(learner(model, all_layers=True), regression.trained_layer(run).params),
        GD: (descent, {"rate": DAMPING * regression.searched_rate(run)["rate"]}),
    }
    found = ico.compare(learners, regression.draw(run, "roll_out/test"), pairs=())
    for step in range(steps):
        for name in learners:
            yield lab.record(step=step + 1, learner=name, loss=found.by_step(name)[..., step, :])


roll_out.claim(
    "loss_ratio",
    "The trained layer repeated 20 times with damping 0.75 follows gradient descent: the "
    "ratio furthest from one",
    "Figs. 1 and 10",
    unit="ratio",
    band=(0.98, 1.02),
    of=lab.every(lab.ratio("loss", learner=(LAYER, GD)), step=range(1, 21)),
)
roll_out.table("losses", lab.rows("loss", reference={"learner": GD}, step=[1, 2, 5, 10, 20, 50]))
roll_out.figure(
    regression.beside_gd("step", "step (application of the layer)", log=True),
    "Paper, Figs. 1 and 10. The trained layer applied again and again with damping 0.75, updating "
    "labels only, beside as many steps of gradient descent at 0.75 of its searched rate. Right: "
    f"the ratio of the two losses. {regression.SEEDS}",
)
