"""Meta-training: an outer loop over estimated gradients, through the loop that trains anything.

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
from ico.metatrain._estimators import Estimator, begin_carried, carried_gradient, whole_gradient
from ico.metatrain._tasks import Task, TaskFamily

PyTree = Any


@dataclasses.dataclass(frozen=True)
class MetaConfig:
    """How an optimizer is meta-trained.

    Fields:
      num_steps: outer steps.
      horizon: inner steps of a training; of several, (shortest, longest), drawn log-uniformly.
      curriculum: share of the outer steps over which the longest grows from the shortest to its
        full length; 0 begins with all.
      estimator: of the gradient.
      learning_rate: of Adam with a cosine to a tenth, unless `meta_train` gets another optimizer.
      clip: the gradient's norm is clipped to it.
      steps_per_call: outer steps in one compiled call.

    Raises:
      ValueError: numbers that are not positive, or a horizon out of order or (with a method that
        truncates) shorter than the truncation.
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
        least = self.estimator.truncation if self.estimator.carries else 1
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
        """Inner steps of the whole, about: what the cost of two meta-trainings is compared by."""
        low, high = self.ends
        mean = (high - low) / np.log(high / low) if high > low else high
        mean = high if self.estimator.method == "unrolled" else mean  # thrown away, but taken
        each = self.estimator.truncation if self.estimator.carries else mean
        pairs = 2 if self.estimator.method in ("evolution", "persistent") else 1
        return float(self.num_steps * self.estimator.num_tasks * pairs * each)


class Learned(NamedTuple):
    """What meta-training gives: theta, and the history of metrics as of `ico.train.fit`.

    `optimizer(num_steps)` is the optimizer with it.
    """

    learner: optim.LearnedOptimizer
    theta: PyTree
    history: dict[str, np.ndarray]

    def optimizer(self, num_steps: int) -> optax.GradientTransformationExtraArgs:
        """For a training of so many steps."""
        return self.learner.build(self.theta, num_steps)

    def save(self, path: str | os.PathLike, num_steps: int, trained_on: Any = None) -> Path:
        """For `ico.optim.load`; `num_steps` is the horizon unless another is asked for."""
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
    """Trains what an optimizer has learned on a family of tasks.

    Same inputs, machine and devices: the same numbers to the last bit, also where it was killed and
    called again with the same `directory`. Tasks are spread over the local devices, or over as many
    as divide their number.

    Args:
      task_family: what it is trained on; of several, whose tasks may differ in shape, every outer
        step takes the mean gradient, with `config.estimator.num_tasks` tasks of each.
      learned_optimizer: what is trained, from `ico.optim.learned`.
      config: how.
      key: of theta's start, tasks and perturbations.
      start: theta to start from; None draws it.
      outer_optimizer: in place of Adam with a cosine.
      directory: where checkpoints and metrics go; None writes nothing.
      label, progress: of the progress bar.

    Returns:
      Learned(learner, theta, history); "loss" is the meta-loss, at the perturbed thetas for
      evolution strategies.

    Raises:
      ValueError: no family, or a Task in its place; no learned optimizer; `directory` is of another
        optimizer or config.
      ico.train.TrainingError: see `ico.train.fit`; inner trainings that diverge make the meta-loss
        infinite, unless shaping is "clipped" or "sign".
    """
    estimator, (low, high) = config.estimator, config.ends
    if not isinstance(learned_optimizer, optim.LearnedOptimizer):
        raise ValueError(
            "learned_optimizer is a name, or the like: ico.optim.learned makes one of it"
        )
    build, N = learned_optimizer.build, estimator.num_tasks
    outer = outer_optimizer or optax.adam(
        optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.1)
    )
    outer = optax.chain(optax.clip_by_global_norm(config.clip), outer)
    if isinstance(task_family, Task):
        raise ValueError("task_family is a Task: ico.metatrain.family_of makes a family of it")
    families = (task_family,) if isinstance(task_family, TaskFamily) else tuple(task_family)
    if not families:
        raise ValueError("task_family must hold at least one")

    if directory is not None:
        _same_as_before(Path(directory), learned_optimizer, config)

    def horizons(step, key, shape):
        if low == high:
            return jnp.full(shape, high, jnp.int32)
        steps = config.curriculum * config.num_steps
        grown = jnp.clip(step / steps, 0, 1) if steps else 1.0
        top = jnp.log(low) + (jnp.log(high) - jnp.log(low)) * grown
        drawn = jnp.exp(jax.random.uniform(key, shape, minval=jnp.log(low), maxval=top))
        return jnp.clip(jnp.round(drawn), low, high).astype(jnp.int32)

    def whole_stretches(horizon):
        return jnp.maximum(horizon // estimator.truncation, 1) * estimator.truncation

    def gradient_on(family, theta, carried, step, keys):
        key = jax.random.fold_in(keys[0], 2**17)  # small numbers are those of `split`
        if not estimator.carries:
            # Of evolution strategies one for all: a loop of other lengths would run to the longest.
            shape = (N,) if estimator.method == "unrolled" else ()
            horizon = high if low == high else horizons(step, key, shape)
            return *whole_gradient(build, family, estimator, theta, keys, horizon, high), carried
        many = whole_stretches(horizons(step, key, (N,)))
        return carried_gradient(build, family, estimator, theta, carried, keys, many)

    def gradient(theta, carried, step, keys):
        parts = [
            gradient_on(family, theta, state, step, _of_family(keys, i))
            for i, (family, state) in enumerate(zip(families, carried, strict=True))
        ]
        losses, grads, carried = zip(*parts, strict=True)
        return jnp.mean(jnp.stack(losses)), _mean_tree(grads), carried

    def outer_step(state: train.TrainState, keys):
        outer_state, carried = state.opt_state
        loss, grads, carried = gradient(state.params, carried, state.step, keys)
        finite = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), grads)
        grads = grads if estimator.shaping == "difference" else finite
        updates, outer_state = outer.update(grads, outer_state, state.params)
        theta = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads),
                   "update_norm": optax.tree.norm(updates),
                   "param_norm": optax.tree.norm(theta)}  # fmt: skip
        return train.TrainState(state.step + 1, theta, (outer_state, carried), state.key), metrics

    keys = jax.random.split(key, 4)
    theta = learned_optimizer.init(keys[0], _shapes(families[0])) if start is None else start
    carried: Any = [jnp.zeros(())] * len(families)
    if estimator.carries:
        some = whole_stretches(horizons(jnp.zeros(()), keys[2], (N,)))
        starts = jax.random.split(keys[1], N)
        carried = [
            jax.jit(functools.partial(begin_carried, build, family, estimator))(
                theta, _of_family(starts, i), some
            )
            for i, family in enumerate(families)
        ]
    carried = tuple(carried)
    state = train.init_state(lambda _: theta, outer, keys[3])
    state = state._replace(opt_state=(state.opt_state, carried))
    result = train.fit(
        outer_step,
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


def _same_as_before(directory: Path, learner: optim.LearnedOptimizer, config: MetaConfig):
    """Refuses to go on with checkpoints of something else; the families it cannot tell apart."""
    what = {"optimizer": learner.name, "settings": learner.settings,
            "config": dataclasses.asdict(config)}  # fmt: skip
    # Functions have no name that outlives a process.
    text = json.dumps(what, indent=1, default=lambda value: type(value).__name__)
    path = directory / "meta_train.json"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    elif path.read_text() != text + "\n":
        raise ValueError(f"{path} is of another optimizer or config: take another directory")


def _of_family(keys_N, i: int):
    """The first family has the keys themselves."""
    # Far from the small numbers that are folded in elsewhere.
    return jax.vmap(lambda key: jax.random.fold_in(key, 2**16 + i))(keys_N) if i else keys_N


def _mean_tree(trees):
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)


def _shapes(family: TaskFamily) -> PyTree:
    """Shapes of a task's parameters: what an embedding for every layer needs to know."""
    return jax.eval_shape(lambda key: family.task(family.sample(key)).init(key), jax.random.key(0))
