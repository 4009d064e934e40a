"""Where batches come from: a pure sampler on the device, or a Stream on the host."""

from collections.abc import Callable, Iterable, Iterator
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


class Unrestorable:
    """Batches of any iterable as a Stream that cannot be restored."""

    def __init__(self, batches: Iterable[PyTree]):
        self._batches: Iterator[PyTree] = iter(batches)

    def __next__(self) -> PyTree:
        return next(self._batches)

    def position(self) -> Any:
        """Raises TypeError."""
        raise TypeError(
            "batches of a plain iterator have no position to go on from; give a Stream (with "
            "position() and restore()), a sampler, or no directory"
        )

    def restore(self, position: Any) -> None:
        """Raises TypeError."""
        self.position()


def as_source(data: Any) -> Sampler | Stream:
    """A sampler or Stream as it is; any other iterable as a Stream without a position.

    Raises:
      TypeError: none of these.
    """
    if isinstance(data, Stream) or callable(data):
        return data
    if isinstance(data, Iterable):
        return Unrestorable(data)
    raise TypeError(
        f"data must be a sampler, a Stream or an iterable of batches, not {type(data).__name__}"
    )


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
