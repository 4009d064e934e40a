"""What optimizers are trained on: a task, and a family of tasks.

Dimension key: T steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from ico.optim import eval_params

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Task:
    """A problem to be optimized: where it starts, what is minimised, on which data.

    Fields:
      init: key -> parameters.
      batch: key -> a batch to train on.
      loss: (parameters, batch) -> scalar.
      test: parameters -> scalar on data that `batch` never gives; None where there is none.
      meta_batch: key -> a batch that the meta-loss is measured on, after every step and at
        `ico.optim.eval_params`. None: it is the loss of the batches trained on, before the step.
    """

    init: Callable[[Key[Array, ""]], PyTree]
    batch: Callable[[Key[Array, ""]], PyTree]
    loss: Callable[[PyTree, PyTree], Float[Array, ""]]
    test: Callable[[PyTree], Float[Array, ""]] | None = None
    meta_batch: Callable[[Key[Array, ""]], PyTree] | None = None


@dataclasses.dataclass(frozen=True)
class TaskFamily:
    """A distribution of tasks of one shape, so that many run side by side.

    Fields:
      sample: key -> what tells one task from another, a pytree of arrays.
      task: that -> a Task; called with traced arrays.
    """

    sample: Callable[[Key[Array, ""]], PyTree]
    task: Callable[[PyTree], Task]


def family_of(task: Task) -> TaskFamily:
    """The family of one task: only starts and batches differ."""
    return TaskFamily(lambda key: jnp.zeros(()), lambda _: task)


class Inner(NamedTuple):
    """An inner training under way."""

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]


def begin(optimizer: optax.GradientTransformationExtraArgs, task: Task, key) -> Inner:
    """Before the first step."""
    params = task.init(key)
    return Inner(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def inner_step(
    optimizer: optax.GradientTransformationExtraArgs, task: Task, inner: Inner, key
) -> tuple[Inner, Float[Array, ""]]:
    """One step on one batch; the loss is that before the step."""
    value, grads = jax.value_and_grad(task.loss)(inner.params, task.batch(key))
    updates, opt_state = optimizer.update(grads, inner.opt_state, inner.params, value=value)
    params = optax.apply_updates(inner.params, updates)
    return Inner(params, opt_state, inner.step + 1), value


def watched_step(
    optimizer: optax.GradientTransformationExtraArgs, task: Task, inner: Inner, key
) -> tuple[Inner, Float[Array, ""]]:
    """One step, and what the meta-loss gains by it: see `Task.meta_batch`."""
    inner, value = inner_step(optimizer, task, inner, key)
    if task.meta_batch is None:
        return inner, value
    # Far from the small numbers that a batch may fold in.
    batch = task.meta_batch(jax.random.fold_in(key, 2**17))
    return inner, task.loss(eval_params(inner.opt_state, inner.params), batch)


def run(
    optimizer: optax.GradientTransformationExtraArgs,
    task: Task,
    key: Key[Array, ""],
    num_steps: int,
    *,
    test_every: int = 0,
) -> tuple[PyTree, Float[Array, "T"], Float[Array, "E"]]:
    """Trains a task with any optimizer: what a learned one and its rivals are measured by.

    Args:
      optimizer: any; it gets `value=loss`.
      task: what is optimized.
      key: of start and batches: equal keys give equal starts and batches to all optimizers.
      num_steps: T.
      test_every: steps between tests, of which the last is behind the last step; 0 is none.

    Returns:
      Parameters to use (`ico.optim.eval_params`), losses of the batches before each step [T], and
      test losses [T // test_every].

    Raises:
      ValueError: `test_every` without a test, or that does not divide `num_steps`.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    if test_every and (task.test is None or num_steps % test_every):
        raise ValueError(f"test_every = {test_every} wants a task with a test and must divide T")
    keys = jax.random.split(key)

    def step(inner, t):
        return inner_step(optimizer, task, inner, jax.random.fold_in(keys[1], t))

    inner, times = begin(optimizer, task, keys[0]), jnp.arange(num_steps)
    if not test_every:
        inner, losses = jax.lax.scan(step, inner, times)
        return eval_params(inner.opt_state, inner.params), losses, jnp.zeros(0)

    def stretch(inner, ts):
        inner, losses = jax.lax.scan(step, inner, ts)
        assert task.test is not None
        return inner, (losses, task.test(eval_params(inner.opt_state, inner.params)))

    inner, (losses, tests) = jax.lax.scan(stretch, inner, times.reshape(-1, test_every))
    return eval_params(inner.opt_state, inner.params), losses.reshape(-1), tests
