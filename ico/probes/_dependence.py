"""How much what a layer puts out at one token depends on the others, by gradients.

Dimension key: B tasks, T tokens, E token width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def token_dependence(
    layer: Callable[[Float[Array, "B T E"]], Float[Array, "B T E"]], tokens: Float[Array, "B T E"]
) -> Float[Array, "T T"]:
    """Norm of the mean over tasks of `d sum(layer(tokens)_j) / d token_i`, at row j, column i.

    A layer that copies the next token has large entries beside the diagonal (2212.07677, Fig. 5).

    Args:
      layer: must not mix tasks.
      tokens: where the gradient is taken.
    """

    def total(tokens, position):
        return jnp.sum(layer(tokens)[:, position])

    positions = jnp.arange(tokens.shape[1])
    gradient_TBTE = jax.vmap(jax.grad(total), (None, 0))(tokens, positions)
    return jnp.linalg.norm(gradient_TBTE.mean(1), axis=-1)
