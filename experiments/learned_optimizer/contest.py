"""The contest: every optimizer is tuned alike and raced from the same starts on the same batches.

A hand-designed optimizer is tuned for each problem and each horizon, over learning rates and
schedules, on runs and images that the test does not use; so are the learned rivals of L3RS.

Dimension key: R runs, E evaluations along a run, C candidates (a learning rate with a schedule),
N test images.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float

from experiments.learned_optimizer import problems
from ico import lab, metatrain, models, optim
from ico.metatrain import Tuned

BY_HAND = "by hand"
_VERSION = 2  # of schedules and optimizers: to be raised with them, or old results would be found
# The fields of the configuration that the result of a race depends on.
_RULES = "num_rates first_runs second_candidates second_runs test_runs tests_of_a_run".split()


@dataclasses.dataclass(frozen=True)
class Entrant:
    """An optimizer in the contest.

    Fields:
      build: (learning-rate schedule, horizon, theta) -> optimizer; all may be traced.
      rate: the middle of the grid of learning rates; 0 if nothing is to be tuned.
      theta: learned parameters, if any.
      program: names all that `build` depends on. Entrants of one program share a compilation, since
        they differ in theta and learning rate alone. Empty is the entrant's name.
      role: in the comparisons of a study (races.py).
      failure_rate: share of its meta-trainings that failed; None if it is not learned.
    """

    build: Any
    rate: float
    theta: Any = None
    program: tuple[str, ...] = ()
    role: str = BY_HAND
    failure_rate: float | None = None


def _by_hand(make, learning_rate: float) -> Entrant:
    return Entrant(lambda schedule, *_: make(schedule), learning_rate)


BASELINES = {
    name: _by_hand(optimizer.make, optimizer.learning_rate)
    for name, optimizer in optim.HAND_DESIGNED.items()
} | {"Adam, head alone": _by_hand(lambda rate: optim.on_parts(optax.adam(rate), "head"), 1e-2)}


class Outcome(NamedTuple):
    """Test runs: their mean loss along the way, and at their ends accuracies and losses."""

    curve: Float[np.ndarray, "E"]
    accuracy: Float[np.ndarray, "R"]
    loss: Float[np.ndarray, "R N"]


def final_losses(losses_RN: np.ndarray, of: problems.Problem) -> Float[np.ndarray, "R N"]:
    """Losses of every image at the ends of runs, as they are compared.

    A run that diverged, or whose mean is beyond twice the loss of a guess, counts as twice that
    loss on every image.
    """
    bad = 2 * float(np.log(of.model.num_classes))  # type: ignore
    lost_R = ~(losses_RN.mean(axis=1) <= bad)
    return np.where(lost_R[:, None], bad, losses_RN)


class Contestant(NamedTuple):
    """An entrant on one problem."""

    run: lab.Run
    problem: problems.Problem
    name: str
    entrant: Entrant

    def racer(self, num_tests: int) -> metatrain.Racer:
        """Its program with `num_tests` evaluations, compiled once in a run."""

        def make():
            return metatrain.racer(
                self.entrant.build,
                functools.partial(problems.task_of, self.problem),
                functools.partial(models.measure_images, self.problem.model),
                num_tests=num_tests,
                side_by_side=self.run.config.side_by_side,
            )

        program = self.entrant.program or self.name
        return self.run.once(("racer", self.problem.name, program, num_tests), make)

    def tuned(self, horizon: int) -> Tuned:
        """The best learning rate and schedule for a horizon, by the loss on `valid`."""
        config, of = self.run.config, self.problem
        if not self.entrant.rate:
            return Tuned(1.0, 0, False, np.nan, np.ones(1), np.zeros((1, 1)))
        runs = {
            label: (
                jax.random.split(self._key(f"tune/{label}"), count),
                np.arange(count) % of.known,
            )
            for label, count in (("first", config.first_runs), ("second", config.second_runs))
        }
        rates = metatrain.rates_around(self.entrant.rate, config.num_rates)
        rules = rates, config.second_candidates, horizon
        return metatrain.tune_by_runs(self.racer(1), *rules, runs, of.valid, self.entrant.theta)

    def race(self, horizon: int, rate: float, kind: int, unseen: bool = False) -> Outcome:
        """The test runs, on starts, batches and images that nothing was tuned or trained on.

        They are the same for all entrants. Run i starts from network i, modulo their number.
        """
        runs, of = self.run.config.test_runs, self.problem
        first, count = (of.known, of.unseen) if unseen else (0, of.known)
        found = self.racer(self.run.config.tests_of_a_run)(
            np.full(runs, rate),
            np.full(runs, kind),
            horizon,
            jax.random.split(self._key("test/unseen" if unseen else "test"), runs),
            first + np.arange(runs) % count,
            of.test,
            self.entrant.theta,
        )
        losses_RN = final_losses(found["losses"][:, -1], of)
        return Outcome(found["loss"].mean(0), found["accuracy"][:, -1], losses_RN)

    def result(self, horizon: int, unseen: bool = False) -> tuple[Tuned, Outcome]:
        """Tuned and raced, or found on disk.

        Args:
          horizon: steps of the runs.
          unseen: whether they start from the networks that nothing was trained or tuned on, with
            the learning rate and schedule that were tuned on the others.
        """

        def make(_):
            tuned = self.result(horizon)[0] if unseen else self.tuned(horizon)
            outcome = self.race(horizon, tuned.rate, tuned.schedule, unseen)
            return {"tuned": tuned._asdict(), "outcome": outcome._asdict()}

        spec = {"problem": self.problem.spec, "horizon": horizon, "unseen": unseen}
        spec |= {"entrant": self.name, "version": _VERSION, "middle": self.entrant.rate}
        spec |= {"program": self.entrant.program, "theta": self.entrant.theta}
        spec |= {name: getattr(self.run.config, name) for name in _RULES}
        label = problems.slug("race", self.problem.name, self.name, str(horizon))
        found = self.run.kept(label, spec, make)
        tuned = {field: value[()] for field, value in found["tuned"].items()}
        return Tuned(**tuned), Outcome(**found["outcome"])

    def _key(self, name: str):
        return self.run.key(f"{self.problem.name}/{name}")
