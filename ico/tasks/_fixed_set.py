"""A finite set of training tasks instead of a stream of fresh ones."""

import jax
import jax.numpy as jnp

from ico.types import Episode, Sampler


def fixed_task_set(episodes: Episode, batch_size: int) -> Sampler:
    """A sampler that draws batches, with replacement, from a fixed set of B tasks.

    If the batch is as large as the set, every batch is the whole set (full-batch training;
    2212.07677, Figs. 15, 16).

    Args:
      episodes: the set; every leaf [B, ...].
      batch_size: number of tasks in a batch.
    """
    size = jax.tree.leaves(episodes)[0].shape[0]

    def sample(key):
        if batch_size == size:
            return episodes
        index = jax.random.randint(key, (batch_size,), 0, size)
        return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), episodes)

    return sample
