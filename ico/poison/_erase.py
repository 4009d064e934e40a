"""Taking out of the weights what learning changed: the largest entries, and the two controls."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ico.optim import sparsify

PyTree = Any
EraseMode = Literal[
    "drop_top", "drop_random", "drop_scaled", "keep_top", "keep_random", "keep_scaled"
]


def erase(
    before: PyTree,
    change: PyTree,
    mode: EraseMode,
    share: float,
    *,
    stacked: tuple[str, ...] = (),
    key: Key[Array, ""] | None = None,
) -> PyTree:
    """Parameters before learning plus a part of what learning changed. Do not call it under jit.

    drop_top leaves out the largest `share` of each tensor's entries (Sun et al. 2025, arXiv
    2504.09522), keep_top keeps these alone. Beside each stand a control with as many entries
    chosen at random, and one that scales the whole change of each tensor to the norm that drop_top
    or keep_top leaves: does it matter which entries, or only how many or how much?

    Args:
      before: parameters.
      change: parameters after learning minus `before`.
      mode: which part of the change is added.
      share: of a tensor's entries, in [0, 1]: those dropped or those kept.
      stacked: keys of subtrees whose arrays stack tensors along axis 0; see `ico.optim.sparsify`.
      key: for the random modes.

    Raises:
      ValueError: as `ico.optim.sparsify`.
    """
    what, how = mode.split("_")
    if how == "random":
        dropped = share if what == "drop" else 1 - share
        left = sparsify(change, dropped, mode="random", stacked=stacked, key=key)
    else:
        top = "drop_top" if what == "drop" else "keep_top"
        left = sparsify(change, share, mode=top, stacked=stacked)
    if how == "scaled":
        left = _scaled(change, left, stacked)
    return _sum(before, left)


@jax.jit
def _sum(before, change):
    return jax.tree.map(jnp.add, before, change)


@functools.partial(jax.jit, static_argnums=2)
def _scaled(change, left, stacked: tuple[str, ...]):
    """Each tensor of the change, scaled to the norm of what is left of it."""

    def scale(path, whole, part):
        axes = tuple(range(1 if path[0].key in stacked else 0, whole.ndim))
        norm = jnp.sqrt(jnp.sum(whole**2, axes, keepdims=True))
        return whole * jnp.sqrt(jnp.sum(part**2, axes, keepdims=True)) / jnp.maximum(norm, 1e-30)

    return jax.tree.map_with_path(scale, change, left)
