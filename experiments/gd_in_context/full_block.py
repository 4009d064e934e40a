"""Does a twelve-block transformer with heads and MLPs do better than GD++? (Fig. 8)"""

from experiments.gd_in_context import deep, regression
from experiments.gd_in_context.paper import paper
from ico import lab
from ico.models import LinearTransformer

DEPTH = 12


@paper.study("Does a twelve-block transformer with heads and MLPs do better than GD++?")
def full_block(run):
    """Twelve blocks with four heads and MLPs beside GD++ of twelve steps."""
    model = LinearTransformer(
        num_layers=DEPTH, num_heads=4, mlp_dim=44, token_clip=10.0, init_scale=0.02 / DEPTH
    )
    steps = run.config.full_block_steps
    recipe = regression.recipe(run, steps, learning_rate=5e-4, clip=10.0)
    trained = lab.train(run, "full_block", model, regression.deep_sampler(run), recipe)
    episode = regression.draw(run, "full_block/test")
    yield from deep.beside_algorithms(trained, deep.best_rates(run, DEPTH, tied=False), episode)


full_block.claim(
    "ratio",
    "Twelve full blocks (4 heads, MLP) have the loss of twelve-step GD++",
    "Fig. 8",
    unit="ratio",
    band=(0.85, 1.15),
    of=lab.ratio("loss", learner=(deep.MODEL, deep.GD_PLUS_PLUS)),
)
full_block.table("losses", lab.rows("loss", reference={"learner": deep.GD_PLUS_PLUS}))
full_block.figure(
    regression.while_training(log="y"),
    "Paper, Fig. 8. Twelve transformer blocks with four heads and MLPs. Loss while training, with "
    f"the losses of {deep.BEST}. {regression.SEEDS}",
    name="full_block_training",
)
full_block.figure(
    deep.by_layer_picture(),
    f"Paper, Fig. 8. {deep.READ}. {regression.SEEDS}",
    name="full_block_by_layer",
)
