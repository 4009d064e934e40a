"""Meta-training: an outer loop over estimated gradients, by `ico.train.fit`.

Dimension key: N tasks.
"""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from ico import optim, train
from ico.files import read_text, write_atomically
from ico.metatrain._estimators import (
    Build,
    Estimator,
    begin_unrolls,
    whole_gradient,
    window_gradient,
)
from ico.metatrain._tasks import Task, TaskFamily

PyTree = Any


@dataclasses.dataclass(frozen=True)
class MetaConfig:
    """How an optimizer is meta-trained.

    Fields:
      num_steps: outer steps.
      horizon: inner steps of a training, or (shortest, longest), drawn log-uniformly between them.
      curriculum: share of the outer steps over which the longest horizon grows from the shortest to
        its full length; with 0 it has that from the start.
      estimator: of the gradient.
      learning_rate: of the outer Adam, with a cosine to a tenth; not used where `meta_train` is
        given another optimizer.
      clip: largest norm of the gradient.
      steps_per_call: outer steps in one compiled call.

    Raises:
      ValueError: numbers that are not positive, a horizon whose ends are out of order, or (with a
        method that truncates) one shorter than the truncation window.
    """

    num_steps: int = 300
    horizon: int | tuple[int, int] = 50
    curriculum: float = 0.0
    estimator: Estimator = Estimator()
    learning_rate: float = 1e-2
    clip: float = 1.0
    steps_per_call: int = 10

    def __post_init__(self):
        if not isinstance(self.estimator, Estimator):
            raise ValueError(f"estimator must be an Estimator, not {self.estimator!r}")
        low, high = self.ends
        least = self.estimator.truncation if self.estimator.truncates else 1
        if not least <= low <= high:
            raise ValueError(f"horizon must rise from at least {least}, not {self.horizon}")
        if self.num_steps < 1 or self.steps_per_call < 1 or not 0 <= self.curriculum <= 1:
            raise ValueError("num_steps and steps_per_call must be positive, curriculum a share")

    @property
    def ends(self) -> tuple[int, int]:
        """The shortest and the longest horizon."""
        return (self.horizon, self.horizon) if isinstance(self.horizon, int) else self.horizon

    @property
    def inner_steps(self) -> float:
        """Approximate number of inner steps in all: the cost of a meta-training."""
        low, high = self.ends
        mean = (high - low) / np.log(high / low) if high > low else high
        # Steps after a shorter horizon are computed too, and thrown away.
        mean = high if self.estimator.method == "unrolled" else mean
        each = self.estimator.truncation if self.estimator.truncates else mean
        pairs = 2 if self.estimator.method in ("evolution", "persistent") else 1
        return float(self.num_steps * self.estimator.num_tasks * pairs * each)


class Learned(NamedTuple):
    """A meta-trained optimizer.

    Fields:
      learner: what was trained.
      theta: its learned parameters.
      history: metrics of the outer steps, as `ico.train.fit` returns them.
    """

    learner: optim.LearnedOptimizer
    theta: PyTree
    history: dict[str, np.ndarray]

    @property
    def first_loss(self) -> float:
        """Mean meta-loss over the first tenth of the logged rows."""
        losses = self.history["loss"]
        return float(losses[: max(len(losses) // 10, 1)].mean())

    @property
    def last_loss(self) -> float:
        """Mean meta-loss over the last tenth of the logged rows."""
        losses = self.history["loss"]
        return float(losses[-max(len(losses) // 10, 1) :].mean())

    @property
    def failed(self) -> bool:
        """Whether the meta-loss is larger at the end than at the beginning, or not a number."""
        return not self.last_loss <= self.first_loss

    def optimizer(self, num_steps: int) -> optax.GradientTransformationExtraArgs:
        """The optimizer for a training of `num_steps`."""
        return self.learner.build(self.theta, num_steps)

    def save(self, path: str | os.PathLike, num_steps: int, trained_on: Any = None) -> Path:
        """Writes it for `ico.optim.load`, where `num_steps` is the default horizon."""
        settings = self.learner.settings
        if self.learner.has_horizon:
            settings = settings | {"num_steps": num_steps}
        return optim.save(path, self.learner.name, self.theta, settings, trained_on)


def meta_train(
    task_family: TaskFamily | Sequence[TaskFamily],
    learned_optimizer: optim.LearnedOptimizer,
    config: MetaConfig,
    key: Key[Array, ""],
    *,
    start: PyTree | None = None,
    outer_optimizer: optax.GradientTransformation | None = None,
    directory: str | os.PathLike | None = None,
    label: str = "meta-training",
    progress: bool = True,
) -> Learned:
    """Trains the parameters theta of a learned optimizer on a family of tasks.

    Same inputs, machine and devices: the same numbers to the last bit, also if it was killed and
    called again with the same `directory`. Tasks are spread over as many of the local devices as
    divide their number.

    Args:
      task_family: the tasks to train on. Of several families, whose tasks may differ in shape,
        every outer step takes the mean gradient, with `config.estimator.num_tasks` tasks of each.
      learned_optimizer: what is trained, from `ico.optim.learned`.
      config: how.
      key: for theta's initial values, tasks and perturbations.
      start: theta to start from; None draws it.
      outer_optimizer: used in place of Adam with a cosine.
      directory: where checkpoints and metrics go; None writes nothing.
      label, progress: of the progress bar.

    Returns:
      Learned(learner, theta, history). history["loss"] is the meta-loss; evolution strategies
      measure it at the perturbed thetas.

    Raises:
      ValueError: no family, or a Task in its place; something else in place of a learned optimizer;
        `directory` belongs to another optimizer or config.
      ico.train.TrainingError: see `ico.train.fit`; inner trainings that diverge make the meta-loss
        infinite, unless shaping is "clipped" or "sign".
    """
    if not isinstance(learned_optimizer, optim.LearnedOptimizer):
        raise ValueError("learned_optimizer must come from ico.optim.learned")
    families = _families(task_family)
    if directory is not None:
        _same_as_before(Path(directory), learned_optimizer, config)
    N = config.estimator.num_tasks
    outer = outer_optimizer or optax.adam(
        optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.1)
    )
    outer = optax.chain(optax.clip_by_global_norm(config.clip), outer)
    gradient = _MetaGradient(learned_optimizer.build, families, config)
    keys = jax.random.split(key, 4)
    theta = learned_optimizer.init(keys[0], _shapes(families[0])) if start is None else start
    unrolls = gradient.init(theta, keys[1], keys[2])
    state = train.init_state(lambda _: theta, outer, keys[3])
    state = state._replace(opt_state=(state.opt_state, unrolls))
    result = train.fit(
        _outer_step(outer, gradient),
        state,
        lambda key: jax.random.split(key, N),
        train.LoopConfig(
            config.num_steps, config.steps_per_call, checkpoint_every=10 * config.steps_per_call
        ),
        directory=None if directory is None else Path(directory),
        label=label,
        mesh=train.make_mesh({"data": math.gcd(N, len(jax.local_devices()))}),
        progress=progress,
    )
    return Learned(learned_optimizer, result.state.params, result.history)


def _families(task_family) -> tuple[TaskFamily, ...]:
    """One family or several as a tuple, of at least one."""
    if isinstance(task_family, Task):
        raise ValueError("task_family is a Task: ico.metatrain.family_of makes a family of it")
    families = (task_family,) if isinstance(task_family, TaskFamily) else tuple(task_family)
    if not families:
        raise ValueError("task_family must hold at least one")
    return families


@dataclasses.dataclass(frozen=True)
class _MetaGradient:
    """The gradient of an outer step, mean over families, and the unrolls that it continues.

    Unrolls are a tuple, one `UnrollState` a family; where none continue, a zero in its place.
    """

    build: Build
    families: tuple[TaskFamily, ...]
    config: MetaConfig

    def init(self, theta, start_key, horizon_key):
        """The unrolls before the first outer step."""
        estimator, N = self.config.estimator, self.config.estimator.num_tasks
        if not estimator.truncates:
            return tuple(jnp.zeros(()) for _ in self.families)
        horizons = self._whole_windows(self._horizons(jnp.zeros(()), horizon_key, (N,)))
        starts = jax.random.split(start_key, N)
        return tuple(
            jax.jit(functools.partial(begin_unrolls, self.build, family, estimator))(
                theta, _of_family(starts, i), horizons
            )
            for i, family in enumerate(self.families)
        )

    def __call__(self, theta, unrolls, step, keys):
        """Meta-loss, gradient, and unrolls after it."""
        parts = [
            self._of_one(family, theta, state, step, _of_family(keys, i))
            for i, (family, state) in enumerate(zip(self.families, unrolls, strict=True))
        ]
        losses, grads, unrolls = zip(*parts, strict=True)
        return jnp.mean(jnp.stack(losses)), _mean_tree(grads), unrolls

    def _of_one(self, family, theta, unrolls, step, keys):
        estimator, (low, high) = self.config.estimator, self.config.ends
        N = estimator.num_tasks
        key = jax.random.fold_in(keys[0], 2**17)  # small numbers are those of `split`
        if estimator.truncates:
            horizons = self._whole_windows(self._horizons(step, key, (N,)))
            return window_gradient(self.build, family, estimator, theta, unrolls, keys, horizons)
        # Evolution strategies draw one horizon for all tasks: under vmap a loop of several lengths
        # runs to the longest.
        shape = (N,) if estimator.method == "unrolled" else ()
        horizon = high if low == high else self._horizons(step, key, shape)
        loss, grads = whole_gradient(self.build, family, estimator, theta, keys, horizon, high)
        return loss, grads, unrolls

    def _horizons(self, step, key, shape):
        """Horizons of inner trainings that begin at an outer step."""
        low, high = self.config.ends
        if low == high:
            return jnp.full(shape, high, jnp.int32)
        steps = self.config.curriculum * self.config.num_steps
        grown = jnp.clip(step / steps, 0, 1) if steps else 1.0
        top = jnp.log(low) + (jnp.log(high) - jnp.log(low)) * grown
        drawn = jnp.exp(jax.random.uniform(key, shape, minval=jnp.log(low), maxval=top))
        return jnp.clip(jnp.round(drawn), low, high).astype(jnp.int32)

    def _whole_windows(self, horizon):
        """Horizons rounded down to a multiple of the truncation window, at least one window."""
        window = self.config.estimator.truncation
        return jnp.maximum(horizon // window, 1) * window


def _outer_step(outer: optax.GradientTransformation, gradient: _MetaGradient):
    """The step that `train.fit` runs; unrolls are part of the optimizer's state."""
    leaves_out_nonfinite = gradient.config.estimator.shaping != "difference"

    def outer_step(state: train.TrainState, keys):
        outer_state, unrolls = state.opt_state
        loss, grads, unrolls = gradient(state.params, unrolls, state.step, keys)
        if leaves_out_nonfinite:
            grads = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), grads)
        updates, outer_state = outer.update(grads, outer_state, state.params)
        theta = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(theta),
        }
        return train.TrainState(state.step + 1, theta, (outer_state, unrolls), state.key), metrics

    outer_step.__dict__["optimizer"] = outer  # as `train.make_step` does
    return outer_step


def _same_as_before(directory: Path, learner: optim.LearnedOptimizer, config: MetaConfig):
    """Refuses a directory with checkpoints of another optimizer or config.

    Task families are functions, so it cannot tell them apart.
    """
    what = {
        "optimizer": learner.name,
        "settings": learner.settings,
        "config": dataclasses.asdict(config),
    }
    # Functions have no name that outlives a process.
    text = json.dumps(what, indent=1, default=lambda value: type(value).__name__)
    path = directory / "meta_train.json"
    if not path.exists():
        write_atomically(path, text + "\n")
    elif read_text(path) != text + "\n":
        raise ValueError(f"{path} is of another optimizer or config: take another directory")


def _of_family(keys_N, i: int):
    """Keys of family i; family 0 keeps its own, so adding a family leaves its draws unchanged."""
    # 2**16 is far from the small numbers that are folded in elsewhere.
    return jax.vmap(lambda key: jax.random.fold_in(key, 2**16 + i))(keys_N) if i else keys_N


def _mean_tree(trees):
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)


def _shapes(family: TaskFamily) -> PyTree:
    """Shapes of a task's parameters: L3RS has an embedding for each of their groups."""
    return jax.eval_shape(lambda key: family.task(family.sample(key)).init(key), jax.random.key(0))
