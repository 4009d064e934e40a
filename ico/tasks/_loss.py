"""The loss of in-context regression."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def half_squared_error(
    prediction: Float[Array, "*S B Q K"], y_query: Float[Array, "B Q K"]
) -> Float[Array, "*S B"]:
    """Half the squared error of each task: `1/2 |y_hat - y|^2`, summed over outputs, mean over Q.

    The factor 1/2 is in the authors' code (2212.07677; missing from Eq. 5 but not from the
    figures). A leading axis of the predictions, one entry per step or layer, is kept.
    """
    error = prediction - jnp.broadcast_to(y_query, prediction.shape)
    return 0.5 * jnp.mean(jnp.sum(error**2, axis=-1), axis=-1)
