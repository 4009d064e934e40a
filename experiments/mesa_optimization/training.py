"""Training models of sequences: seeds under one vmap, each model an artefact found again.

Dimension key: S seeds, B sequences, T positions, I inputs, O outputs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.launch import Context
from ico import tasks, train
from ico.types import Sequence


@dataclasses.dataclass(frozen=True)
class Recipe:
    """AdamW with warm-up and a cosine to a hundredth.

    The paper: AdamW (b2 .999) at 1e-4 without schedule on constructed tokens (mesa 4e-4), weight
    decay 0.1, 5,000 to 15,000 steps; full models warm up 1,000 steps to 7e-4 or 8e-4, weight decay
    0.05, 10,000 steps; gradients are clipped elementwise at one in the code. Here gradients are
    clipped by their norm, rates are higher and steps fewer.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.05
    clip: float = 1.0
    warmup: float = 0.1  # share of the steps

    def optimizer(self) -> optax.GradientTransformation:
        """A new one; equal recipes give equal ones."""
        return self._with(None)

    def _with(self, mask) -> optax.GradientTransformation:
        warmup = int(self.warmup * self.num_steps)
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, warmup, max(self.num_steps, warmup + 1),
            0.01 * self.learning_rate,
        )  # fmt: skip
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.adamw(rate, weight_decay=self.weight_decay, mask=mask),
        )


@dataclasses.dataclass(frozen=True)
class TokenRecipe(Recipe):
    """The same, but scales, gates and regularisers, [H] or [E], are not decayed."""

    def optimizer(self) -> optax.GradientTransformation:
        """A new one; equal recipes give equal ones."""
        return self._with(lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params))


class Trained(NamedTuple):
    """A model, its parameters, leaves [S, ...], and all that they depend on.

    `spec` is None where parameters were not trained but made of others.
    """

    model: Any
    params: Any
    spec: dict | None = None


def train_seeds(
    context: Context,
    name: str,
    model: Any,
    init: Callable,
    loss: Callable,
    sampler: Callable,
    recipe: Recipe,
    spec: dict,
    start: Any = None,
    stream: str = "",
    num_seeds: int = 0,
) -> Trained:
    """Trains a model for every seed, all at once, or finds it trained.

    Args:
      context: where and with which seed; its configuration gives the number of seeds.
      name: of the artefact.
      model: for the result.
      init: key -> parameters of one seed.
      loss: (params, batch) -> (loss, metrics); the same function for equal models.
      sampler: key -> batch.
      recipe: how.
      spec: all else that the parameters depend on, for the artefact's hash.
      start: parameters with a leading seed axis to start from, in place of those that `init` draws.
      stream: what starts and batches are drawn by, the name if empty. Models of one stream see
        the same batches seed by seed, which makes differences between them paired.
      num_seeds: S; that of the configuration if 0.
    """
    num_seeds = num_seeds or context.config.num_seeds
    spec = {**spec, "recipe": recipe, "seeds": num_seeds, "seed": context.seed}
    if stream:
        spec["stream"] = stream
    directory = train.artifact_directory(context.directory / "checkpoints", name, spec)
    if (found := train.load_artifact(directory)) is not None:
        return Trained(model, found, spec)
    optimizer = recipe.optimizer()
    keys = jax.random.split(context.key(f"train/{stream or name}"), num_seeds)
    every = max(1, min(100, recipe.num_steps))
    state = train.init_state(init, optimizer, keys)
    if start is not None:  # AdamW's own state starts at zero, whatever the parameters
        state = state._replace(params=jax.tree.map(jnp.asarray, start))
    result = train.fit(
        train.make_step(loss, optimizer),
        state,
        sampler,
        train.LoopConfig(recipe.num_steps, steps_per_call=every, checkpoint_every=5 * every),
        directory=directory,
        label=name,
        progress=context.progress,
    )
    params = jax.tree.map(np.asarray, result.state.params)
    train.save_artifact(directory, params)
    return Trained(model, params, spec)


def train_on_dynamics(
    context: Context,
    name: str,
    model: Any,
    task: tasks.Dynamics,
    recipe: Recipe,
    constructed: bool = False,
    start: Trained | None = None,
) -> Trained:
    """Next-vector prediction on dynamical systems.

    Args:
      context: of the run.
      name: of the artefact.
      model: a `SequenceTransformer`.
      task: the systems; the size of its batch is the recipe's.
      recipe: how.
      constructed: whether on constructed tokens.
      start: a model of the same shape that is trained on; None starts afresh.
    """
    task = sized(task, recipe.batch_size)
    sampler = functools.partial(draw, task=task, constructed=constructed)
    spec: dict = {"model": spec_of(model), "task": task, "constructed": constructed}
    if start is not None:
        spec["of"] = start.spec

    def init(key):
        shape = jax.eval_shape(sampler, key).inputs.shape
        return model.init(key, jnp.zeros((1, *shape[1:])))["params"]

    params = None if start is None else start.params
    return train_seeds(context, name, model, init, loss_of(model), sampler, recipe, spec, params)


def draw(key, task: tasks.Dynamics, constructed: bool) -> Sequence:
    """Sequences; as constructed tokens (0, x_t, x_t, x_{t-1}) if asked."""
    sequence = tasks.dynamics(key, task).sequence
    if constructed:
        sequence = sequence._replace(inputs=tasks.constructed_tokens(sequence.inputs))
    return sequence


draw_jit = jax.jit(draw, static_argnames=("task", "constructed"))


@functools.lru_cache(maxsize=64)
def loss_of(model):
    """The mean over positions of 1/2 |error|^2, as in the paper."""

    def loss(params, batch):
        prediction = cast(jax.Array, model.apply({"params": params}, batch.inputs))
        return jnp.mean(tasks.half_squared_error(prediction, batch.targets)), {}

    return loss


def sized(task: tasks.Dynamics, count: int) -> tasks.Dynamics:
    """The task with so many sequences a batch."""
    return dataclasses.replace(task, batch_size=count)


def spec_of(model) -> dict:
    """A model of `ico.models` as artefacts name it, so that `ico.load_run` can build it again."""
    arguments = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    return {"class": type(model).__name__, "arguments": arguments}


def one(trained: Trained, seed: int):
    """The parameters of one seed."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[seed]), trained.params)


def num_parameters(trained: Trained) -> int:
    """Numbers in one seed's parameters."""
    return sum(leaf[0].size for leaf in jax.tree.leaves(trained.params))


@functools.partial(jax.jit, static_argnums=0)
def _losses(model, params, sequence):
    with jax.default_matmul_precision("highest"):
        prediction = model.apply({"params": params}, sequence.inputs)
    return 0.5 * jnp.sum((prediction - sequence.targets) ** 2, axis=-1)


def losses(trained: Trained, sequence: Sequence) -> np.ndarray:
    """1/2 |error|^2 of every seed, sequence and position, [S, B, T]."""
    count = len(jax.tree.leaves(trained.params)[0])
    return np.stack(
        [np.asarray(_losses(trained.model, one(trained, s), sequence)) for s in range(count)]
    )
