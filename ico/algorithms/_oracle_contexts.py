"""Contexts at a noise level beside the best predictor there is, and the loss relative to it.

Source: 2402.14180, section 3 (the "adjusted loss").

Dimension key: B tasks, Q queries, D inputs, L layers, G candidates.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ico.algorithms._adaptive_ridge import ridge_weights
from ico.algorithms._statistics import statistics
from ico.tasks import (
    NoisePrior,
    NoisyContext,
    NoisyRegression,
    half_squared_error,
    noisy_context,
    spectral_context,
)
from ico.types import Episode, Statistics


class OracleContexts(NamedTuple):
    """Contexts at their noise, the weights of the oracle on them, and the true weights."""

    statistics: Statistics
    oracle: Float[Array, "B D"]
    truth: Float[Array, "B D"]


@jax.jit
def with_oracle(contexts: NoisyContext, prior: NoisePrior) -> OracleContexts:
    """The contexts at sigma drawn from a prior. The oracle is ridge regression that knows sigma."""
    sigma = prior.sigma(contexts.u)
    found = contexts.at(sigma)
    return OracleContexts(found, ridge_weights(found, sigma**2), contexts.weights)


def sample_contexts(
    key: Key[Array, ""], prior: NoisePrior, *, task: NoisyRegression
) -> OracleContexts:
    """A batch of contexts at a prior's noise."""
    return with_oracle(noisy_context(key, task), prior)


def sample_spectral_contexts(
    key: Key[Array, ""],
    spectra: Float[Array, "count D"],
    prior: NoisePrior,
    *,
    task: NoisyRegression,
) -> OracleContexts:
    """A batch in the eigenvectors of each context: see `ico.tasks.spectral_context`."""
    return with_oracle(spectral_context(key, spectra, task), prior)


def excess(w: Float[Array, "*L B D"], oracle: Float[Array, "*L B D"]) -> Float[Array, "*L B"]:
    """The expected excess loss over the oracle at a query x ~ N(0, I): `1/2 |w - w_oracle|^2`."""
    return 0.5 * jnp.sum((w - oracle) ** 2, axis=-1)


def linear_losses(w: Float[Array, "B D"], episode: Episode) -> Float[Array, "B"]:
    """Half the squared error of a linear model of each task, `<w, x_query>`."""
    prediction = jnp.einsum("bqd,bd->bq", episode.prompt.x_query, w)[..., None]
    return half_squared_error(prediction, episode.y_query)


def best_noise_variance(episode: Episode, grid: Float[Array, "G"]) -> Float[Array, ""]:
    """The one noise variance of a grid with which ridge regression does best on these tasks."""
    found = statistics(episode.prompt)
    losses = jax.lax.map(lambda s: jnp.mean(linear_losses(ridge_weights(found, s), episode)), grid)
    return grid[jnp.argmin(losses)]
