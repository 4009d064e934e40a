"""Linear regression whose noise level differs from task to task (2402.14180).

Dimension key: B tasks, N context pairs, Q queries, D inputs, K intervals of a prior.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ico.tasks._random import normal, uniform
from ico.types import Episode, Prompt, Statistics

# A prior on sigma: U(0, noise), equally likely values, or the quantile function of any other.
Noise = float | tuple[float, ...] | Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class NoisyRegression:
    """`y = <w, x> + sigma e`; x, w, e standard normal, sigma drawn anew for each task.

    Fields:
      batch_size, num_inputs, num_context, num_queries: B, D, N, Q.
      noise: the prior of sigma, a **standard deviation**. A number a: U(0, a) (0: no noise). A
        tuple: its values, equally likely. A function: the quantile function of any other prior,
        elementwise from [0, 1) to sigma; `lambda u: -jnp.log1p(-u)` is an exponential.

    Raises:
      ValueError: a size below one, a noise that is negative, not finite or an empty tuple.
    """

    batch_size: int = 2048
    num_inputs: int = 10
    num_context: int = 20
    num_queries: int = 1
    noise: Noise = 5.0

    def __post_init__(self):
        for name in ("batch_size", "num_inputs", "num_context", "num_queries"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be at least 1, a whole number, not {value}")
        if callable(self.noise):
            quantiles = jnp.asarray(self.noise(jnp.linspace(0, 0.999, 33)))
            if quantiles.shape != (33,) or not bool(jnp.all(quantiles >= 0)):
                raise ValueError(
                    "noise as a function maps u [B] to standard deviations [B], none negative"
                )
            return
        if not isinstance(self.noise, (int, float, tuple, np.floating)):
            raise ValueError(
                "noise is a number, a tuple of values (convert a list or an array to a tuple) or a "
                f"quantile function, not {self.noise!r}"
            )
        values = self.noise if isinstance(self.noise, tuple) else (self.noise,)
        if not values:
            raise ValueError("noise must name at least one standard deviation")
        if not all(math.isfinite(value) and value >= 0 for value in values):
            raise ValueError(f"noise is a standard deviation, at least 0, not {self.noise}")

    def sigma(self, u: Float[Array, "B"]) -> Float[Array, "B"]:
        """The quantile function of the prior, at u in [0, 1)."""
        if callable(self.noise):
            return self.noise(u)
        if isinstance(self.noise, tuple):
            values = jnp.asarray(self.noise, u.dtype)
            return values[jnp.floor(u * len(self.noise)).astype(int)]
        return self.noise * u


class NoisePrior(NamedTuple):
    """A prior of sigma as arrays: K equally likely intervals, uniform in each.

    A uniform prior is one interval cut into K; a value is an interval of no length. So priors of
    both kinds have equal shapes, and `jax.vmap` trains models for all of them side by side.
    """

    low: Float[Array | np.ndarray, "K"]
    high: Float[Array | np.ndarray, "K"]

    @classmethod
    def of(cls, noise: float | tuple[float, ...], intervals: int = 6) -> "NoisePrior":
        """The prior of `NoisyRegression.noise`: a number (uniform up to it), or a tuple of values.

        Raises:
          ValueError: the number of values does not divide `intervals`, K.
        """
        if not isinstance(noise, tuple):
            edges = np.linspace(0, noise, intervals + 1, dtype=np.float32)
            return cls(edges[:-1], edges[1:])
        if not noise or intervals % len(noise):
            raise ValueError(f"{len(noise)} values do not divide {intervals} intervals evenly")
        values = np.repeat(np.array(noise, np.float32), intervals // len(noise))
        return cls(values, values)

    def sigma(self, u: Float[Array, "B"]) -> Float[Array, "B"]:
        """The quantile function, at u in [0, 1)."""
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        place = u * low.shape[0]
        which = jnp.floor(place).astype(int)
        return low[which] + (high[which] - low[which]) * (place - which)


class NoisyEpisode(NamedTuple):
    """An `Episode` with its noise level and weights. y_query is without noise."""

    prompt: Prompt
    y_query: Float[Array, "B Q 1"]
    sigma: Float[Array, "B"]
    weights: Float[Array, "B D"]


class NoisyContext(NamedTuple):
    """The parts of a context's statistics that do not depend on the noise level.

    `u` is uniform on [0, 1): `NoisyRegression.sigma(u)` draws the noise level.
    """

    xx: Float[Array, "B D D"] | Float[Array, "B D"]  # sum of x x^T, or its diagonal
    xe: Float[Array, "B D"]  # sum of e x
    ee: Float[Array, "B"]  # sum of e^2
    weights: Float[Array, "B D"]
    u: Float[Array, "B"]

    def at(self, sigma: Float[Array, "B"]) -> Statistics:
        """The statistics if the noise has standard deviation sigma."""
        if self.xx.ndim == 2:
            clean = self.xx * self.weights
        else:
            clean = jnp.einsum("bde,be->bd", self.xx, self.weights)
        cross = jnp.sum(self.weights * self.xe, axis=1)
        xy = clean + sigma[:, None] * self.xe
        yy = jnp.sum(self.weights * clean, axis=1) + 2 * sigma * cross + sigma**2 * self.ee
        return Statistics(self.xx, xy, yy)

    def scaled(self, inputs: Float[Array, "D"], weights: float = 1.0) -> "NoisyContext":
        """The contexts with every input and all weights multiplied, the noise as it was."""
        return self._replace(
            xx=self.xx * (inputs[:, None] * inputs[None])[None],
            xe=self.xe * inputs[None],
            weights=weights * self.weights,
        )


def noisy_regression(
    key: Key[Array, ""], config: NoisyRegression = NoisyRegression()
) -> NoisyEpisode:
    """A batch of tasks: prompt.x [B, N, D], prompt.y [B, N, 1] noisy, y_query [B, Q, 1] clean."""
    c = config
    x_key, w_key, e_key, u_key = jax.random.split(key, 4)
    x = normal(x_key, (c.batch_size, c.num_context + c.num_queries, c.num_inputs))
    weights = normal(w_key, (c.batch_size, c.num_inputs))
    sigma = c.sigma(uniform(u_key, (c.batch_size,)))
    y = jnp.einsum("bnd,bd->bn", x, weights)[..., None]
    N = c.num_context
    noise = sigma[:, None, None] * normal(e_key, (c.batch_size, N, 1))
    return NoisyEpisode(Prompt(x[:, :N], y[:, :N] + noise, x[:, N:]), y[:, N:], sigma, weights)


def noisy_context(key: Key[Array, ""], config: NoisyRegression = NoisyRegression()) -> NoisyContext:
    """Statistics of the contexts of `noisy_regression`, sampled directly instead of the contexts.

    The distribution is exactly the same: sum x x^T is Wishart, so it is A A^T with A lower
    triangular, standard normal below a diagonal of chi variables (Bartlett's decomposition); given
    A, sum e x = A z with z standard normal, and sum e^2 = |z|^2 + a chi-squared variable with N - D
    degrees of freedom. For 20 pairs of 10 inputs this takes two thirds of the random numbers. With
    fewer pairs than inputs the contexts themselves are drawn.
    """
    c = config
    B, D, N = c.batch_size, c.num_inputs, c.num_context
    if N < D:
        task_key, e_key, u_key = jax.random.split(key, 3)
        episode = noisy_regression(task_key, dataclasses.replace(c, noise=1.0, num_queries=1))
        x, e_BN = episode.prompt.x, normal(e_key, (B, N))
        xx, xe = jnp.einsum("bnd,bne->bde", x, x), jnp.einsum("bnd,bn->bd", x, e_BN)
        ee, u = jnp.sum(e_BN**2, axis=1), uniform(u_key, (B,))
        return NoisyContext(xx, xe, ee, episode.weights, u)
    normal_key, uniform_key = jax.random.split(key)
    below = D * (D - 1) // 2
    degrees = [N - i for i in range(D)] + [N - D]
    # The batch is the last axis until the end, so that operations vectorise over it.
    normals = normal(normal_key, (2 * D + below + sum(k % 2 for k in degrees), B))
    weights, z, lower, odd = jnp.split(normals, np.cumsum([D, D, below]))
    uniforms = uniform(uniform_key, (1 + sum(k // 2 for k in degrees), B))
    chi2 = _chi_squares(uniforms[1:], odd, degrees)
    a_DDB = _lower_triangular(lower, jnp.sqrt(chi2[:D]))
    # Sums over rows instead of a matrix product: XLA multiplies small matrices one by one.
    xx = sum(a_DDB[:, k, None] * a_DDB[None, :, k] for k in range(D))
    xe = sum(a_DDB[:, k] * z[k][None] for k in range(D))
    ee = jnp.sum(z**2, axis=0) + chi2[D]
    parts = xx, xe, ee, weights, uniforms[0]
    return NoisyContext(*(jnp.moveaxis(part, -1, 0) for part in parts))


def _lower_triangular(below, diagonal_DB):
    """[D, D, B] with zeros above the diagonal; `below` is row by row, [D (D - 1) / 2, B]."""
    D, B = diagonal_DB.shape
    rows = []
    for i in range(D):
        left = below[i * (i - 1) // 2 : i * (i + 1) // 2]
        right = jnp.zeros((D - 1 - i, B), below.dtype)
        rows.append(jnp.concatenate([left, diagonal_DB[i : i + 1], right]))
    return jnp.stack(rows)


def with_label_noise(
    key: Key[Array, ""], episode: Episode, sigma: Float[Array, ""] | float
) -> Episode:
    """The episode with normal noise of standard deviation sigma on the labels of the context."""
    x, y, x_query = episode.prompt
    return episode._replace(prompt=Prompt(x, y + sigma * jax.random.normal(key, y.shape), x_query))


def wishart_spectra(
    key: Key[Array, ""], config: NoisyRegression, count: int
) -> Float[np.ndarray, "count D"]:
    """Eigenvalues of sum x x^T of `count` contexts, by LAPACK; the pool of `spectral_context`."""
    contexts = jax.jit(noisy_context, static_argnums=1)(
        key, dataclasses.replace(config, batch_size=count)
    )
    return np.linalg.eigvalsh(np.asarray(contexts.xx)).clip(min=0)


def spectral_context(
    key: Key[Array, ""],
    spectra: Float[Array | np.ndarray, "count D"],
    config: NoisyRegression = NoisyRegression(),
) -> NoisyContext:
    """`noisy_context` in the eigenbasis of each context, with a spectrum from a given pool.

    Rotating the inputs changes neither the distribution of weights and noise nor the predictions of
    a learner without a preferred basis. The losses of such a learner are distributed as on
    `noisy_context`, except that the pool of spectra is finite. This takes a fifth of the random
    numbers, and products with sum x x^T are elementwise. Not for models with free matrices.

    Args:
      key: determines the tasks.
      spectra: the pool, from `wishart_spectra`.
      config: with at least as many pairs as inputs.

    Raises:
      ValueError: fewer pairs than inputs.
    """
    c = config
    B, D, N = c.batch_size, c.num_inputs, c.num_context
    if N < D:
        raise ValueError(f"a spectral context needs as many pairs as inputs, not {N} of {D}")
    normal_key, uniform_key = jax.random.split(key)
    rest = N - D
    normals = normal(normal_key, (2 * D + rest % 2, B))
    uniforms = uniform(uniform_key, (2 + rest // 2, B))
    which = jnp.minimum(jnp.floor(uniforms[1] * len(spectra)).astype(int), len(spectra) - 1)
    f_BD = jnp.asarray(spectra)[which]
    z_DB = normals[D : 2 * D]
    ee = jnp.sum(z_DB**2, axis=0) + _chi_squares(uniforms[2:], normals[2 * D :], [rest])[0]
    xe = jnp.sqrt(f_BD) * z_DB.T
    return NoisyContext(f_BD, xe, ee, normals[:D].T, uniforms[0])


def _chi_squares(uniforms, odd, degrees):
    """Chi-squared variables [len(degrees), B]; of an even degree 2m as -2 sum_m log U.

    An odd degree adds one squared standard normal. Uniforms and normals are used in the order of
    the degrees.
    """
    # 1 - U lies in (0, 1].
    logs, squares = -2 * jnp.log1p(-uniforms), list(odd**2)
    ends = np.cumsum([k // 2 for k in degrees])
    sums = [jnp.sum(logs[end - k // 2 : end], axis=0) for k, end in zip(degrees, ends, strict=True)]
    pairs = zip(degrees, sums, strict=True)
    return jnp.stack([even + squares.pop(0) if k % 2 else even for k, even in pairs])
