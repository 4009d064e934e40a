"""The loss all in-context regression is measured by."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def half_squared_error(
    prediction: Float[Array, "*S B Q K"], y_query: Float[Array, "B Q K"]
) -> Float[Array, "*S B"]:
    """Half the squared error of each task: `1/2 |y_hat - y|^2`, summed over outputs K, mean over Q.

    The half is the authors' code's (2212.07677; its Eq. 5 leaves it out, its figures do not). A
    leading axis of the predictions, one a step or layer, is kept.
    """
    error = prediction - jnp.broadcast_to(y_query, prediction.shape)
    return 0.5 * jnp.mean(jnp.sum(error**2, axis=-1), axis=-1)
