"""How a model is trained: optimizer, learning rate over time, and what a dead start is."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from ico import optim


@dataclasses.dataclass(frozen=True)
class Restart:
    """When a start counts as dead, fixed before the run: it is begun anew with another key.

    Fields:
      step: a start is looked at once it has done these steps ...
      above: ... and is dead if its loss (the mean over the last compiled call) is larger.
      most: each model is begun anew at most so often; the last start stays, dead or not.
    """

    step: int
    above: float
    most: int = 2


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Optimizer, schedule and clip of a training; hashable, and part of an artefact's spec.

    Fields:
      num_steps: of training.
      learning_rate: the largest.
      optimizer: "adam", "adamw", "sgd", or any name that `ico.optim.make` knows, with its defaults.
      schedule: "constant"; "cosine", from the end of the warm-up to `end` of the learning rate;
        "linear", constant and then linear to `end` of it over the last `tail` of the steps; or, for
        each step, which share of the learning rate it has.
      warmup: share of the steps with a linearly rising learning rate, for "cosine".
      end: what is left of the learning rate at the last step, as a share.
      tail: share of the steps over which "linear" falls.
      clip: the gradient's largest global norm; None does not clip.
      b1, b2: decay rates of the moments of "adam" and "adamw".
      weight_decay: of "adamw".
      momentum: of "sgd".
      average: of the iterates, kept beside them and evaluated in their place.
      decay_matrices_alone: whether leaves of fewer than two axes are spared the weight decay.
      steps_per_call: steps in one compiled call, at most.
      restart: when a start is dead; None begins none anew.

    Raises:
      ValueError: an unknown schedule, a share outside [0, 1], or a field that the optimizer or the
        schedule does not use.
    """

    num_steps: int
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    schedule: Literal["constant", "cosine", "linear"] | tuple[float, ...] = "constant"
    warmup: float = 0.0
    end: float = 0.0
    tail: float = 0.3
    clip: float | None = 1.0
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    momentum: float = 0.0
    average: optim.Average | None = None
    decay_matrices_alone: bool = False
    steps_per_call: int = 100
    restart: Restart | None = None

    def __post_init__(self):
        if isinstance(self.schedule, tuple):
            if len(self.schedule) != self.num_steps:
                raise ValueError(f"want {self.num_steps} shares, not {len(self.schedule)}")
        elif self.schedule not in ("constant", "cosine", "linear"):
            raise ValueError(f"schedule must be constant, cosine or linear, not {self.schedule!r}")
        if self.optimizer != "sgd" and self.momentum:
            raise ValueError(f"momentum is of sgd, not of {self.optimizer!r}")
        if self.optimizer != "adamw" and (self.weight_decay or self.decay_matrices_alone):
            raise ValueError(f"weight_decay is of adamw, not of {self.optimizer!r}")
        if self.schedule != "cosine" and self.warmup:
            raise ValueError(f"warmup goes with the schedule cosine, not {self.schedule!r}")
        for name in ("warmup", "end", "tail"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share of one, not {getattr(self, name)}")

    def rate(self) -> float | optax.Schedule:
        """The learning rate, or its schedule."""
        if self.schedule == "constant":
            return self.learning_rate
        if isinstance(self.schedule, tuple):
            table = self.learning_rate * jnp.asarray(self.schedule, jnp.float32)
            return lambda step: table[step]
        end = self.end * self.learning_rate
        if self.schedule == "linear":
            falling = max(1, round(self.tail * self.num_steps))
            return optax.linear_schedule(self.learning_rate, end, falling, self.num_steps - falling)
        warmup = int(self.warmup * self.num_steps)
        whole = max(self.num_steps, warmup + 1)
        return optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, warmup, whole, end)

    def make(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer; equal recipes give equal ones."""
        rate = self.rate()
        if self.optimizer == "adam":
            moved = optax.adam(rate, self.b1, self.b2)
        elif self.optimizer == "adamw":
            mask = _matrices if self.decay_matrices_alone else None
            moved = optax.adamw(rate, self.b1, self.b2, weight_decay=self.weight_decay, mask=mask)
        elif self.optimizer == "sgd":
            moved = optax.sgd(rate, self.momentum or None)
        else:
            moved = optim.make(self.optimizer, learning_rate=rate)
        if self.clip is not None:
            moved = optax.chain(optax.clip_by_global_norm(self.clip), moved)
        if self.average is not None:
            moved = optim.averaged(moved, self.average, self.num_steps)
        return optax.with_extra_args_support(moved)


def _matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
