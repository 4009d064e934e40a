"""With an MLP below, is attention a gradient step on learned features? (Fig. 4)

Sine waves are no linear functions of their input. The paper: an MLP with one attention layer learns
them as well as an MLP with one gradient step of learned rate on its features.

Dimension key: S seeds, T tasks, X points of a curve.
"""

import dataclasses
import functools

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
    """Predictions over a grid of queries, of the first seed of both models."""
    count, grid_X = len(episode.y_query), jnp.linspace(-5, 5, 101)
    x_query = jnp.broadcast_to(grid_X[None, :, None], (count, len(grid_X), 1))
    prompt = episode.prompt._replace(x_query=x_query)
    for name, one in learners.items():
        first = jax.tree.map(lambda leaf: leaf[0], one.params)
        y = jax.jit(one.apply)(first, prompt)[..., 0]
        yield lab.record("wave", of=name, x=grid_X, y=y)
    x_TN, y_TN = (np.asarray(a)[..., 0] for a in (prompt.x, prompt.y))
    yield lab.record("wave", of="context", x=x_TN, y=y_TN)

    def basis(x):
        return np.stack([np.sin(x), np.cos(x)], axis=-1)

    # a sin(x + phase) is linear in sin x and cos x: ten points determine the curve.
    found = [np.linalg.lstsq(basis(x), y, rcond=None)[0] for x, y in zip(x_TN, y_TN, strict=True)]
    yield lab.record("wave", of="target", x=grid_X, y=np.stack(found) @ basis(grid_X).T)


@sine_mlp.claim(
    "loss_ratio",
    "MLP and one attention layer reach the loss of an MLP and one learned gradient step",
    "Fig. 4",
    unit="ratio",
    band=(None, 1.05),
    kind="core",
)
def loss_ratio(records):
    """Judged only if the gradient step learned: two models that both answer zero agree, too."""
    model, step, zero = (
        records[""].one(learner=name)["loss"] for name in (ATTENTION, DESCENT, ZERO)
    )
    share = float(step.mean() / zero.mean())
    note = f"the gradient step's loss is {share:.3f} of the zero predictor's"
    if share >= 0.5:
        return lab.unjudged(f"not trained: {note}")
    return lab.measured(model, step, statistic=report.ratio, note=note)


sine_mlp.table("losses", lab.rows("loss", reference={"learner": DESCENT}))
sine_mlp.note(
    "Amplitude and phase are drawn independently; the authors' code draws both from one key, so "
    "that one determines the other."
)


@sine_mlp.figure(
    "Paper, Fig. 4. Predictions for four sine waves from the context points shown, by an MLP with "
    "one attention layer and by an MLP with one gradient step of learned rate; the first seed of "
    "both.",
    name="sine_predictions",
)
def predictions(records):
    """Fig. 4: four sine waves."""
    plain = {"marker": "", "linewidth": 2.2}
    styles = {
        "target": {"color": "0.55", "linewidth": 1},
        ATTENTION: report.panels.look(0) | plain,
        DESCENT: report.panels.look(1) | plain,
        "context": {"linestyle": "none", "marker": "o", "color": "black", "zorder": 3},
    }
    fig, axes = report.canvas(2, 2, height=2.7)
    for name, style in styles.items():
        wave = records["wave"].one(of=name)
        for task, ax in enumerate(axes.flat):
            x = wave["x"][task] if wave["x"].ndim == 2 else wave["x"]
            ax.plot(x, report.panels.finite(wave["y"][task]), label=name, **style)
            ax.set(xlabel="x", ylabel="y", title=f"task {task + 1}")
            ax.label_outer()
    report.legend_below(fig, axes)
    return fig


sine_mlp.figure(
    regression.while_training(log="y"),
    f"Paper, Fig. 4. Loss of both while training, on a logarithmic axis. {SEEDS}",
    name="sine_training",
)
