"""Transformers learn in-context by gradient descent.

Trained linear self-attention does gradient descent in its forward pass.

Paper:    von Oswald et al., arXiv 2212.07677.
Command:  python -m experiments.gd_in_context            (preset cpu)
Cost:     about an hour on two cores; what a run really took stands in its report.
Expected: a trained linear self-attention layer at a loss of 0.206, that of one gradient step.

Here stand the presets and what several studies share; every study is a file of its own. Losses are
half squared errors of the query; a "ratio" is a model's loss over that of the algorithm it is
compared with, on the same tasks.

Dimension key: S seeds, T tasks, X places along an axis.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ico
from ico import algorithms, lab, report, tasks
from ico.algorithms import constructions
from ico.models import LinearTransformer, interpolate, learner
from ico.report import Record, Records
from ico.types import Episode

LAYER, GD, ZERO = "trained layer", "gradient descent", "zero predictor"
LOSS = "loss (half squared error)"
STEP = "training step"
SEEDS = "Thick lines are means over seeds, thin lines the seeds."


class Config(lab.Config):
    """What a preset chooses. The bands of the claims are not among it."""

    # Models trained under one vmap, wherever a model is trained.
    num_seeds: lab.Count = 3
    # Tasks that gradient descent's learning rate is searched on.
    search_tasks: lab.Count = 100_000
    # Tasks that losses are compared on.
    eval_tasks: lab.within(int, 2) = 10_000
    # Tasks of learning curves.
    curve_tasks: lab.Count = 1_000
    # Tasks for the loss of one gradient step.
    closed_form_tasks: lab.within(int, 16) = 1_000_000
    # Tasks a training step, for one layer on plain tokens.
    batch_size: lab.Count = 1024
    # Tasks a training step, for all other models.
    deep_batch_size: lab.Count = 256
    # Multiplies the authors' learning rates, so that a short training goes further.
    learning_rate_factor: lab.Positive = 3.0
    # A linear decay to zero at the end, where the authors' rates stay constant.
    decay: bool = True
    # Training of one layer, also with softmax, LayerNorm, and for each of sweep_dims.
    one_layer_steps: lab.Count = 2_500
    # Sizes N = d that the study dimensions adds to 10.
    sweep_dims: lab.Distinct[lab.Count] = (2, 5, 15, 20)
    # Depths of models with tied layers.
    tied_depths: lab.Distinct[lab.Count] = (2, 5, 10)
    # Depths of models with untied layers.
    untied_depths: lab.Distinct[lab.Count] = (2, 5, 10)
    # Training of tied models.
    tied_steps: lab.Count = 4_000
    # Training of untied models.
    untied_steps: lab.Count = 5_000
    # L-BFGS steps that fit the explicit algorithms' rates (GD++).
    fit_steps: lab.Count = 200
    # Contexts that the explicit algorithms' rates are fitted on.
    fit_contexts: lab.Count = 16_384
    # Training of the twelve full blocks.
    full_block_steps: lab.Count = 3_000
    # Training in the study sine_mlp.
    sine_steps: lab.Count = 12_000
    # Training in the study token_copy.
    copy_steps: lab.Count = 14_000
    # Times the trained layer is repeated.
    roll_out_steps: lab.Count = 50
    # Numbers of training tasks in fixed_task_set.
    task_set_sizes: lab.Distinct[lab.Count] = (128, 512, 2048, 8192)
    # Training in fixed_task_set.
    task_set_steps: lab.Count = 3_000
    # Rows in context in real_data; the table has 442.
    real_contexts: lab.Distinct[lab.within(int, 1, 400)] = (10, 20, 30, 40)
    # Tasks drawn from the real table for each context length.
    real_tasks: lab.within(int, 2) = 4_000


SMOKE = {
    "num_seeds": 2,
    "search_tasks": 64,
    "eval_tasks": 64,
    "curve_tasks": 16,
    "closed_form_tasks": 256,
    "batch_size": 16,
    "deep_batch_size": 16,
    "one_layer_steps": 4,
    "sweep_dims": (3,),
    "untied_depths": (2, 5),
    "tied_steps": 2,
    "untied_steps": 2,
    "fit_steps": 4,
    "fit_contexts": 128,
    "full_block_steps": 2,
    "sine_steps": 4,
    "copy_steps": 4,
    "roll_out_steps": 20,
    "task_set_sizes": (16, 32),
    "task_set_steps": 4,
    "real_contexts": (10, 40),
    "real_tasks": 16,
}

# The authors' notebook: batch 2048 everywhere, 5,000 steps tied, 50,000 untied, 20,000 sine.
PAPER = {
    "num_seeds": 5,
    "batch_size": 2048,
    "deep_batch_size": 2048,
    "learning_rate_factor": 1.0,
    "decay": False,
    "one_layer_steps": 5_000,
    "sweep_dims": (2, 5, 15, 20, 25, 30),
    "tied_steps": 5_000,
    "untied_steps": 50_000,
    "fit_steps": 400,
    "full_block_steps": 50_000,
    "sine_steps": 20_000,
    "copy_steps": 10_000,
    "task_set_sizes": (128, 256, 512, 1024, 2048, 4096, 8192),
    "task_set_steps": 50_000,
}

paper = lab.Paper(
    "gd_in_context",
    config=Config,
    authors="von Oswald, Niklasson, Randazzo, Sacramento, Mordvintsev, Zhmoginov, Vladymyrov",
    year=2022,
    arxiv="2212.07677",
    smoke=SMOKE,
    paper=PAPER,
    studies=(
        "one_layer",
        "dimensions",
        "roll_out",
        "deep",
        "full_block",
        "out_of_distribution",
        "softmax_heads",
        "layer_norm",
        "distractors",
        "sine_mlp",
        "token_copy",
        "fixed_task_set",
        "real_data",
    ),
    cost={
        "smoke": "about three minutes on two cores, nearly all of it compilation",
        "cpu": "about an hour on two cores",
        "paper": "for a GPU or TPU",
    },
)


def task_of(run: lab.Run, dim: int = 10, batch_size: int | None = None) -> tasks.LinearRegression:
    """The paper's regression task with N = d = dim."""
    return tasks.LinearRegression(
        batch_size=batch_size or run.config.batch_size, num_inputs=dim, num_context=dim
    )


def sampler_of(task: tasks.LinearRegression | tasks.Sine) -> Callable[..., Episode]:
    """The sampler `key -> Episode` of a task's configuration."""
    sample = tasks.sine if isinstance(task, tasks.Sine) else tasks.linear_regression
    return functools.partial(sample, config=task)


def draw(run: lab.Run, name: str, task, count: int | None = None) -> Episode:
    """Held-out tasks; the key is derived from `name`, so they never repeat training draws."""
    count = run.config.eval_tasks if count is None else count
    task, scales = dataclasses.replace(task, batch_size=count), {}
    if isinstance(task, tasks.LinearRegression):
        # Traced, so that a sweep over scales compiles once.
        scales = {"input_range": task.input_range, "weight_scale": task.weight_scale}
        task = dataclasses.replace(task, input_range=1.0, weight_scale=1.0)
    return _sample(task, run.key(name), scales)


@functools.partial(jax.jit, static_argnums=0)
def _sample(task, key, scales):
    return sampler_of(dataclasses.replace(task, **scales))(key)


def recipe(
    run: lab.Run, num_steps: int, learning_rate: float = 1e-3, clip: float = 1e-3, b2: float = 0.98
) -> lab.Recipe:
    """The authors' notebook, with the preset's changes to their learning rate.

    Their learning rate is 1e-3 up to three layers and 5e-4 beyond, their clip 0.001 up to two
    layers and 10 beyond (10 everywhere in the paper's text). Where the preset lets the learning
    rate fall, it does so over the last 30% of the steps alone: these models start on a plateau, and
    one that falls early leaves some seeds there.
    """
    return lab.Recipe(
        num_steps,
        learning_rate * run.config.learning_rate_factor,
        schedule="linear" if run.config.decay else "constant",
        clip=clip,
        b2=b2,
    )


def searched_rate(run: lab.Run, dim: int = 10) -> dict[str, np.ndarray]:
    """Gradient descent's learning rate for N = d = dim, searched once a run: {"rate": []}.

    On the authors' grid, which is divided by N in the update, and on tasks of its own.
    """
    task = task_of(run, dim, run.config.search_tasks)
    rates = np.arange(0.001, 25, 0.1, dtype=np.float32)

    def search(folder):
        candidates, key = {"rate": jnp.asarray(rates)}, run.key(f"search/gd-{dim}")
        return algorithms.line_search(algorithms.gd, candidates, sampler_of(task), key)[0]

    return run.kept(f"rate-{dim}", {"task": task, "rates": rates}, search)


def trained_layer(run: lab.Run, dim: int = 10) -> lab.Trained:
    """The trained linear attention layer that most studies start from."""
    return run.once(f"one layer, {dim}", lambda: _train_layer(run, dim))


def _train_layer(run: lab.Run, dim: int) -> lab.Trained:
    evaluate = _evaluation(run) if dim == 10 else None
    return lab.train(
        run,
        f"one_layer-{dim}",
        LinearTransformer(num_inputs=dim),
        sampler_of(task_of(run, dim)),
        recipe(run, run.config.one_layer_steps),
        evaluate=evaluate,
        spec=evaluate and {"rate": searched_rate(run), "curve_tasks": run.config.curve_tasks},
    )


def _evaluation(run: lab.Run) -> Callable[[Any], dict[str, jax.Array]]:
    """Learning curves of Fig. 2: losses, and likeness to gradient descent, means over tasks."""
    rate, apply = searched_rate(run), learner(LinearTransformer())
    episode = draw(run, "one_layer/curve", task_of(run), run.config.curve_tasks)
    built = constructions.gd(rate["rate"], num_context=10, num_inputs=10)

    def loss(params):
        prediction = apply(params, episode.prompt)
        return tasks.half_squared_error(prediction, episode.y_query).mean()

    def evaluate(params):
        alike = ico.likeness((apply, params), (algorithms.gd, rate), episode.prompt)
        return {
            "loss": loss(params),
            "interpolated": loss(interpolate(params, built)),
            **{name: value.mean() for name, value in alike.items()},
        }

    return evaluate


def predict_zero(params, prompt):
    """The predictor that answers zero, a learner without parameters."""
    return jnp.zeros((*prompt.x_query.shape[:2], prompt.y.shape[-1]), prompt.x.dtype)


def compared(
    learners: Mapping[str, Any], episode: Episode, *, alike: tuple[str, ...] = (), **fields: Any
) -> Iterator[Record]:
    """A record a learner: its losses after the last step, [S, T] or [T].

    Args:
      learners: as `ico.compare` takes them.
      episode: the tasks.
      alike: learners whose cosine with gradient descent, which has to be among `learners`, is
        recorded as well, [S, T].
      **fields: further axes and values of every record.
    """
    found = ico.compare(learners, episode, pairs=[(name, GD) for name in alike])
    for name in learners:
        cosine = {"cosine": found.cosine[name, GD]} if name in alike else {}
        yield lab.record(**fields, learner=name, loss=found.final(name), **cosine)


def curve(trained: lab.Trained, **axes: Any) -> Record:
    """A record of the loss while training, [S, X]."""
    return lab.record("curve", **axes, step=trained.history["step"], loss=trained.history["loss"].T)


def level(loss: np.ndarray, trained: lab.Trained, **axes: Any) -> Record:
    """A mean loss that no training changes, as a curve beside that of a trained model."""
    steps = trained.history["step"]
    return lab.record("curve", **axes, step=steps, loss=np.full(len(steps), loss.mean()))


@functools.cache
def looks() -> dict[str, dict]:
    """Colour, line and marker of each learner, the same wherever it appears."""
    names = (LAYER, GD, "GD++", "halfway between", "second", "third", ZERO)
    return dict(zip(names, report.panels.LOOKS, strict=True))


def beside_gd(x: str, xlabel: str, *, log: bool = False) -> Callable[[Records], Any]:
    """A picture along an axis: losses of the trained layer and of gradient descent; their ratio."""

    def picture(records: Records):
        places = records.axis(x)
        mean = {
            name: np.stack([r["loss"].mean(-1) for r in records.where(learner=name)], axis=-1)
            for name in (LAYER, GD)
        }
        fig, axes = report.canvas(2, height=3.6)
        left, right = axes[0]
        for name, values in mean.items():
            report.panels.seeds(left, places, values, name, **looks()[name])
        left.set(xlabel=xlabel, ylabel=LOSS)
        if log:
            report.panels.log_y(left)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = report.panels.finite(mean[LAYER]) / report.panels.finite(mean[GD])
        right.axhline(1.0, color="0.4", linewidth=1)
        report.panels.seeds(right, places, ratio, LAYER, **looks()[LAYER])
        right.ticklabel_format(axis="y", useOffset=False)
        right.set(xlabel=xlabel, ylabel="loss / loss of gradient descent")
        for ax in axes[0]:
            report.panels.whole_x(ax)
        report.legend_below(fig, axes)
        return fig

    return picture


def training_and_cosine(records: Records):
    """A picture: loss while training, and how alike gradient descent each learner became."""
    fig, axes = report.canvas(2, height=3.9, width_ratios=(3, 2))
    left, right = axes[0]
    alike = [r for r in records[""] if "cosine" in r.values]
    for record in records["curve"]:
        style = _training_look(record["learner"], [r["learner"] for r in alike])
        report.panels.seeds(left, record["step"], record["loss"], record["learner"], **style)
    left.set(xlabel=STEP, ylabel=LOSS)
    for place, record in enumerate(alike):
        style = _training_look(record["learner"], [r["learner"] for r in alike])
        report.panels.dots(right, place, record["cosine"].mean(-1), **style)
    report.panels.name_places(right, [r["learner"].replace(", ", "\n") for r in alike])
    right.set(ylabel="cosine with gradient descent")
    report.legend_below(fig, axes, 2)
    return fig


def _training_look(name: str, trained: list[str]) -> dict:
    return dict(
        looks()[GD] if name == GD else looks()[(LAYER, "second", "third")[trained.index(name)]]
    )
