"""Training the models of a study: seeds and settings under one vmap, each an artefact.

Dimension key: S seeds, C settings, M = S C models trained side by side.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ico import models, tasks
from ico.files import flatten
from ico.lab._describe import describe
from ico.lab._fit import SideBySide, Training
from ico.lab._recipe import Recipe
from ico.lab._run import Run
from ico.types import Episode

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `lab.train` gives back; whether trained now or found, the same to the last bit.

    Fields:
      model: what was trained.
      params: the parameters to use (averaged ones if the optimizer keeps an average), with leading
        axes [S, ...], or [S, C, ...] where there are settings.
      history: metric -> float64 [rows, S] (or [rows, S, C]); "step" [rows]. See
        `ico.train.FitResult`.
      spec: everything they depend on.
      iterates: float32 [n, S, D] (or [n, S, C, D]): parameters, flat, at the n steps of
        `record_at`, in the order of `jax.flatten_util.ravel_pytree`.
      failure_rate: share of all starts that were dead, None if nobody looked (`Recipe.restart`).
    """

    model: Any
    params: PyTree
    history: dict[str, np.ndarray]
    spec: dict[str, Any]
    failure_rate: float | None = None
    iterates: np.ndarray | None = None

    @property
    def apply(self) -> Callable:
        """The model as a learner, (params, prompt) -> prediction; the same for equal models."""
        return models.learner(self.model)

    @property
    def num_seeds(self) -> int:
        """S."""
        return len(jax.tree.leaves(self.params)[0])

    def seed(self, *index: int) -> PyTree:
        """The parameters of one seed, or of one seed and setting."""
        return jax.tree.map(lambda leaf: leaf[index], self.params)

    def unravel(self, flat: Any) -> PyTree:
        """One model's parameters as a tree, of flat ones [D]."""
        leading = self.history["loss"].ndim - 1
        one = jax.tree.map(lambda leaf: leaf[(0,) * leading], self.params)
        return ravel_pytree(one)[1](flat)

    def outputs(self, *inputs: Any) -> jax.Array:
        """What a Linen model gives for these inputs, by every seed: [S, ...]."""
        apply = jax.vmap(lambda params: self.model.apply({"params": params}, *inputs))
        return jax.jit(apply)(self.params)

    def mapped(self, function: Callable[[PyTree], Any]) -> Any:
        """`function(params)` of every seed, one after the other in one compiled call: [S, ...]."""
        found = jax.jit(lambda params: jax.lax.map(function, params))(self.params)
        return jax.tree.map(np.asarray, found)

    def by_seed(self, function: Callable, *args: Any) -> np.ndarray:
        """`function(model, params, *args)` of every seed, stacked: [S, ...]."""
        found = [function(self.model, self.seed(s), *args) for s in range(self.num_seeds)]
        return np.stack([np.asarray(one) for one in found])

    def remade(self, params: PyTree, **fields: Any) -> Trained:
        """A model made of this one, with other parameters [S, ...] and fields, not trained."""
        model = self.model.clone(**fields)
        return dataclasses.replace(self, model=model, params=params, spec={"of": self.spec})

    @property
    def num_parameters(self) -> int:
        """Entries of one model's parameters."""
        leading = self.history["loss"].ndim - 1
        shapes = [leaf.shape[leading:] for leaf in jax.tree.leaves(self.params)]
        return sum(int(np.prod(shape)) for shape in shapes)


def train(
    run: Run,
    name: str,
    model: Any,
    sampler: Callable[..., PyTree],
    recipe: Recipe,
    *,
    loss: Callable[..., tuple[jax.Array, dict]] | None = None,
    init: Callable[[jax.Array], PyTree] | None = None,
    evaluate: Callable[..., dict[str, jax.Array]] | None = None,
    given: PyTree = None,
    given_axes: PyTree = None,
    settings: PyTree = None,
    start: PyTree = None,
    num_seeds: int | None = None,
    record_at: Sequence[int] = (),
    stream: str = "",
    key: jax.Array | None = None,
    spec: Any = None,
) -> Trained:
    """Trains a model for every seed, all at once, or finds it trained.

    Args:
      run: where, with which seed, and (`run.num_seeds`) how many models.
      name: of the artefact; also names the random key.
      model: a Linen module, whose class and fields enter the specification; or anything, if `init`
        and `loss` are given and `spec` says what they depend on.
      sampler: key -> batch (an `Episode`, `Sequence` or any tree), pure.
      recipe: how.
      loss: (params, batch) -> (loss [], metrics); by default half the squared error of a learner on
        episodes. The same function object for equal models: a new one compiles anew.
      init: key -> parameters; by default the model's own, on the prompt of the sampler's batch
        (`Episode`), or on zeros like the first of its inputs (`Sequence`, or a pair of inputs and
        answers). Not needed with `start`.
      evaluate: params -> numbers, for the learning curve (`history["eval/..."]`).
      given: what loss, sampler and evaluation need beside and no step moves: their last argument.
      given_axes: where the leaves of `given` have a seed axis, as `jax.vmap` takes it: None (all
        seeds share), 0, or a tree of both that is a prefix of `given`. A frozen model of each seed
        is given with 0.
      settings: a tree whose leaves have a leading axis C, of settings of equal shape, each trained
        with every seed: the last argument of loss, sampler and evaluation, after `given`. Seed s
        starts alike and sees the same keys in all settings, so differences are paired.
      start: parameters [S, ...] to start from, in place of those that `init` draws.
      num_seeds: S, if not that of the configuration.
      record_at: steps after which the iterates are kept, besides the last parameters; 0 is the
        start. Not with `Recipe.restart`.
      stream: what starts and batches are drawn by, `name` if empty. Models of one stream see the
        same batches seed by seed, which pairs differences between them.
      key: of starts and batches, in place of the run's for that stream.
      spec: whatever else the parameters depend on. Functions count with their name and their own
        code, not with the code that they call; those that close over something cannot be described,
        so with such a `sampler` or `loss` it is required.

    Returns:
      The trained models, evaluated and kept at the parameters to use.

    Raises:
      ValueError: `record_at` together with a restart.
      TypeError: what the parameters depend on cannot be described; the message names it.
      ico.train.TrainingError: as `ico.train.fit`.
    """
    num_seeds = run.num_seeds if num_seeds is None else num_seeds
    if record_at and recipe.restart is not None:
        raise ValueError("record_at: the iterates of starts begun anew are no one training's")
    lenient = spec is not None
    whole = {
        "model": describe(model, lenient),
        "sampler": describe(sampler, lenient),
        "loss": describe(loss, lenient),
        "init": describe(init, True),
        "evaluate": describe(evaluate, True),
        "recipe": recipe,
        "seeds": num_seeds,
        "stream": stream,
        "key": key,
        "given": leaves_of(given),
        "given_axes": leaves_of(given_axes),
        "settings": leaves_of(settings),
        "start": leaves_of(start),
        "also": spec,
    }
    if record_at:
        whole["record_at"] = list(record_at)
    if init is None and start is None:
        init = functools.partial(_init_model, model, sampler, _of_one(given, given_axes, settings))
    elif init is None:
        init = functools.partial(_first_of, start)  # for its shapes: `start` takes its place
    loss = loss or regression_loss(models.learner(model))
    key = run.key(f"train/{stream or name}") if key is None else key
    keys_S = jax.random.split(key, num_seeds)
    side_by_side = SideBySide.of(keys_S, init, start, given, settings, given_axes)
    training = Training(
        name, loss, sampler, recipe, evaluate, side_by_side, run.progress, record_at
    )
    found = run.kept(name, whole, training.fit)

    def by_seed(leaf):
        shape = (num_seeds,) if settings is None else (num_seeds, -1)
        return jnp.asarray(leaf.reshape(*shape, *leaf.shape[1:]))

    history = flatten(found["history"])
    if settings is not None:
        history = {
            metric: values if metric in ("step", "eval/step")
            else values.reshape(len(values), num_seeds, -1, *values.shape[2:])
            for metric, values in history.items()
        }  # fmt: skip
    rate = None if recipe.restart is None else float(found["failure_rate"])
    iterates = None
    if record_at:
        shape = (num_seeds,) if settings is None else (num_seeds, -1)
        rows = found["iterates"]
        iterates = rows.reshape(len(rows), *shape, rows.shape[-1])
    return Trained(model, jax.tree.map(by_seed, found["params"]), history, whole, rate, iterates)


def best_seed(losses_S: Any) -> int:
    """Which seed has the least loss; one that is not a number is as bad as an infinite one.

    Choose on data that nothing else uses, and give the interval of the chosen seed's row alone.

    Raises:
      ValueError: no loss is finite.
    """
    losses_S = np.asarray(losses_S, dtype=float)
    losses_S = np.where(np.isfinite(losses_S), losses_S, np.inf)  # argmin takes nan for the least
    if not np.isfinite(losses_S).any():
        raise ValueError("no seed has a finite loss")
    return int(np.argmin(losses_S))


@functools.lru_cache(maxsize=64)
def regression_loss(apply: Callable) -> Callable:
    """The training loss of a learner on episodes: the mean of half its squared error."""

    def loss(params, episode: Episode, *given):
        prediction = apply(params, episode.prompt)
        return tasks.half_squared_error(prediction, episode.y_query).mean(), {}

    return loss


def leaves_of(tree: PyTree) -> list | None:
    """The leaves of a tree by their paths, for a specification."""
    if tree is None:
        return None
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return [[jax.tree_util.keystr(path, simple=True, separator="/"), leaf] for path, leaf in flat]


def _init_model(model, sampler, given, key):
    batch = jax.eval_shape(sampler, key, *given)
    if isinstance(batch, Episode):
        return model.init(key, sampler(key, *given).prompt)["params"]
    inputs = batch.inputs if hasattr(batch, "inputs") else batch[0]
    one = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), inputs)
    return model.init(key, one)["params"]


def _of_one(given, given_axes, settings) -> tuple:
    """What the first seed is given in the first setting: what a sampler needs beside its key."""
    parts = ()
    if given is not None:
        axes = jax.tree.broadcast(given_axes, given, is_leaf=lambda leaf: leaf is None)
        parts += (
            jax.tree.map(
                lambda axis, leaf: leaf if axis is None else jnp.take(leaf, 0, axis),
                axes,
                given,
                is_leaf=lambda leaf: leaf is None,
            ),
        )
    if settings is not None:
        parts += (jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], settings),)
    return parts


def _first_of(start, key):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), start)
