"""What does LayerNorm change? (Fig. 14) No claim: the paper gives no number."""

from experiments.gd_in_context.paper import (
    GD,
    SEEDS,
    compared,
    curve,
    draw,
    level,
    paper,
    recipe,
    sampler_of,
    searched_rate,
    task_of,
    training_and_cosine,
)
from ico import algorithms, lab
from ico.models import LinearTransformer

NORMED = "layer with LayerNorm"


@paper.study("What does LayerNorm change?")
def layer_norm(run):
    """One linear layer with LayerNorm on the tokens before attention."""
    task = task_of(run)
    # Tied, so that the norm stands before the only layer too (untied, the first has none).
    model = LinearTransformer(layer_norm=True, tied=True, init_scale=0.02)
    how = recipe(run, run.config.one_layer_steps, clip=10.0)
    trained = lab.train(run, "layer_norm", model, sampler_of(task), how)
    learners = {NORMED: trained, GD: (algorithms.gd, searched_rate(run))}
    found = list(compared(learners, draw(run, "layer_norm/test", task), alike=(NORMED,)))
    yield from found
    yield curve(trained, learner=NORMED)
    yield level(found[-1]["loss"], trained, learner=GD)


layer_norm.table("losses", lab.rows("loss", reference={"learner": GD}, also=("cosine",)))
layer_norm.figure(
    training_and_cosine,
    "Paper, Fig. 14. One linear layer with LayerNorm on the tokens before it. Left: loss while "
    "training, and the loss of one gradient step. Right: cosine of its derivatives by the query "
    f"input with those of gradient descent, a marker a seed. {SEEDS}",
    name="layer_norm",
)
