"""How much is lost with softmax attention, with one head and with two? (Figs. 11 and 12)"""

from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import GD
from ico import lab
from ico.models import LinearTransformer

LINEAR, ONE, TWO = "linear, 1 head", "softmax, 1 head", "softmax, 2 heads"


@paper.study("How much is lost with softmax attention, with one head and with two?")
def softmax_heads(run):
    """Softmax attention with one head and with two, beside the linear layer."""
    trained = {LINEAR: regression.trained_layer(run)}
    sampler = regression.sampler_of(regression.task_of(run))
    recipe = regression.recipe(run, run.config.one_layer_steps, clip=10.0)
    for name, heads in ((ONE, 1), (TWO, 2)):
        # Softmax needs logits of order one: the authors' tiny start suits linear attention only.
        model = LinearTransformer(num_heads=heads, attention="softmax", init_scale=0.1)
        trained[name] = lab.train(run, f"softmax-{heads}", model, sampler, recipe)
    yield from regression.beside_one_step(run, "softmax_heads", trained)


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
    regression.while_training(),
    "Paper, Figs. 11 and 12. Loss while training one layer of linear attention, of softmax "
    "attention with one head and with two, and the loss of one gradient step. "
    f"{regression.SEEDS}",
    name="softmax_heads_training",
)
softmax_heads.figure(
    regression.cosines(),
    "Cosine of the trained layers' derivatives by the query input with those of gradient descent, "
    "with 95% intervals.",
    name="softmax_heads_cosine",
)
