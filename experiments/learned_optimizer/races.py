"""All optimizers of a study on its problems: the records they give, and how these are shown.

A record is of one optimizer on one task at one horizon. Its `role` says what it is in comparisons:
BEST (the hand-designed optimizer with the least loss in its tuning), BY_HAND (the others), OURS,
"general", "specialised" or NO_AVERAGE.

Dimension key: R runs, E evaluations along a run, P unseen networks, N test images.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.learned_optimizer.contest import BASELINES, BY_HAND, result
from experiments.learned_optimizer.learners import (
    NO_AVERAGE,
    OURS,
    RIVALS,
    entrant,
    general,
    specialised,
)
from experiments.learned_optimizer.problems import SPECS, Problem
from ico import lab, report
from ico.metatrain import SCHEDULES, Entrant, MetaTrained

BEST = "best by hand"


def entrants_for(run: lab.Run, task: str, rivals: bool = True) -> dict[str, Entrant]:
    """All that race on a task: hand-designed optimizers, L3RS, and its learned rivals."""
    config = run.config
    found = {name: BASELINES[name] for name in config.baselines or BASELINES}
    found[OURS] = entrant(specialised(run, "l3rs", task), OURS)
    if config.without_average:
        plain = specialised(run, "l3rs", task, NO_AVERAGE)
        found[f"{OURS}, {NO_AVERAGE}"] = entrant(plain, NO_AVERAGE)
    for name in config.rivals if rivals else ():
        label = RIVALS[name]
        found[f"{label}, specialised"] = entrant(specialised(run, name, task), "specialised")
        if len(config.tasks) > 1:
            found[f"{label}, general"] = entrant(general(run, name), "general")
    return found


def race(
    run: lab.Run,
    problem: Problem,
    entrants: dict[str, Entrant],
    horizon: int,
    *,
    unseen: bool = False,
    title: str = "",
    **axes: Any,
) -> Iterator[lab.Record]:
    """Tunes and races all entrants on a problem; a record each, with further axes if given.

    Values are loss [R, N] (at the ends of runs; from unseen networks [P, N], means over the runs
    of a network, which alone are no further evidence), step and curve [E] (mean test losses),
    accuracy [R], rate, and of learned optimizers failure_rate.
    """
    results = {
        name: result(run, problem, name, one, horizon, unseen) for name, one in entrants.items()
    }
    by_hand = [name for name, one in entrants.items() if one.role == BY_HAND]
    best = min(by_hand, key=lambda name: float(results[name][0].loss))
    for name, (tuned, outcome) in results.items():
        one, loss, E = entrants[name], outcome["loss"], len(outcome["curve"])
        if unseen:  # run i starts from network i, modulo their number
            loss = loss.reshape(-1, problem.unseen, loss.shape[-1]).mean(0)
        rate = one.failure_rate
        yield lab.record(
            task=problem.name.removesuffix(", new data"),
            horizon=horizon,
            race=title or f"{problem.name}, {horizon} steps",
            **axes,
            optimizer=name,
            role=BEST if name == best else one.role,
            schedule=SCHEDULES[int(tuned.schedule)] if one.rate else "its own",
            edge=bool(tuned.edge),
            rate=np.asarray(tuned.rate if one.rate else np.nan),
            step=horizon * np.arange(1, E + 1) // E,
            **outcome | {"loss": loss},
            **({} if rate is None else {"failure_rate": np.asarray(rate)}),
        )


def losses_at_end(
    run: lab.Run, problem: Problem, trained: MetaTrained, horizon: int = 0
) -> dict[str, np.ndarray]:
    """A record's values for an L3RS on a problem: loss [R, N] at the ends of runs, failure_rate.

    A horizon of 0 is the configuration's.
    """
    horizon = horizon or run.config.horizon
    outcome = result(run, problem, OURS, entrant(trained, OURS), horizon)[1]
    return {"loss": outcome["loss"], "failure_rate": np.asarray(trained.failure_rate)}


def against_best(**where: Any) -> Callable[[lab.Records], Any]:
    """The loss of L3RS over that of the best hand-designed optimizer, on every task."""
    return lab.every(lab.ratio("loss", role=(OURS, BEST), **where), runs=True, task=...)


def show_races(study: lab.Study, caption: str, *notes: str) -> None:
    """Declares what is shown of races: a table a task, the curves, the rules of the contest."""
    for task in SPECS:
        study.table(task, lambda records, task=task: rows(records[""].where(task=task)))
    study.figure(curves("step"), caption, name=f"{study.name}_curves")
    study.note(*notes, *_NOTES)


def curves(x: str) -> Callable[[lab.Records], Any]:
    """Draws mean test losses along runs against a value of the records; L3RS in thick lines."""
    axes = {"color": "optimizer", "panel": "race", "ylabel": "test loss, nats", "log": "y"}
    return lab.lines(x, "curve", looks=_looks, **axes)


def _looks() -> dict[str, dict[str, Any]]:
    """The look of every optimizer, the same in all figures."""
    learned = [f"{rival}, {how}" for rival in RIVALS.values() for how in ("specialised", "general")]
    vermilion = report.palette()[1]
    colors = [color for color in report.palette() if color != vermilion]
    ours = {"color": vermilion, "linewidth": 2.4, "marker": ".", "zorder": 3}
    without = ours | {"linestyle": "--"}
    looks: dict[str, dict[str, Any]] = {OURS: ours, f"{OURS}, {NO_AVERAGE}": without}
    for i, name in enumerate([*BASELINES, *learned]):
        look = {"color": colors[i % 6], "linestyle": ("-", "--", ":")[i // 6]}
        looks[name] = look | {"linewidth": 1.1, "marker": "."}
    return looks


def rows(records: lab.Records) -> list[dict]:
    """A row a record, least loss first at each horizon, with the loss of L3RS over it."""
    found = []
    for one in records:
        loss, (low, high) = report.interval(one["loss"])
        ours = records.one(horizon=one["horizon"], role=OURS)
        row = {
            "horizon": one["horizon"],
            "optimizer": one["optimizer"] + (f" ({BEST})" if one["role"] == BEST else ""),
            "test loss": loss,
            "95% low": low,
            "95% high": high,
            "accuracy": float(one["accuracy"].mean()),
            **over(f"{OURS} over it", ours["loss"], one["loss"], is_shown=one is not ours),
            "learning rate": None if np.isnan(one["rate"]) else float(one["rate"]),
            "schedule": one["schedule"],
            "rate at the edge": "yes" if one["edge"] else "",
        }
        found.append(row)
    return sorted(found, key=lambda row: (row["horizon"], row["test loss"]))


def over(name: str, loss: np.ndarray, other: np.ndarray, is_shown: bool = True) -> dict[str, Any]:
    """Columns of a ratio of mean losses with its interval; empty if it is not to be shown."""
    ratio, (low, high) = report.interval(loss, other, statistic=report.ratio)
    values = (ratio, low, high) if is_shown else (None, None, None)
    return dict(zip((name, f"{name}, low", f"{name}, high"), values, strict=True))


_NOTES = (
    "Every hand-designed optimizer is tuned for this task and horizon: learning rates a factor of "
    "two apart, extended while the best is at an end of the grid, with each of four schedules on "
    "few runs, the best of them on more, by the loss on images that the test does not use. So are "
    "the learning rates of the rivals; L3RS is taken as meta-trained.",
    "Of each learned optimizer the first meta-training races that did not fail (end with a larger "
    "meta-loss than it began with), of at most three.",
    f"{OURS}, {NO_AVERAGE}, has momentum and a cosine in place of a mean of iterates; no claim is "
    "about it.",
    "Test runs are new starts of the head and new orders of batches, the same for all optimizers; "
    "intervals are over runs and over test images, both drawn anew.",
)
