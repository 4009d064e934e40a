"""Parameters in groups (a layer's kernel and bias, say): sums over groups, and values for each.

Dimension key: G groups, P trees of parameters.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PyTree = Any
# The path of a parameter -> what it is grouped by.
Group = Callable[[tuple], Hashable]
_LARGE = 2**17


def by_module(path: tuple) -> str:
    """The path of a parameter without its last key: what a kernel shares with its bias."""
    return jax.tree_util.keystr(path[:-1], simple=True, separator="/")


def is_large(leaf) -> bool:
    """Whether `inner` takes a dot of such an array with another, which both have to be stored."""
    return leaf.size >= _LARGE


def inner(a, b):
    """The sum of products. Of large arrays a dot, twice as fast on a CPU as a sum over products."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    if not is_large(a):
        return jnp.sum(a * b)
    # Not raveled, which would gather a sharded array. Behind a barrier, or XLA shares the squares
    # with Adam's second moment by writing them out.
    axes = tuple(range(a.ndim))
    b = jax.lax.optimization_barrier(b)
    return jax.lax.dot_general(a, b, ((axes, axes), ((), ())), precision="highest")


class Groups(NamedTuple):
    """Which group each parameter array belongs to, in the order of the tree's leaves.

    Fields:
      names: of the groups, in the order of their first parameter.
      places: index of the group of each leaf.
      sizes: number of entries in each group.
    """

    names: tuple
    places: tuple[int, ...]
    sizes: tuple[int, ...]

    def mean_squares(self, tree: PyTree) -> Float[Array, "G"]:
        """Mean square of each group's entries, [G]."""
        return self._means([inner(leaf, leaf) for leaf in jax.tree.leaves(tree)])

    def grams(self, trees) -> Float[Array, "G P P"]:
        """Mean over each group's entries of the product of every two of P trees, [G, P, P]."""
        leaves, P = [jax.tree.leaves(tree) for tree in trees], len(trees)
        pairs = {
            (p, r): self._means(list(map(inner, leaves[p], leaves[r])))
            for p in range(P)
            for r in range(p, P)
        }
        rows = [jnp.stack([pairs[min(p, r), max(p, r)] for r in range(P)], -1) for p in range(P)]
        return jnp.stack(rows, axis=-2)

    def _means(self, sums) -> Float[Array, "G"]:
        """Sums over leaves, added up within groups and divided by the groups' sizes."""
        totals = [jnp.zeros((), jnp.float32)] * len(self.names)
        for place, part in zip(self.places, sums, strict=True):
            totals[place] = totals[place] + part
        return jnp.stack(totals) / jnp.asarray(self.sizes, jnp.float32)

    def spread(self, values_G: Float[Array, "G"], tree: PyTree) -> PyTree:
        """A tree like `tree` that holds, for each leaf, the value of its group."""
        return jax.tree.unflatten(jax.tree.structure(tree), [values_G[i] for i in self.places])

    def combine(self, weight_GP: Float[Array, "G P"], trees) -> PyTree:
        """`sum_p weight[g, p] tree_p` for every leaf of group g, float32."""
        structure = jax.tree.structure(trees[0])
        parts = zip(*map(jax.tree.leaves, trees), strict=True)
        mixed = [
            sum(
                (weight_GP[place, p] * part.astype(jnp.float32) for p, part in enumerate(several)),
                start=jnp.zeros((), jnp.float32),
            )
            for place, several in zip(self.places, parts, strict=True)
        ]
        return jax.tree.unflatten(structure, mixed)


def group_names(params: PyTree, group: Group | None = None) -> tuple:
    """What parameters (or their shapes) are grouped by, in the order of their groups.

    Args:
      params: the parameters.
      group: path of a parameter -> what it is grouped by; None is `by_module`, layers.
    """
    return groups_of(params, group).names


def groups_of(params: PyTree, group: Group | None) -> Groups:
    """The groups of a tree of parameters or shapes; None groups `by_module`."""
    group = by_module if group is None else group
    entries = jax.tree_util.tree_leaves_with_path(params)
    keys = [group(path) for path, _ in entries]
    names = tuple(dict.fromkeys(keys))
    places = tuple(names.index(name) for name in keys)
    sizes = np.zeros(len(names), int)
    np.add.at(sizes, list(places), [leaf.size for _, leaf in entries])
    return Groups(names, places, tuple(max(int(size), 1) for size in sizes))


def check_floating(name: str, params: PyTree) -> None:
    """Raises ValueError for complex or integer parameters, which `optax.masked` can leave out."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            kind = jnp.result_type(leaf)
            raise ValueError(f"{name} needs floating-point parameters; {place!r} is {kind}")


def in_float32(tree: PyTree) -> PyTree:
    """The tree in float32 at least: small updates and moments are lost in less."""
    return jax.tree.map(lambda a: a.astype(jnp.promote_types(a.dtype, jnp.float32)), tree)
