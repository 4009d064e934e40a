"""Tuning a learner's parameters by grid search."""

import jax
import jax.numpy as jnp
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
