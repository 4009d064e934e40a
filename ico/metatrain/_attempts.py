"""Meta-trainings that fail are begun anew, by one rule for all optimizers."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ico.metatrain._meta_train import Learned


class MetaTrained(NamedTuple):
    """A meta-trained optimizer, and what that took.

    Fields:
      learned: learner, theta and history.
      variant: what was changed of the learner, such as an ablation; "" for nothing.
      draw: its place among meta-trainings that differ in their random keys alone.
      seconds: wall time.
      inner_steps: of all inner trainings together.
      failure_rate: share of the attempts that failed, this one among them.
    """

    learned: Learned
    variant: str
    draw: int
    seconds: float
    inner_steps: float
    failure_rate: float = 0.0


def attempts(train: Callable[[int], MetaTrained], most: int = 3) -> list[MetaTrained]:
    """Meta-trains until one does not fail (`Learned.failed`); the last of the list is to be used.

    Where all fail, the one with the least meta-loss at its end stands last.

    Args:
      train: number of the attempt, from 0 -> what came of it.
      most: attempts at most.

    Returns:
      All attempts, each with the share that failed.
    """
    found: list[MetaTrained] = []
    while not found or (found[-1].learned.failed and len(found) < most):
        found.append(train(len(found)))
    rate = sum(each.learned.failed for each in found) / len(found)
    if rate == 1:
        found.sort(key=lambda each: -np.nan_to_num(each.learned.last_loss, nan=np.inf))
    return [each._replace(failure_rate=rate) for each in found]
