"""Parameters in groups, called layers: sums over them, and numbers given to them.

Dimension key: L layers, P trees of parameters.
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Group = Callable[[tuple], Hashable]
_LARGE = 2**17


def by_module(path: tuple) -> str:
    """The path of a parameter without its last key: what a kernel shares with its bias."""
    return jax.tree_util.keystr(path[:-1], simple=True, separator="/")


class Layers(NamedTuple):
    """Which layer every parameter belongs to, in the order of the leaves."""

    names: tuple
    places: tuple[int, ...]
    sizes: tuple[int, ...]  # numbers in every layer

    def mean_squares(self, tree) -> Float[Array, "L"]:
        """By layer."""
        return self._means([_inner(leaf, leaf) for leaf in jax.tree.leaves(tree)])

    def grams(self, trees) -> Float[Array, "L P P"]:
        """Mean products of every two trees, by layer."""
        leaves, P = [jax.tree.leaves(tree) for tree in trees], len(trees)
        pairs = {(p, r): self._means(list(map(_inner, leaves[p], leaves[r])))
                 for p in range(P) for r in range(p, P)}  # fmt: skip
        rows = [jnp.stack([pairs[min(p, r), max(p, r)] for r in range(P)], -1) for p in range(P)]
        return jnp.stack(rows, axis=-2)

    def _means(self, sums) -> Float[Array, "L"]:
        totals = [jnp.zeros((), jnp.float32)] * len(self.names)
        for place, part in zip(self.places, sums, strict=True):
            totals[place] = totals[place] + part
        return jnp.stack(totals) / jnp.asarray(self.sizes, jnp.float32)

    def spread(self, numbers_L, tree):
        """A number a layer as one for every leaf."""
        return jax.tree.unflatten(jax.tree.structure(tree), [numbers_L[i] for i in self.places])

    def combine(self, weight_LP, trees):
        """`sum_p weight[l, p] tree_p` for every leaf of layer l, float32."""
        structure = jax.tree.structure(trees[0])
        parts = zip(*map(jax.tree.leaves, trees), strict=True)
        mixed = [
            sum(
                (weight_LP[place, p] * part.astype(jnp.float32) for p, part in enumerate(several)),
                start=jnp.zeros((), jnp.float32),
            )
            for place, several in zip(self.places, parts, strict=True)
        ]
        return jax.tree.unflatten(structure, mixed)


def _inner(a, b):
    """The sum of products. Of large arrays a dot, twice as fast on a CPU as a sum over products."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    if a.size < _LARGE:
        return jnp.sum(a * b)
    # Not raveled, which would gather a sharded array. Behind a barrier, or XLA shares the squares
    # with Adam's second moment by writing them out.
    axes = tuple(range(a.ndim))
    b = jax.lax.optimization_barrier(b)
    return jax.lax.dot_general(a, b, ((axes, axes), ((), ())), precision="highest")


def check_floating(name: str, params) -> None:
    """Raises ValueError for parameters that are complex or whole numbers: `optax.masked` skips."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{name} takes floating numbers; {place!r} is {jnp.result_type(leaf)}")


def layers_of(params, group: Group | None) -> Layers:
    group = by_module if group is None else group
    entries = jax.tree_util.tree_leaves_with_path(params)
    groups = [group(path) for path, _ in entries]
    names = tuple(dict.fromkeys(groups))
    places = tuple(names.index(name) for name in groups)
    sizes = np.zeros(len(names), int)
    np.add.at(sizes, list(places), [leaf.size for _, leaf in entries])
    return Layers(names, places, tuple(max(int(size), 1) for size in sizes))
