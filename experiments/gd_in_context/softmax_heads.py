"""How much is lost with softmax attention, with one head and with two? (Figs. 11 and 12)"""

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
    trained_layer,
    training_and_cosine,
)
from ico import algorithms, lab
from ico.models import LinearTransformer

LINEAR, ONE, TWO = "linear, 1 head", "softmax, 1 head", "softmax, 2 heads"


@paper.study("How much is lost with softmax attention, with one head and with two?")
def softmax_heads(run):
    """Softmax attention with one head and with two, beside the linear layer."""
    task = task_of(run)
    trained = {LINEAR: trained_layer(run)}
    for name, heads in ((ONE, 1), (TWO, 2)):
        # Softmax needs logits of order one: the authors' tiny start suits linear attention only.
        model = LinearTransformer(num_heads=heads, attention="softmax", init_scale=0.1)
        how = recipe(run, run.config.one_layer_steps, clip=10.0)
        trained[name] = lab.train(run, f"softmax-{heads}", model, sampler_of(task), how)
    learners = {**trained, GD: (algorithms.gd, searched_rate(run))}
    found = list(compared(learners, draw(run, "softmax_heads/test", task), alike=tuple(trained)))
    yield from found
    yield from (curve(one, learner=name) for name, one in trained.items())
    yield level(found[-1]["loss"], trained[LINEAR], learner=GD)


softmax_heads.claim(
    "one_worse_than_two",
    "One softmax head is worse than two (loss difference)",
    "Figs. 11 and 12",
    unit="half squared error",
    band=(0.0, None),
    of=lab.difference("loss", learner=(ONE, TWO)),
)
softmax_heads.claim(
    "two_worse_than_linear",
    "Two softmax heads are worse than one linear head (loss difference)",
    "Figs. 11 and 12",
    unit="half squared error",
    band=(0.0, None),
    of=lab.difference("loss", learner=(TWO, LINEAR)),
)
softmax_heads.table("losses", lab.rows("loss", reference={"learner": GD}, also=("cosine",)))
softmax_heads.figure(
    training_and_cosine,
    "Paper, Figs. 11 and 12. Left: loss while training one layer of linear attention, of softmax "
    "attention with one head and with two, and the loss of one gradient step. Right: cosine of the "
    "trained layers' derivatives by the query input with those of gradient descent, a marker a "
    f"seed. {SEEDS}",
    name="softmax_heads",
)
