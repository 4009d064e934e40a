"""The paper's regression tasks, the layer trained on them, and gradient descent at its best rate.

What most studies start from: how tasks are drawn, the authors' recipe, records and pictures of
learners that are compared on the same tasks.

Dimension key: S seeds, T tasks, X steps of a training.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ico
from ico import algorithms, lab, tasks
from ico.algorithms import constructions
from ico.models import LinearTransformer, interpolate, learner
from ico.report import Record, Records
from ico.types import Episode

LAYER, GD, ZERO = "trained layer", "gradient descent", "zero predictor"
LOSS = "loss (half squared error)"
SEEDS = "Thick lines are means over seeds, thin lines the seeds."


def task_of(run: lab.Run, dim: int = 10, **changes: Any) -> tasks.LinearRegression:
    """The paper's task with N = d = dim."""
    task = tasks.LinearRegression(run.config.batch_size, num_inputs=dim, num_context=dim)
    return dataclasses.replace(task, **changes)


def sampler_of(task: tasks.LinearRegression | tasks.Sine) -> Callable[..., Episode]:
    """The sampler `key -> Episode` of a task's configuration."""
    sample = tasks.sine if isinstance(task, tasks.Sine) else tasks.linear_regression
    return functools.partial(sample, config=task)


def deep_sampler(run: lab.Run) -> Callable[..., Episode]:
    """What all models but one layer on plain tokens are trained on."""
    return sampler_of(task_of(run, batch_size=run.config.deep_batch_size))


def draw(run: lab.Run, name: str, task: Any = None, count: int | None = None) -> Episode:
    """Held-out tasks; the key is derived from `name`, so they never repeat training draws."""
    task, scales = task_of(run) if task is None else task, {}
    task = dataclasses.replace(task, batch_size=count or run.config.eval_tasks)
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
    rate = learning_rate * run.config.learning_rate_factor
    schedule = "linear" if run.config.decay else "constant"
    return lab.Recipe(num_steps, rate, schedule=schedule, clip=clip, b2=b2)


def searched_rate(run: lab.Run, dim: int = 10) -> dict[str, jax.Array]:
    """Gradient descent's learning rate for N = d = dim, searched once a run: {"rate": []}.

    On the authors' grid, which is divided by N in the update, and on tasks of its own.
    """
    task = task_of(run, dim, batch_size=run.config.search_tasks)
    rates = np.arange(0.001, 25, 0.1, dtype=np.float32)

    def search(folder):
        candidates, key = {"rate": jnp.asarray(rates)}, run.key(f"search/gd-{dim}")
        return algorithms.grid_search(algorithms.gd, candidates, sampler_of(task), key)[0]

    found = run.kept(f"rate-{dim}", {"task": task, "rates": rates}, search)
    return jax.tree.map(jnp.asarray, found)


def gradient_step(run: lab.Run, dim: int = 10) -> tuple:
    """One step of gradient descent at its searched rate, a learner for `ico.compare`."""
    return algorithms.gd, searched_rate(run, dim)


@lab.once
def trained_layer(run: lab.Run, dim: int = 10) -> lab.Trained:
    """The trained linear attention layer that most studies start from."""
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
    apply = learner(LinearTransformer())
    episode = draw(run, "one_layer/curve", count=run.config.curve_tasks)
    built = constructions.gd(searched_rate(run)["rate"], num_context=10, num_inputs=10)

    def loss(params):
        prediction = apply(params, episode.prompt)
        return tasks.half_squared_error(prediction, episode.y_query).mean()

    def evaluate(params):
        alike = ico.likeness((apply, params), gradient_step(run), episode.prompt)
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


def beside_one_step(
    run: lab.Run, name: str, trained: Mapping[str, lab.Trained], alike: tuple[str, ...] = ()
) -> Iterator[Record]:
    """Trained models beside one step of gradient descent: after and while training.

    Args:
      run: where.
      name: of the study, which its held-out tasks are drawn by.
      trained: the models.
      alike: as in `compared`, by default all of them.
    """
    learners = {**trained, GD: gradient_step(run)}
    *models, descent = compared(learners, draw(run, f"{name}/test"), alike=alike or tuple(trained))
    yield from (*models, descent)
    yield from (curve(one, learner=each) for each, one in trained.items())
    yield level(descent["loss"], next(iter(trained.values())), learner=GD)


def along(x: str, xlabel: str, **options: Any) -> Callable[[Records], Any]:
    """A picture of losses along an axis, a line a learner: see `lab.lines`."""
    return lab.lines(x, "loss", color="learner", xlabel=xlabel, ylabel=LOSS, **options)


def while_training(**options: Any) -> Callable[[Records], Any]:
    """A picture of the curves of `curve` and `level`."""
    return along("step", "training step", record="curve", **options)


def cosines(**options: Any) -> Callable[[Records], Any]:
    """A picture of cosines with gradient descent after training, a bar a learner."""
    return lab.bars("cosine", color="learner", ylabel="cosine with gradient descent", **options)


def beside_gd(x: str, xlabel: str, **options: Any) -> Callable[[Records], Any]:
    """A picture along an axis: losses of the trained layer and of gradient descent; their ratio."""
    options |= {"axis": "learner", "pair": (LAYER, GD), "xlabel": xlabel, "ylabel": LOSS}
    return lab.beside(x, "loss", **options)
