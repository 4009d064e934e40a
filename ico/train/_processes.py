"""What several processes that train together have to agree on; with one, nothing happens.

They are joined by `jax.distributed.initialize` before JAX is first used, and see one mesh over all
their devices. Arrays are then global: every process has a part, or a copy, and all of them make the
same calls in the same order.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

PyTree = Any


def several() -> bool:
    """Whether there is more than one."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the one that writes logs and moves files."""
    return jax.process_index() == 0


def whole(leaf: Any) -> np.ndarray:
    """A global array's value, by all processes at once if it is split over them."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def placed(leaf: jax.Array, sharding: Sharding) -> jax.Array:
    """An array that every process has alike, as a global one."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = placed(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def joined(shard: PyTree, sharding: Sharding) -> PyTree:
    """Global arrays of which every process has the rows that it read itself."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), shard
    )


def first_of(flag: str | None) -> str | None:
    """The first process's text, or else any other's: None only if it is None everywhere."""
    if not several():
        return flag
    return next((found for found in of_all(flag) if found is not None), None)


def of_all(value: Any) -> list[Any]:
    """A JSON-able value of every process, in their order, the same for all."""
    if not several():
        return [value]
    from jax.experimental import multihost_utils

    mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.asarray(len(mine)))))
    padded = np.full(longest, ord(" "), np.uint8)
    padded[: len(mine)] = mine
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row)) for row in np.asarray(rows, np.uint8)]


def meet(name: str) -> None:
    """Waits until every process is here."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
