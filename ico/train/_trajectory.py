"""Checkpoints and predictions along a training, in memory or on disk, of a size known at the start.

Dimension key: n steps, S seeds (the axis is absent without seeds), D parameters of one model.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from ico.files import load_tree, save_tree
from ico.train._errors import CheckpointError

PyTree = Any


class Trajectory:
    """What `fit(..., trajectory=...)` records at chosen steps: the iterates, flat, and predictions.

    The iterates themselves, not an average that the optimizer keeps: averages are computed from
    them. Iterate averaging, trainable weight averaging, selective classification and attribution
    read it.

        trajectory = Trajectory(range(0, 1001, 50), predict)
        fit(step, state, sampler, config, trajectory=trajectory)
        trajectory.params()        # [n, S, D]
        trajectory.predictions()   # what predict returns, [n, S, ...]

    Args:
      steps: when to record, in steps done; 0 is the start. A compiled call of the loop ends at
        each, so multiples of `LoopConfig.steps_per_call` compile nothing new.
      predict: params of one seed -> array or tree of arrays, such as the logits of test images.
      directory: one file a step goes there, and a resumed run finds them; None keeps all in memory
        (a run that is resumed then has recorded what came after).
      max_bytes: what the parameters of all steps may take together.
    """

    def __init__(
        self,
        steps: Sequence[int],
        predict: Callable[[PyTree], PyTree] | None = None,
        *,
        directory: str | Path | None = None,
        max_bytes: int = 2**31,
    ):
        self.steps = tuple(sorted({int(step) for step in steps}))
        if self.steps and self.steps[0] < 0:
            raise ValueError(f"steps must be at least 0, not {self.steps[0]}")
        self.predict = predict
        self.directory = None if directory is None else Path(directory)
        self.max_bytes = max_bytes
        self._unravel: Callable | None = None
        self._held: dict[int, dict[str, Any]] = {}

    def begin(self, params: PyTree, seeds: bool) -> None:
        """Checks that all fits; called by `fit`, with the parameters as they are.

        Raises:
          ValueError: it would take more than `max_bytes`; the message says how many steps fit.
        """
        one = jax.tree.map(lambda leaf: leaf[0], params) if seeds else params
        self._unravel = ravel_pytree(one)[1]
        size = sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        if size * len(self.steps) > self.max_bytes:
            raise ValueError(
                f"{len(self.steps)} checkpoints of {size:,} bytes are more than max_bytes "
                f"({self.max_bytes:,}): record at most {self.max_bytes // max(size, 1)} steps"
            )

    def record(self, step: int, params: PyTree, seeds: bool) -> None:
        """Keeps the parameters after `step` steps, in float32, if they are asked for."""
        if step not in self.steps:
            return
        flat, predicted = _reader(self.predict, seeds)(params)
        row = {"params": np.asarray(flat, np.float32)}
        if self.predict is not None:
            row["predictions"] = jax.tree.map(np.asarray, predicted)
        if self.directory is None:
            self._held[step] = row
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        save_tree(self._path(step), row)

    def recorded(self) -> tuple[int, ...]:
        """The steps that are there."""
        if self.directory is None:
            return tuple(sorted(self._held))
        return tuple(step for step in self.steps if self._path(step).exists())

    def params(self, steps: Sequence[int] | None = None) -> Float[np.ndarray, "n *S D"]:
        """The parameters, flat, at these steps, or at all that were recorded.

        Raises:
          CheckpointError: one of them was not recorded.
        """
        return np.stack([self._row(step)["params"] for step in self._chosen(steps)])

    def predictions(self, steps: Sequence[int] | None = None) -> PyTree:
        """What `predict` returned, each leaf [n, *S, ...]. Raises: as `params`, or ValueError."""
        if self.predict is None:
            raise ValueError("this trajectory was made without `predict`")
        rows = [self._row(step)["predictions"] for step in self._chosen(steps)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    def unravel(self, flat: Any) -> PyTree:
        """Parameters as a tree, of one seed's flat ones [D]. ValueError before `fit` has begun."""
        if self._unravel is None:
            raise ValueError("the shape of the parameters is known once `fit` has begun")
        return self._unravel(flat)

    def _chosen(self, steps) -> tuple[int, ...]:
        chosen = self.recorded() if steps is None else tuple(steps)
        missing = sorted(set(chosen) - set(self.recorded()))
        if missing or not chosen:
            raise CheckpointError(
                f"the trajectory has no step {missing[0] if missing else 'at all'}"
            )
        return chosen

    def _row(self, step: int) -> dict[str, Any]:
        return self._held[step] if self.directory is None else load_tree(self._path(step))

    def _path(self, step: int) -> Path:
        assert self.directory is not None
        return self.directory / f"step-{step:08d}.npz"


@functools.lru_cache(maxsize=16)
def _reader(predict: Callable | None, seeds: bool) -> Callable:
    def one(params):
        return ravel_pytree(params)[0], None if predict is None else predict(params)

    return jax.jit(jax.vmap(one) if seeds else one)
