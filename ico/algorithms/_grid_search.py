"""Tuning a learner's parameters by grid search."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ico.tasks import half_squared_error
from ico.types import Learner, PyTree, Sampler


def grid_search(
    apply: Learner, candidates: PyTree, sampler: Sampler, key: Key[Array, ""]
) -> tuple[PyTree, Float[Array, "G"]]:
    """The candidate parameters with the smallest mean loss on the tasks `sampler(key)`.

    Use another key for evaluation: parameters must not be judged on the tasks they were chosen on.

    Args:
      apply: a learner; if it returns [S, B, Q, K], its last step counts.
      candidates: parameters; every leaf has a leading axis G, one entry per candidate.
      sampler: key -> Episode.
      key: determines the tasks.

    Returns:
      The best parameters, without the leading axis, and the loss of every candidate [G]; inf where
      it is not finite.

    Raises:
      ValueError: no candidate has a finite loss.
    """

    @jax.jit
    def losses(candidates, key):
        episode = sampler(key)

        def one(params):
            prediction = apply(params, episode.prompt)
            per_task = half_squared_error(prediction, episode.y_query)
            return jnp.mean(per_task, axis=-1).reshape(-1)[-1]

        return jax.lax.map(one, candidates)

    losses_G = losses(candidates, key)
    losses_G = jnp.where(jnp.isfinite(losses_G), losses_G, jnp.inf)
    best = int(jnp.argmin(losses_G))
    if not jnp.isfinite(losses_G[best]):
        raise ValueError("no candidate has a finite loss: search smaller rates")
    return jax.tree.map(lambda leaf: leaf[best], candidates), losses_G


def refined_search(
    loss: Callable[..., float], ranges: list[tuple[float, float]], count: int, rounds: int = 4
) -> tuple[tuple[float, ...], float]:
    """The least loss on a logarithmic grid that each round refines around its best point.

    Args:
      loss: of one number a range.
      ranges: of each number, (lowest, highest), positive; best points at an end go beyond it.
      count: grid points of each number, at least 2.
      rounds: of refinement.

    Returns:
      The best numbers, empty where no loss is finite, and their loss.
    """
    best, least = (), np.inf
    for _ in range(rounds):
        axes = [np.geomspace(low, high, count) for low, high in ranges]
        for point in np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)):
            if (value := loss(*point)) < least:
                best, least = tuple(float(x) for x in point), value
        if not best:
            break
        steps = [axis[1] / axis[0] for axis in axes]
        ranges = [(x / step, x * step) for x, step in zip(best, steps, strict=True)]
    return best, float(least)
