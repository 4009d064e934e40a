"""One bad gradient must not spoil an optimizer's state for good.

The square of a float32 above 1.8e19 overflows, and an infinity or NaN stays in every running mean.

Dimension key: G groups of parameters, P base optimizers, L arrays.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ico.optim._by_group import Groups, inner, is_large

PyTree = Any
_MOST = 2.0**90  # an array's sum of squares: those of momenta, ten times as large, fit too
_SCALE = 2.0**-80  # makes the squares of 2^30 of the largest float32s fit


class SafeGradient(NamedTuple):
    """A gradient that can be squared.

    Fields:
      gradient: the gradient times `scale`, or zero if it is not finite.
      scale: one, or 2^-80 where sums of squares would be close to overflow.
      is_finite: whether the gradient is finite. If not, the step should be skipped.
    """

    gradient: PyTree
    scale: Float[Array, ""]
    is_finite: Bool[Array, ""]


def safe_gradient(gradient: PyTree) -> SafeGradient:
    """Scales a gradient by 2^-80 if its squares might overflow, else leaves it as it is.

    Its direction is kept. Its length is not that of the largest that would fit, for momenta and
    second moments would then hold nothing else for thousands of steps.

    Args:
      gradient: a tree of arrays, float32 or better.
    """
    leaves = jax.lax.stop_gradient(jax.tree.leaves(gradient))
    if not leaves:
        return SafeGradient(gradient, jnp.ones(()), jnp.array(True))
    is_small = jnp.all(_squares(leaves) < _MOST)
    scale = jnp.where(is_small, 1, _SCALE)
    if any(map(is_large, leaves)):
        is_finite = jax.lax.cond(
            is_small, lambda: jnp.array(True), lambda: _is_finite(_rescaled(leaves, scale))
        )
    else:
        is_finite = _is_finite(_rescaled(leaves, scale))
    safe = jax.tree.map(lambda leaf: jnp.where(is_finite, leaf, 0), _rescaled(gradient, scale))
    return SafeGradient(safe, scale, is_finite)


def _rescaled(gradient: PyTree, scale: Float[Array, ""]) -> PyTree:
    """The gradient times a scale, in its type."""
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), gradient)


def _squares(leaves) -> Float[Array, "L"]:
    return jnp.stack([inner(leaf, leaf) for leaf in leaves])


def _is_finite(leaves) -> Bool[Array, ""]:
    return jnp.all(jnp.isfinite(_squares(leaves)))


def keep_if(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """The new tree, or the old one where the condition is false."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def mean_products(
    groups: Groups, gradient: PyTree, safe: SafeGradient, directions: Sequence[PyTree]
) -> tuple[Float[Array, "G"], Float[Array, "G P P"]]:
    """Mean squares of the scaled gradient [G], and mean products of directions [G, P, P].

    Dots of large arrays need them in memory, where the gradient is but the scaled one is not. So
    they are taken of the gradient, and again of the scaled one only if the two differ.
    """

    def products(gradient):
        trees = [gradient if tree is safe.gradient else tree for tree in directions]
        return groups.mean_squares(gradient), groups.grams(trees)

    scaled = _rescaled(gradient, safe.scale)
    found = products(jax.tree.map(lambda a, b: a if is_large(a) else b, gradient, scaled))
    if any(map(is_large, jax.tree.leaves(gradient))):
        # Scaled again in the branch, for what a branch is given is stored even if it is not taken.
        found = jax.lax.cond(
            safe.scale == 1, lambda: found, lambda: products(_rescaled(gradient, safe.scale))
        )
    return jax.tree.map(lambda a: jnp.where(safe.is_finite, a, 0), found)
