"""What does a step cost, and when has meta-training paid?"""

import numpy as np

from experiments.learned_optimizer.learners import OURS, specialised
from experiments.learned_optimizer.paper import paper
from experiments.learned_optimizer.problems import Problem, problems, task_of
from experiments.learned_optimizer.races import BEST, curves, entrants_for, race
from ico import lab, metatrain
from ico.metatrain import Entrant


@paper.study("What does a step cost, and when has meta-training paid?")
def cost(run):
    """The records of races at the horizon with seconds a step, and "paid", one a task."""
    config = run.config
    for task, of in problems(run).items():
        entrants = entrants_for(run, task)
        for one in race(run, of, entrants, config.horizon):
            seconds = _seconds_a_step(run, of, one["optimizer"], entrants[one["optimizer"]])
            timed = {"seconds": np.asarray(seconds), "milliseconds": 1e3 * seconds * one["step"]}
            yield lab.record(**one.axes, **one.values, **timed)
        trained = specialised(run, "l3rs", task)
        first_round = len(metatrain.SCHEDULES) * config.num_rates * config.first_runs
        tuning = config.horizon * (first_round + config.second_candidates * config.second_runs)
        steps = {"tuning_steps": tuning, "inner_steps": trained.inner_steps}
        yield lab.record("paid", task=task, **steps, seconds=np.asarray(trained.seconds))


def _seconds_a_step(run: lab.Run, of: Problem, name: str, entrant: Entrant) -> float:
    """The median of five runs of one fine-tuning, compiled, after a first."""
    rate, horizon = max(entrant.rate, 1e-3), run.config.horizon
    place = ("stopwatch", of.name, entrant.program or name)
    timed = run.once(
        place, lambda: metatrain.stopwatch(entrant.build, task_of(of, 0), rate, horizon)
    )
    return timed([run.key(f"cost/{i}") for i in range(6)], entrant.theta)


def _to_best(one: lab.Record, best: lab.Record) -> tuple[int | None, float | None]:
    """Steps and seconds until an optimizer has the loss at which the best by hand ends."""
    reached = np.flatnonzero(one["curve"] <= best["curve"][-1])
    if not len(reached):
        return None, None
    steps = int(one["step"][reached[0]])
    return steps, steps * float(one["seconds"])


_TO_BEST = "steps to its loss", "seconds to it"


@cost.table("steps")
def _(records):
    rows = []
    for one in records[""]:
        best = records[""].one(task=one["task"], role=BEST)
        row = {"task": one["task"], "optimizer": one["optimizer"]}
        row |= {"milliseconds a step": 1e3 * float(one["seconds"])}
        row |= {"over the best by hand": float(one["seconds"] / best["seconds"])}
        rows.append(row | dict(zip(_TO_BEST, _to_best(one, best), strict=True)))
    return rows


@cost.table("meta-training against tuning")
def _(records):
    rows = []
    for paid in records["paid"]:
        here, seconds = records[""].where(task=paid["task"]), float(paid["seconds"])
        best = here.one(role=BEST)
        (_, own), (_, other) = (_to_best(one, best) for one in (here.one(role=OURS), best))
        saved = None if own is None or other is None else other - own
        row = {
            "task": paid["task"],
            "meta-training, million inner steps": paid["inner_steps"] / 1e6,
            "its seconds": seconds,
            "tuning one optimizer, million steps": paid["tuning_steps"] / 1e6,
            "seconds saved a fine-tuning": saved,
            "fine-tunings until it has paid": seconds / saved if saved and saved > 0 else None,
        }
        rows.append(row)
    return rows


cost.figure(
    curves("milliseconds"),
    "Mean test losses at the horizon by the time that the steps take, one run alone.",
    name="cost_by_time",
)
cost.note(
    "One run alone, compiled, the median of five; steps to the loss at which the best "
    "hand-designed optimizer ends, by the evaluations along the runs (none: never). Saved: on the "
    "way to that loss, one run after another; never paid where nothing is saved."
)
