"""A contest of optimizers on one problem: all are tuned by the same rules and raced alike.

Dimension key: R runs, E evaluations along a run, N test examples.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from ico.metatrain._racing import Build, Racer, Tuned, racer, rates_around, tune_by_runs
from ico.metatrain._tasks import Task
from ico.optim import HAND_DESIGNED

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Entrant:
    """An optimizer in a contest.

    Fields:
      build: (learning-rate schedule, horizon, theta) -> optimizer; all may be traced.
      rate: the middle of the grid of learning rates; 0 if nothing is to be tuned.
      theta: learned parameters, if any.
      program: names all that `build` depends on. Entrants of one program share a compilation, since
        they differ in theta and learning rate alone. Empty is `build` itself.
      role: in comparisons.
      failure_rate: share of its meta-trainings that failed; None if it is not learned.
    """

    build: Build
    rate: float
    theta: PyTree = None
    program: tuple[str, ...] = ()
    role: str = "by hand"
    failure_rate: float | None = None


def by_hand(make: Callable[[Any], optax.GradientTransformation], rate: float) -> Entrant:
    """A hand-designed optimizer, by what makes it of a learning-rate schedule."""
    return Entrant(lambda schedule, *_: make(schedule), rate)


def hand_designed() -> dict[str, Entrant]:
    """`ico.optim.HAND_DESIGNED` as entrants."""
    return {name: by_hand(one.make, one.learning_rate) for name, one in HAND_DESIGNED.items()}


def counted(losses: Float[np.ndarray, "R N"], worst: float) -> Float[np.ndarray, "R N"]:
    """Losses at the ends of runs as they are compared: runs that were lost count as `worst`.

    Lost is a run that diverged, or whose mean is beyond `worst`: all its N losses are replaced.
    """
    lost_R = ~(losses.mean(axis=1) <= worst)
    return np.where(lost_R[:, None], worst, losses)


class Rules(NamedTuple):
    """How much is tried and tested, the same for all entrants.

    Fields:
      num_rates: learning rates of the grid, each twice the one before; with every schedule.
      first_runs: runs of each learning rate and schedule in the first round.
      second_candidates: how many go on to the second round.
      second_runs: runs of each there.
      test_runs: R, of the test.
      tests_of_a_run: E, along each of these.
      side_by_side: runs in one compiled call; changes memory, not results.
    """

    num_rates: int
    first_runs: int
    second_candidates: int
    second_runs: int
    test_runs: int
    tests_of_a_run: int
    side_by_side: int = 20


@dataclasses.dataclass(frozen=True)
class Contest:
    """One problem. Nothing is tuned on the starts, batches or data of its test.

    A setting is a number: those below `known` are tuned on, and tested on too; the `unseen` after
    them are for tests alone. Run i is of setting i, modulo their number.

    Fields:
      task: setting -> Task; the setting is traced.
      measure: (parameters, given) -> tree of arrays, "loss" [] among them.
      key: name -> random key.
      known, unseen: numbers of settings.
      valid, test: what `measure` is given while tuning, and in the test.
      rules: see `Rules`.
    """

    task: Callable[[Any], Task]
    measure: Callable[[PyTree, PyTree], PyTree]
    key: Callable[[str], Key[Array, ""]]
    known: int
    unseen: int
    valid: PyTree
    test: PyTree
    rules: Rules
    _racers: dict[Any, Racer] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def racer(self, entrant: Entrant, num_tests: int) -> Racer:
        """The entrant's program with so many evaluations along a run, compiled once."""
        place = entrant.program or entrant.build, num_tests
        if place not in self._racers:
            sizes = {"num_tests": num_tests, "side_by_side": self.rules.side_by_side}
            self._racers[place] = racer(entrant.build, self.task, self.measure, **sizes)
        return self._racers[place]

    def tuned(self, entrant: Entrant, horizon: int) -> Tuned:
        """The best learning rate and schedule for a horizon, by the loss on `valid`."""
        rules = self.rules
        if not entrant.rate:
            return Tuned(1.0, 0, False, np.nan, np.ones(1), np.zeros((1, 1)))
        runs = {
            label: (
                jax.random.split(self.key(f"tune/{label}"), count),
                np.arange(count) % self.known,
            )
            for label, count in (("first", rules.first_runs), ("second", rules.second_runs))
        }
        grid = rates_around(entrant.rate, rules.num_rates), rules.second_candidates
        program = self.racer(entrant, 1)
        return tune_by_runs(program, *grid, horizon, runs, self.valid, entrant.theta)

    def race(
        self, entrant: Entrant, horizon: int, rate: float, kind: int, unseen: bool = False
    ) -> PyTree:
        """The test runs, whose starts and batches are the same for all entrants.

        Args:
          entrant: which.
          horizon: steps of the runs.
          rate, kind: peak learning rate, and the schedule's place in SCHEDULES.
          unseen: whether on the settings that nothing was tuned on.

        Returns:
          What `measure` gives along the runs, [R, E, ...].
        """
        runs = self.rules.test_runs
        first, count = (self.known, self.unseen) if unseen else (0, self.known)
        return self.racer(entrant, self.rules.tests_of_a_run)(
            np.full(runs, rate),
            np.full(runs, kind),
            horizon,
            jax.random.split(self.key("test/unseen" if unseen else "test"), runs),
            first + np.arange(runs) % count,
            self.test,
            entrant.theta,
        )
