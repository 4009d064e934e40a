"""Does a twelve-block transformer with heads and MLPs do better than GD++? (Fig. 8)"""

from experiments.gd_in_context.deep import (
    CAPTION,
    GD_PLUS_PLUS,
    MODEL,
    beside_algorithms,
    best_rates,
    while_training_and_by_layer,
)
from experiments.gd_in_context.paper import curve, draw, paper, recipe, sampler_of, task_of
from ico import lab
from ico.models import LinearTransformer

DEPTH = 12


@paper.study("Does a twelve-block transformer with heads and MLPs do better than GD++?")
def full_block(run):
    """Twelve blocks with four heads and MLPs beside GD++ of twelve steps."""
    model = LinearTransformer(
        num_layers=DEPTH, num_heads=4, mlp_dim=44, token_clip=10.0, init_scale=0.02 / DEPTH
    )
    sampler = sampler_of(task_of(run, batch_size=run.config.deep_batch_size))
    how = recipe(run, run.config.full_block_steps, learning_rate=5e-4, clip=10.0)
    trained = lab.train(run, "full_block", model, sampler, how)
    episode = draw(run, "full_block/test", task_of(run))
    yield from beside_algorithms(model, trained, best_rates(run, DEPTH, tied=False), episode)
    yield curve(trained)


full_block.claim(
    "ratio",
    "Twelve full blocks (4 heads, MLP) have the loss of twelve-step GD++",
    "Fig. 8",
    unit="ratio",
    band=(0.85, 1.15),
    of=lab.ratio("loss", learner=(MODEL, GD_PLUS_PLUS)),
)
full_block.table("losses", lab.rows("loss", reference={"learner": GD_PLUS_PLUS}))
full_block.figure(
    while_training_and_by_layer,
    f"Paper, Fig. 8. Twelve transformer blocks with four heads and MLPs. {CAPTION}",
    name="full_block",
)
