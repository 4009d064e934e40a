"""With an MLP below, is attention a gradient step on learned features? (Fig. 4)

Sine waves are no linear functions of their input. The paper: an MLP with one attention layer learns
them as well as an MLP with one gradient step of learned rate on its features.

Dimension key: S seeds, T tasks, X points of a curve.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import SEEDS, ZERO
from ico import Seeded, lab, report, tasks
from ico.algorithms import constructions
from ico.models import LinearTransformer, learner

ATTENTION, DESCENT = "MLP + attention", "MLP + one gradient step"
MODEL = LinearTransformer(num_inputs=1, embed_dim=40, input_mlp_dim=160, init_scale=0.002)


@paper.study("With an MLP below, is attention a gradient step on learned features?")
def sine_mlp(run):
    """MLP and trained attention beside MLP and one gradient step of learned rate."""
    task = tasks.Sine(batch_size=run.config.deep_batch_size)
    steps, sampler = run.config.sine_steps, regression.sampler_of(task)
    recipe = regression.recipe(run, steps, learning_rate=3e-4, clip=100.0, b2=0.999)
    attention = lab.train(run, "sine_attention", MODEL, sampler, recipe)
    descent = lab.train(
        run,
        "sine_descent",
        None,
        sampler,
        recipe,
        loss=lab.regression_loss(descend),
        init=functools.partial(init_descent, task),
        spec="MLP and one gradient step of learned rate",
    )
    learners = {ATTENTION: attention, DESCENT: Seeded(descend, descent.params)}
    everyone = learners | {ZERO: (regression.predict_zero, {})}
    yield from regression.compared(everyone, regression.draw(run, "sine_mlp/test", task))
    yield from waves(learners, regression.draw(run, "sine_mlp/figure", task, 4))
    yield regression.curve(attention, learner=ATTENTION)
    yield regression.curve(descent, learner=DESCENT)


def init_descent(task, key):
    """The MLP's parameters, and a learning rate in place of attention's."""
    sample = regression.sampler_of(dataclasses.replace(task, batch_size=2))
    params = dict(MODEL.init(key, sample(key).prompt)["params"])
    del params["block_0"]
    return {**params, "rate": jnp.ones(())}


def descend(params, prompt):
    """The model with its attention replaced by the construction, at a learned rate."""
    features = {name: value for name, value in params.items() if name != "rate"}
    width = MODEL.embed_dim - 1
    built = constructions.gd(params["rate"], num_context=prompt.x.shape[1], num_inputs=width)
    return learner(MODEL)({**features, **built}, prompt)


def waves(learners, episode):
    """Predictions for a grid of queries, of the first seed of both models, and what is true."""
    count, grid_X = len(episode.y_query), jnp.linspace(-5, 5, 101)
    x_query = jnp.broadcast_to(grid_X[None, :, None], (count, len(grid_X), 1))
    prompt = episode.prompt._replace(x_query=x_query)
    x_TN, y_TN = (np.asarray(a)[..., 0] for a in (prompt.x, prompt.y))
    target_TX = tasks.sine_through(x_TN, y_TN, np.asarray(grid_X))
    drawn: dict[str, Any] = {"target": ([grid_X] * count, target_TX)}
    for name, one in learners.items():
        first = jax.tree.map(lambda leaf: leaf[0], one.params)
        drawn[name] = ([grid_X] * count, jax.jit(one.apply)(first, prompt)[..., 0])
    drawn["context"] = (x_TN, y_TN)
    for name, curves in drawn.items():
        for task, (x, y) in enumerate(zip(*curves, strict=True), start=1):
            yield lab.record("wave", of=name, task=f"task {task}", x=x, y=y)


sine_mlp.claim(
    "loss_ratio",
    "MLP and one attention layer reach the loss of an MLP and one learned gradient step",
    "Fig. 4",
    unit="ratio",
    band=(None, 1.05),
    kind="core",
    of=lab.controlled(
        lab.ratio("loss", learner=(ATTENTION, DESCENT)),
        lab.ratio("loss", learner=(DESCENT, ZERO)),
        below=0.5,
        note="the gradient step's loss over the zero predictor's",
    ),
)
sine_mlp.table("losses", lab.rows("loss", reference={"learner": DESCENT}))
sine_mlp.note(
    "Amplitude and phase are drawn independently; the authors' code draws both from one key, so "
    "that one determines the other."
)


_PLAIN = {"marker": "", "linewidth": 2.2}
_WAVES = {
    "target": {"color": "0.55", "linewidth": 1},
    ATTENTION: report.panels.look(0) | _PLAIN,
    DESCENT: report.panels.look(1) | _PLAIN,
    "context": {"linestyle": "none", "marker": "o", "color": "black", "zorder": 3},
}
sine_mlp.figure(
    lab.lines("x", "y", record="wave", color="of", panel="task", columns=2, looks=_WAVES),
    "Paper, Fig. 4. Predictions for four sine waves from the context points shown, by an MLP with "
    "one attention layer and by an MLP with one gradient step of learned rate; the first seed of "
    "both.",
    name="sine_predictions",
)
sine_mlp.figure(
    regression.while_training(log="y"),
    f"Paper, Fig. 4. Loss of both while training, on a logarithmic axis. {SEEDS}",
    name="sine_training",
)
