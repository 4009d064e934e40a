"""What learned optimizers are trained on: tasks, and families of tasks.

Dimension key: T steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from ico.optim import Optimizer, eval_params, with_loss

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Task:
    """An optimization problem: initial parameters, a loss, and data.

    Fields:
      init: key -> parameters.
      batch: key -> a batch to train on.
      loss: (parameters, batch) -> scalar.
      test: parameters -> scalar, on data that `batch` never draws; None if there is no test.
      meta_batch: key -> a batch to measure the meta-loss on, after every step and at
        `ico.optim.eval_params`. With None the meta-loss is the training loss before every step.
    """

    init: Callable[[Key[Array, ""]], PyTree]
    batch: Callable[[Key[Array, ""]], PyTree]
    loss: Callable[[PyTree, PyTree], Float[Array, ""]]
    test: Callable[[PyTree], Float[Array, ""]] | None = None
    meta_batch: Callable[[Key[Array, ""]], PyTree] | None = None


@dataclasses.dataclass(frozen=True)
class TaskFamily:
    """A distribution of tasks whose parameters and batches have the same shapes (for vmap).

    Fields:
      sample: key -> setting, a pytree of arrays that tells one task from another.
      task: setting -> Task; called with traced arrays.
    """

    sample: Callable[[Key[Array, ""]], PyTree]
    task: Callable[[PyTree], Task]


def family_of(task: Task) -> TaskFamily:
    """The family of a single task: its trainings differ in initial parameters and batches alone."""
    return TaskFamily(lambda key: jnp.zeros(()), lambda _: task)


class Inner(NamedTuple):
    """An inner training under way."""

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]


def begin(optimizer: optax.GradientTransformationExtraArgs, task: Task, key) -> Inner:
    """An inner training before its first step."""
    params = task.init(key)
    return Inner(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def inner_step(
    optimizer: optax.GradientTransformationExtraArgs, task: Task, inner: Inner, key
) -> tuple[Inner, Float[Array, ""]]:
    """One step on one batch; the loss returned is that before the step."""
    value, grads = jax.value_and_grad(task.loss)(inner.params, task.batch(key))
    updates, opt_state = optimizer.update(grads, inner.opt_state, inner.params, value=value)
    params = optax.apply_updates(inner.params, updates)
    return Inner(params, opt_state, inner.step + 1), value


def watched_step(
    optimizer: optax.GradientTransformationExtraArgs, task: Task, inner: Inner, key
) -> tuple[Inner, Float[Array, ""]]:
    """One step, and its term of the meta-loss: see `Task.meta_batch`."""
    inner, value = inner_step(optimizer, task, inner, key)
    if task.meta_batch is None:
        return inner, value
    # 2**17 is far from the small numbers that a batch may fold in.
    batch = task.meta_batch(jax.random.fold_in(key, 2**17))
    return inner, task.loss(eval_params(inner.opt_state, inner.params), batch)


def run(
    optimizer: Optimizer,
    task: Task,
    key: Key[Array, ""],
    num_steps: int,
    *,
    test_every: int = 0,
) -> tuple[PyTree, Float[Array, "T"], Float[Array, "E"]]:
    """Trains a task with any optimizer, learned or not.

    Args:
      optimizer: any; it gets `value=loss`.
      task: what is optimized.
      key: for initial parameters and batches, which are the same for all optimizers.
      num_steps: T.
      test_every: steps between tests, the last of which comes after the last step; 0 tests never.

    Returns:
      The parameters to evaluate (`ico.optim.eval_params`), training losses before each step [T],
      and test losses [T // test_every].

    Raises:
      ValueError: `test_every` without a test, or one that does not divide `num_steps`.
    """
    optimizer = with_loss(optimizer)
    if test_every and (task.test is None or num_steps % test_every):
        raise ValueError(
            f"test_every = {test_every} needs a task with a test and must divide "
            f"num_steps = {num_steps}"
        )
    keys = jax.random.split(key)

    def step(inner, t):
        return inner_step(optimizer, task, inner, jax.random.fold_in(keys[1], t))

    inner, times = begin(optimizer, task, keys[0]), jnp.arange(num_steps)
    if not test_every:
        inner, losses = jax.lax.scan(step, inner, times)
        return eval_params(inner.opt_state, inner.params), losses, jnp.zeros(0)

    def until_test(inner, ts):
        inner, losses = jax.lax.scan(step, inner, ts)
        assert task.test is not None
        return inner, (losses, task.test(eval_params(inner.opt_state, inner.params)))

    inner, (losses, tests) = jax.lax.scan(until_test, inner, times.reshape(-1, test_every))
    return eval_params(inner.opt_state, inner.params), losses.reshape(-1), tests
