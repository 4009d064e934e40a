"""Prompts as sums over their pairs.

Dimension key: B tasks, N context pairs, D inputs.
"""

import jax.numpy as jnp

from ico.types import Prompt, Statistics


def statistics(prompt: Prompt) -> Statistics:
    """`sum x x^T`, `sum y x`, `sum y^2` over the context.

    Raises:
      ValueError: more than one output.
    """
    x, y = prompt.x, prompt.y
    if y.shape[-1] != 1:
        raise ValueError(f"statistics are of one output, not {y.shape[-1]}")
    return Statistics(
        jnp.einsum("bnd,bne->bde", x, x),
        jnp.einsum("bnd,bn->bd", x, y[..., 0]),
        jnp.sum(y[..., 0] ** 2, axis=1),
    )
