"""The loss around a point: along lines and paths, its curvature, and the one-dimensional theory.

Source: Sandler et al. 2023 (2301.02312); its theory in one dimension is derived here (the paper's
body was not consulted: UNVERIFIED that it is the paper's form).

Parameters are any tree; a loss is a function of parameters alone, so that its batch is fixed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

PyTree = Any
Loss = Callable[[PyTree], Float[Array, ""]]


class PolynomialFit(NamedTuple):
    """A polynomial by least squares.

    Fields:
      coefficients: the constant first.
      r2: share of the variance that it explains; 1 where there is none.
    """

    coefficients: Float[np.ndarray, "terms"]
    r2: float

    @property
    def curvature(self) -> float:
        """The second derivative at zero."""
        return float(2 * self.coefficients[2])

    @property
    def minimum(self) -> float:
        """Where a parabola is least; NaN if it opens downwards."""
        _, slope, half = self.coefficients[:3]
        return float(-slope / (2 * half)) if half > 0 else float("nan")


def along(
    loss: Loss, params: PyTree, direction: PyTree, distances: Num[Any, "P"]
) -> Float[Array, "P"]:
    """The loss at `params + distance direction`, for every distance."""

    def at(distance):
        moved = jax.tree.map(lambda p, d: p + distance.astype(p.dtype) * d, params, direction)
        return loss(moved)

    return jax.lax.map(at, jnp.asarray(distances, jnp.float32))


def polynomial_fit(x: Num[Any, "P"], y: Num[Any, "P"], degree: int = 2) -> PolynomialFit:
    """A polynomial of `x`, by least squares in float64.

    Raises:
      ValueError: fewer than degree + 2 points (fewer have no residual), or numbers not finite.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < degree + 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"want at least {degree + 2} points, all finite")
    scale = np.abs(x).max() or 1.0
    found = np.polynomial.polynomial.polyfit(x / scale, y, degree)
    residual = y - np.polynomial.polynomial.polyval(x / scale, found)
    total = np.sum((y - y.mean()) ** 2)
    r2 = 1.0 if total == 0 else 1 - np.sum(residual**2) / total
    return PolynomialFit(found / scale ** np.arange(degree + 1), float(r2))


def hessian_product(loss: Loss, params: PyTree, vector: PyTree) -> PyTree:
    """The Hessian of the loss times a tree like the parameters, by forward over reverse mode."""
    return jax.jvp(jax.grad(loss), (params,), (vector,))[1]


class Spectrum(NamedTuple):
    """What k steps of Lanczos know of a symmetric matrix.

    Fields:
      values: Ritz values, ascending: the extreme ones are near eigenvalues.
      weights: of each in the spectral density of the start vector; they sum to one.
    """

    values: Float[Array, "k"]
    weights: Float[Array, "k"]


def lanczos(
    product: Callable[[Float[Array, "D"]], Float[Array, "D"]],
    start: Float[Array, "D"],
    steps: int,
) -> Spectrum:
    """Lanczos with full reorthogonalisation (twice): k products, and k D numbers of memory.

    Args:
      product: of a symmetric matrix and a vector.
      start: any vector but zero; random for a spectral density.
      steps: k, at most D. A Krylov space that ends earlier gives Ritz values of weight zero.

    Raises:
      ValueError: steps out of range.
    """
    if not 1 <= steps <= start.size:
        raise ValueError(f"steps must be between 1 and {start.size}, not {steps}")
    first = start / jnp.linalg.norm(start)
    basis = jnp.zeros((steps, start.size), start.dtype).at[0].set(first)

    def step(carry, i):
        basis, _ = carry
        product_i = product(basis[i])
        diagonal = basis[i] @ product_i
        rest = product_i
        for _ in range(2):
            rest = rest - (basis @ rest) @ basis
        beside = jnp.linalg.norm(rest)
        size = jnp.linalg.norm(product_i)
        ended = beside <= 10 * jnp.finfo(start.dtype).eps * size
        beside = jnp.where(ended, 0, beside)
        new = jnp.where(ended, jnp.zeros_like(rest), rest / jnp.where(ended, 1, beside))
        return (basis.at[i + 1].set(new, mode="drop"), beside), (diagonal, beside)

    zero = jnp.zeros((), start.dtype)
    _, (diagonal, beside) = jax.lax.scan(step, (basis, zero), jnp.arange(steps))
    matrix = jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1)
    values, vectors = jnp.linalg.eigh(matrix)
    return Spectrum(values, vectors[0] ** 2)


def hessian_spectrum(loss: Loss, params: PyTree, key: Array, steps: int = 30) -> Spectrum:
    """Ritz values of the loss's Hessian from a random start: its ends, and a density of it."""
    flat, unravel = ravel_pytree(params)
    start = jax.random.normal(key, flat.shape, flat.dtype)

    def product(vector):
        return ravel_pytree(hessian_product(loss, params, unravel(vector)))[0]

    return lanczos(product, start, min(steps, flat.size))


def gradient_cosine(first: PyTree, second: PyTree) -> Float[Array, ""]:
    """The cosine of two trees as vectors; zero where one is zero."""
    a, b = ravel_pytree(first)[0], ravel_pytree(second)[0]
    lengths = jnp.linalg.norm(a) * jnp.linalg.norm(b)
    return jnp.where(lengths == 0, 0, a @ b / jnp.where(lengths == 0, 1, lengths))


class Travelled(NamedTuple):
    """How far iterates went, up to each of them.

    Fields:
      path: along the way, the sum of the distances between neighbours.
      straight: from the first.
    """

    path: Float[Array, "n"]
    straight: Float[Array, "n"]


def distance_travelled(iterates: Num[Any, "n D"]) -> Travelled:
    """Along the way and straight, of flat iterates such as `ico.train.Trajectory.params` gives.

    A random walk of equal steps has a straight distance that grows as the root of the path's; one
    that circles a minimum goes on travelling and gets no further.
    """
    iterates = jnp.asarray(iterates)
    steps = jnp.linalg.norm(jnp.diff(iterates, axis=0), axis=1)
    path = jnp.concatenate([jnp.zeros(1, steps.dtype), jnp.cumsum(steps)])
    return Travelled(path, jnp.linalg.norm(iterates - iterates[:1], axis=1))


def stationary_variance(rate: ArrayLike, curvature: float, noise: float = 1.0) -> Any:
    """The variance of `w <- w - rate a (w - m_t)` in the long run, the m_t of variance `noise`.

    `rate a noise / (2 - rate a)`; infinite where `rate a >= 2`.
    """
    moved = np.asarray(rate, float) * curvature
    return np.where(moved < 2, moved * noise / np.where(moved < 2, 2 - moved, 1), np.inf)


class StepEffect(NamedTuple):
    """What one step changes, in units of the loss (negative: better).

    Fields:
      batch: in the loss of the batch whose gradient it takes.
      full: in the loss of all batches.
    """

    batch: Any
    full: Any


def predicted_step(
    rate: ArrayLike,
    gradient_square: ArrayLike,
    batch_curvature: ArrayLike,
    full_slope: ArrayLike,
    full_curvature: ArrayLike,
) -> StepEffect:
    """The parabolas of batch and full loss along the batch's gradient g, at `w - rate g`.

    Batch: `-rate g'g + rate^2 g'H_b g / 2`; full: `-rate g'G + rate^2 g'H g / 2`.

    Args:
      rate: of the step.
      gradient_square: g'g.
      batch_curvature: g'H_b g, of the batch's Hessian.
      full_slope: g'G, G the full gradient.
      full_curvature: g'H g.
    """
    numbers = rate, gradient_square, batch_curvature, full_slope, full_curvature
    rate, square, curved, slope, full_curved = (np.asarray(n, float) for n in numbers)
    batch = -rate * square + rate**2 * curved / 2
    return StepEffect(batch, -rate * slope + rate**2 * full_curved / 2)
