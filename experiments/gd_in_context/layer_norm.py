"""What does LayerNorm change? (Fig. 14) No claim: the paper gives no number."""

from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import GD
from ico import lab
from ico.models import LinearTransformer

NORMED = "layer with LayerNorm"


@paper.study("What does LayerNorm change?")
def layer_norm(run):
    """One linear layer with LayerNorm on the tokens before attention."""
    # Tied, so that the norm stands before the only layer too (untied, the first has none).
    model = LinearTransformer(layer_norm=True, tied=True, init_scale=0.02)
    sampler = regression.sampler_of(regression.task_of(run))
    recipe = regression.recipe(run, run.config.one_layer_steps, clip=10.0)
    trained = lab.train(run, "layer_norm", model, sampler, recipe)
    yield from regression.beside_one_step(run, "layer_norm", {NORMED: trained})


layer_norm.table("losses", lab.rows("loss", reference={"learner": GD}, also=("cosine",)))
layer_norm.figure(
    regression.while_training(),
    "Paper, Fig. 14. One linear layer with LayerNorm on the tokens before it: loss while training, "
    f"and the loss of one gradient step. {regression.SEEDS}",
    name="layer_norm_training",
)
layer_norm.figure(
    regression.cosines(),
    "Cosine of its derivatives by the query input with those of gradient descent, with its 95% "
    "interval.",
    name="layer_norm_cosine",
)
