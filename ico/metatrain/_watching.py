"""What a training does along the way: its batches, its optimizer's state, its time.

Dimension key: T steps.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from ico.metatrain._racing import Build, schedule
from ico.metatrain._tasks import Task, begin, inner_step, run
from ico.optim import with_loss

PyTree = Any


def batches_of(task: Task, key: Key[Array, ""], num_steps: int) -> PyTree:
    """The batches that `run` draws with this key, on a leading axis [T]."""
    draws = jax.random.split(key)[1]
    return jax.vmap(lambda t: task.batch(jax.random.fold_in(draws, t)))(jnp.arange(num_steps))


def watch(
    optimizer: optax.GradientTransformationExtraArgs,
    task: Task,
    keys: tuple[Key[Array, ""], Key[Array, ""]],
    num_steps: int,
    names: Sequence[str],
) -> tuple[Array, ...]:
    """Values of an optimizer's state after every step of a training.

    Args:
      optimizer: any whose state has them.
      task: what is optimized.
      keys: for initial parameters, and for batches.
      num_steps: T.
      names: of the values, as `optax.tree.get` finds them.

    Returns:
      An array [T, ...] a name.
    """

    def step(inner, t):
        inner, _ = inner_step(optimizer, task, inner, jax.random.fold_in(keys[1], t))
        return inner, tuple(optax.tree.get(inner.opt_state, name) for name in names)

    return jax.lax.scan(step, begin(optimizer, task, keys[0]), jnp.arange(num_steps))[1]


def stopwatch(
    build: Build, task: Task, rate: float, num_steps: int
) -> Callable[[Sequence[Key[Array, ""]], PyTree], float]:
    """A function that times a training, compiled once for all theta.

    Args:
      build: (schedule, horizon, theta) -> optimizer.
      task: what is optimized.
      rate: peak learning rate of a cosine.
      num_steps: T.

    Returns:
      (keys, theta) -> seconds a step: the median over one training a key, the first left out.
    """
    falling = schedule(1, rate, num_steps)

    @jax.jit
    def one_run(key, theta):
        optimizer = with_loss(build(falling, num_steps, theta))
        return run(optimizer, task, key, num_steps)[1]

    def seconds_a_step(keys, theta=None):
        found = []
        for key in keys:
            started = time.perf_counter()
            jax.block_until_ready(one_run(key, theta))
            found.append((time.perf_counter() - started) / num_steps)
        return float(np.median(found[1:]))

    return seconds_a_step
