"""Training the models of the paper: one recipe, several seeds at once, every model an artefact.

Dimension key: S seeds, B tasks in a batch.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.launch import Context
from ico import models, tasks, train

SAMPLERS = {tasks.LinearRegression: tasks.linear_regression, tasks.Sine: tasks.sine}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The authors' notebook: Adam(0.9, 0.98), gradients clipped by global norm.

    Their rate is 1e-3 up to three layers and 5e-4 beyond, their clip 0.001 up to two layers and
    10 beyond (10 everywhere in the paper's text). `decay` lets the rate
    fall linearly to zero over the last 30% of the steps; until then it stays, for these models
    start on a plateau, and a rate that falls early leaves some seeds there.
    """

    num_steps: int
    learning_rate: float = 1e-3
    clip: float = 1e-3
    b2: float = 0.98
    decay: bool = False

    def optimizer(self) -> optax.GradientTransformation:
        """Adam behind the clip, at the rate or its schedule."""
        rate = self.learning_rate
        if self.decay:
            last = max(1, 3 * self.num_steps // 10)
            rate = optax.linear_schedule(rate, 0.0, last, self.num_steps - last)
        return optax.chain(
            optax.clip_by_global_norm(self.clip), optax.adam(rate, b1=0.9, b2=self.b2)
        )


def recipe_for(config, num_steps: int, learning_rate: float = 1e-3, **changes) -> Recipe:
    """The authors' recipe with the preset's changes to their learning rate."""
    rate = learning_rate * config.learning_rate_factor
    return Recipe(num_steps, rate, decay=config.decay, **changes)


class Trained(NamedTuple):
    """Parameters with a leading seed axis [S, ...], and the history of their training."""

    apply: Callable
    params: Any
    history: dict[str, np.ndarray]


def sampler_of(task) -> Callable:
    """The sampler `key -> Episode` of a task's configuration."""
    return functools.partial(SAMPLERS[type(task)], config=task)


def loss_of(apply) -> Callable:
    """The training loss of a learner, `loss(params, episode) -> (scalar, {})`."""

    def loss(params, episode):
        prediction = apply(params, episode.prompt)
        return tasks.half_squared_error(prediction, episode.y_query).mean(), {}

    return loss


def train_model(
    context: Context,
    name: str,
    model,
    task,
    recipe: Recipe,
    *,
    sampler: Callable | None = None,
    evaluate: Callable | None = None,
    spec: dict | None = None,
) -> Trained:
    """Trains `context.config.num_seeds` models, or finds them trained.

    Args:
      context: where and with which seed.
      name: of the artefact; also names its random key.
      model: a module of `ico.models`.
      task: a task configuration to train on.
      recipe: how.
      sampler: what to draw batches from, if not `task` itself; say so in `spec`.
      evaluate: params -> dict of scalars, for the learning curve.
      spec: whatever else the parameters depend on.
    """
    # Without this, a linear layer on fields of a Linen module would also carry its parent.
    fields = [f.name for f in dataclasses.fields(model) if f.name not in ("parent", "name")]
    return train_learner(
        context,
        name,
        models.learner(model),
        functools.partial(_init_model, model, sampler_of(dataclasses.replace(task, batch_size=2))),
        task,
        recipe,
        sampler=sampler,
        evaluate=evaluate,
        spec={
            "model": {
                "class": type(model).__name__,
                "arguments": {field: getattr(model, field) for field in fields},
            },
            **(spec or {}),
        },
    )


def _init_model(model, sampler, key):
    return model.init(key, sampler(key).prompt)["params"]


def train_learner(
    context: Context,
    name: str,
    apply,
    init,
    task,
    recipe: Recipe,
    *,
    spec: dict,
    sampler: Callable | None = None,
    evaluate: Callable | None = None,
) -> Trained:
    """As `train_model`, for any learner `apply(params, prompt)` with `init(key) -> params`."""
    num_seeds = context.config.num_seeds
    directory = train.artifact_directory(
        context.directory / "checkpoints",
        name,
        {**spec, "task": task, "recipe": recipe, "seeds": num_seeds, "seed": context.seed},
    )
    keys = jax.random.split(context.key(f"train/{name}"), num_seeds)
    optimizer = recipe.optimizer()
    every = max(1, min(100, recipe.num_steps))
    result = train.fit(
        train.make_step(loss_of(apply), optimizer),
        train.init_state(init, optimizer, keys),
        sampler or sampler_of(task),
        train.LoopConfig(
            recipe.num_steps,
            steps_per_call=every,
            checkpoint_every=5 * every,
            evaluate_every=every if evaluate else 0,
        ),
        directory=directory,
        evaluate=evaluate,
        label=name,
        progress=context.progress,
    )
    params = jax.tree.map(np.asarray, result.state.params)
    if not (directory / "done.json").exists():
        train.save_artifact(directory, params)
    return Trained(apply, params, result.history)
