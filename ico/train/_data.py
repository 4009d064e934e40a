"""Where batches come from: a pure sampler on the device, or a Stream on the host."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

PyTree = Any
Sampler = Callable[..., PyTree]  # key -> batch, or (key, given) -> batch


@runtime_checkable
class Stream(Protocol):
    """An iterator of batches whose position can be kept and restored."""

    def __next__(self) -> PyTree:
        """The next batch: a pytree of numpy arrays, of the same shapes every time."""
        ...

    def position(self) -> Any:
        """JSON-able: where the next batch comes from."""
        ...

    def restore(self, position: Any) -> None:
        """Goes to a position that `position` returned, perhaps in another process."""
        ...


def take(stream: Stream, count: int) -> PyTree:
    """Stacks the next `count` batches: leaves [count, B, ...].

    Raises:
      ValueError: the stream ended, or two batches differ in structure or shape.
    """
    batches = []
    for i in range(count):
        try:
            batches.append(next(stream))
        except StopIteration:
            raise ValueError(
                f"the stream ended {count - i} batches early; lower num_steps or repeat the data"
            ) from None
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
