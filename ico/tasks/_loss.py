"""The losses that in-context regression and tokens are measured by."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ico.types import working_dtype


def half_squared_error(
    prediction: Float[Array, "*S B Q K"], y_query: Float[Array, "B Q K"]
) -> Float[Array, "*S B"]:
    """Half the squared error of each task: `1/2 |y_hat - y|^2`, summed over outputs, mean over Q.

    The factor 1/2 is in the authors' code (2212.07677; missing from Eq. 5 but not from the
    figures). A leading axis of the predictions, one entry per step or layer, is kept. Computed in
    float32 or better, whatever the predictions are.
    """
    dtype = working_dtype(prediction, y_query)
    error = prediction.astype(dtype) - jnp.broadcast_to(y_query, prediction.shape)
    return 0.5 * jnp.mean(jnp.sum(error**2, axis=-1), axis=-1)


def token_losses(logits: Float[Array, "B T V"], targets: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """Negative log-likelihood of each target token, `-log softmax(logits)[target]`, in nats.

    Computed in float32 or better, whatever the logits are.
    """
    log_p = jax.nn.log_softmax(logits.astype(working_dtype(logits)))
    return -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
