"""The contest: every optimizer is tuned alike and raced from the same starts on the same batches.

A hand-designed optimizer is tuned for each problem and each horizon, over learning rates and
schedules, on runs and images that the test does not use; so are the learned rivals of L3RS.

Dimension key: R runs, E evaluations along a run, N test images.
"""

import functools

import numpy as np
import optax

from experiments.learned_optimizer import problems
from ico import lab, metatrain, models, optim
from ico.metatrain import Entrant, Rules, Tuned

BY_HAND = "by hand"
_VERSION = 2  # of schedules and optimizers: to be raised with them, or old results would be found


BASELINES = metatrain.hand_designed() | {
    "Adam, head alone": metatrain.by_hand(
        lambda rate: optim.on_parts(optax.adam(rate), "head"), 1e-2
    )
}


def final_losses(losses_RN: np.ndarray, of: problems.Problem) -> np.ndarray:
    """Losses at the ends of runs [R, N]; a lost run counts as twice the loss of a guess."""
    return metatrain.counted(losses_RN, 2 * float(np.log(of.model.num_classes)))  # type: ignore


def contest_on(run: lab.Run, of: problems.Problem) -> metatrain.Contest:
    """The contest on a problem, one in a run, since it holds compiled programs."""

    def make():
        rules = Rules(**{name: getattr(run.config, name) for name in Rules._fields})
        task = functools.partial(problems.task_of, of)
        measure = functools.partial(models.measure_images, of.model)
        parts = of.known, of.unseen, of.valid, of.test
        return metatrain.Contest(
            task, measure, lambda name: run.key(f"{of.name}/{name}"), *parts, rules
        )

    return run.once(("contest", of.name), make)


def result(
    run: lab.Run,
    of: problems.Problem,
    name: str,
    entrant: Entrant,
    horizon: int,
    unseen: bool = False,
) -> tuple[Tuned, dict[str, np.ndarray]]:
    """An entrant tuned and raced on a problem, or found on disk.

    Args:
      run, of, name, entrant: what races where.
      horizon: steps of the runs.
      unseen: whether they start from the networks that nothing was trained or tuned on, with the
        learning rate and schedule that were tuned on the others.

    Returns:
      What was tuned; and of the test runs "curve" [E], their mean loss along the way, and at their
      ends "accuracy" [R] and "loss" [R, N].
    """
    contest = contest_on(run, of)

    def make(_):
        known = result(run, of, name, entrant, horizon)[0] if unseen else None
        tuned = known or contest.tuned(entrant, horizon)
        found = contest.race(entrant, horizon, tuned.rate, tuned.schedule, unseen)
        losses_RN = final_losses(found["losses"][:, -1], of)
        outcome = {"curve": found["loss"].mean(0), "accuracy": found["accuracy"][:, -1]}
        return {"tuned": tuned._asdict(), "outcome": outcome | {"loss": losses_RN}}

    spec = {"problem": of.spec, "horizon": horizon, "unseen": unseen, "version": _VERSION}
    spec |= {"entrant": name, "middle": entrant.rate, "program": entrant.program}
    spec |= {"theta": entrant.theta, "rules": contest.rules._replace(side_by_side=0)}
    found = run.kept(problems.slug("race", of.name, name, str(horizon)), spec, make)
    return Tuned(**{field: leaf[()] for field, leaf in found["tuned"].items()}), found["outcome"]
