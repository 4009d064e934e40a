"""The sufficient statistics of a prompt for linear regression.

Dimension key: B tasks, N context pairs, D inputs.
"""

import jax.numpy as jnp

from ico.algorithms._checks import check_prompt
from ico.types import Prompt, Statistics, working_dtype


def statistics(prompt: Prompt) -> Statistics:
    """`sum x x^T`, `sum y x` and `sum y^2` over the N pairs of the context.

    Raises:
      ValueError: mismatched shapes, or more than one output.
    """
    check_prompt(prompt)
    dtype = working_dtype(*prompt)
    x, y = prompt.x.astype(dtype), prompt.y.astype(dtype)
    if y.shape[-1] != 1:
        raise ValueError(
            f"statistics are of prompts with one output, but prompt.y has {y.shape[-1]}"
        )
    return Statistics(
        jnp.einsum("bnd,bne->bde", x, x),
        jnp.einsum("bnd,bn->bd", x, y[..., 0]),
        jnp.sum(y[..., 0] ** 2, axis=1),
    )
