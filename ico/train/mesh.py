"""The one place that makes a mesh, and how arrays lie on it."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PyTree = Any
DATA_AXIS = "data"


def make_mesh(axes: Mapping[str, int] | None = None) -> Mesh:
    """Makes a device mesh.

    Args:
      axes: axis name -> size, whose product is the number of devices used; by default one axis
        "data" over all devices, those of other processes among them.

    Returns:
      The mesh. All its axes are Auto: `jax.make_mesh` would make them Explicit, under which a
      Linen embedding followed by attention raises ShardingTypeError.

    Raises:
      ValueError: more devices asked for than there are.
    """
    devices = jax.devices()
    axes = {DATA_AXIS: len(devices)} if axes is None else dict(axes)
    size = 1
    for length in axes.values():
        size *= length
    if not 1 <= size <= len(devices):
        raise ValueError(f"mesh {axes} needs {size} devices, there are {len(devices)}")
    kinds = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=kinds, devices=devices[:size]
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding under which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Splits the leading axis of every leaf [B, ...] over "data"; scalars stay whole.

    For use inside jit, also under vmap. Does nothing on a mesh without a "data" axis of 2 or more.

    Raises:
      ValueError: B is not a multiple of the number of devices on that axis.
    """
    size = dict(mesh.shape).get(DATA_AXIS, 1)
    if size == 1:
        return batch
    split = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

    def shard(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if leaf.ndim == 0:
            return leaf
        if leaf.shape[0] % size:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"batch leaf {name!r} has {leaf.shape[0]} rows, not a multiple of the {size} "
                f"devices on axis {DATA_AXIS!r}; change the batch size or pass a smaller mesh"
            )
        return jax.lax.with_sharding_constraint(leaf, split)

    return jax.tree_util.tree_map_with_path(shard, batch)
