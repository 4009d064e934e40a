"""The races: at the horizon, from other networks, on other data, for longer.

Dimension key: R runs, E tests of a run, P unseen networks, N test images.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from experiments.learned_optimizer import contest, learners, problems
from experiments.learned_optimizer.claims import CLAIMS
from experiments.learned_optimizer.many_passes import ManyPasses, many_passes
from ico import report
from ico.report import Measurement, StudyResult, difference, interval, ratio

OURS = "L3RS"
WITHOUT = f"{OURS}, {learners.WITHOUT_AVERAGE}"
_LABELS = {"adafac_mlp": "AdafacMLP", "direction_mlp": "direction MLP", "l3rs": OURS}


@functools.lru_cache(maxsize=4)
def problems_of(context) -> dict[str, problems.Problem]:
    """The fine-tunings of the configuration, by name."""
    return {name: problems.problem(context, name) for name in context.config.tasks}


def hand_designed(context) -> dict[str, contest.Entrant]:
    """Those of the configuration."""
    chosen = context.config.baselines or tuple(contest.BASELINES)
    return {name: contest.BASELINES[name] for name in chosen}


def specialised(context, name: str, task: str, ablation: str = "") -> learners.Trained:
    """A learned optimizer trained on one task."""
    return learners.attempts(context, name, {task: problems_of(context)[task]}, ablation)[-1]


def general(context, name: str) -> learners.Trained:
    """A learned optimizer trained on all tasks together."""
    return learners.attempts(context, name, problems_of(context))[-1]


def own(context, task: str) -> dict[str, contest.Entrant]:
    """L3RS, which the claims are about, and L3RS that averages no iterates."""
    found = {OURS: specialised(context, "l3rs", task).entrant()}
    if context.config.without_average:
        found[WITHOUT] = specialised(context, "l3rs", task, learners.WITHOUT_AVERAGE).entrant()
    return found


def learned(context, task: str) -> dict[str, contest.Entrant]:
    """L3RS and its rivals, trained on the task and on the mixture."""
    found = own(context, task)
    for name in context.config.rivals:
        found[f"{_LABELS[name]}, specialised"] = specialised(context, name, task).entrant()
        found[f"{_LABELS[name]}, general"] = general(context, name).entrant()
    return found


class Field:
    """All entrants on one problem at one horizon, tuned and raced."""

    def __init__(self, context, which: problems.Problem, entrants, horizon: int, unseen=False):
        """Runs what is not yet done; it may take minutes."""
        self.horizon, self.problem = horizon, which.name
        # Runs from one unseen network are no further evidence on unseen networks: means of them.
        self.groups = which.unseen if unseen else 0
        self.model = which.model
        self.tuned: dict[str, dict] = {}
        self.runs: dict[str, contest.Run] = {}
        self.by_hand = [name for name in entrants if name in contest.BASELINES]
        for name, entrant in entrants.items():
            contestant = contestant_of(context, name, entrant, which)
            self.tuned[name], self.runs[name] = contestant.result(horizon, unseen)

    def ends(self, name: str) -> np.ndarray:
        """Test losses at the end by image [R, N], or of unseen networks their means [P, N]."""
        ends = contest.ends(self.runs[name].images, self.model)
        return ends.reshape(-1, self.groups, ends.shape[-1]).mean(0) if self.groups else ends

    @property
    def best(self) -> str:
        """The hand-designed optimizer whose tuned loss on the runs of its tuning is least."""
        return min(self.by_hand, key=lambda name: float(self.tuned[name]["loss"]))

    def rows(self, first: str = OURS) -> list[dict]:
        """A row an entrant, the best first: losses, and the first entrant's over its own."""
        rows = []
        for name, run in self.runs.items():
            value, (low, high) = interval(self.ends(name))
            row: dict[str, Any] = {
                "optimizer": name + (" (best by hand)" if name == self.best else ""),
                "test loss": value, "95% low": low, "95% high": high,
                "accuracy": float(run.accuracy.mean()),
            }  # fmt: skip
            over, (low, high) = interval(self.ends(first), self.ends(name), statistic=ratio)
            row |= {f"{first} over it": None if name == first else over}
            row |= {"low": None if name == first else low, "high": None if name == first else high}
            tuned = self.tuned[name]
            free = not np.isnan(tuned["loss"])
            row["rate"] = float(tuned["rate"]) if free else None
            row["schedule"] = contest.SCHEDULES[int(tuned["schedule"])] if free else "its own"
            row["rate at the edge"] = "yes" if bool(tuned["edge"]) else ""
            rows.append(row)
        return sorted(rows, key=lambda row: row["test loss"])

    def curves(self) -> dict[str, np.ndarray]:
        """By entrant [2, E]: steps, and mean test losses."""
        found = {}
        for name, run in self.runs.items():
            E = run.losses.shape[1]
            steps = self.horizon * np.arange(1, E + 1) // E
            found[name] = np.stack([steps, run.losses.mean(0)])
        return found


_PROGRAMS: dict[Any, dict] = {}


def contestant_of(context, name: str, entrant, which: problems.Problem) -> contest.Contestant:
    """With the compiled programs of all like it: other horizons, other thetas."""
    programs = _PROGRAMS.setdefault((context, which.name, entrant.program or name), {})
    return contest.Contestant(context, which, name, entrant, programs)


def judged(claim: str, pairs: list, statistic) -> Measurement:
    """A claim that has to hold for every pair of samples."""
    if not pairs:
        return report.unjudged(claim, "what it compares with was left out")
    entry = next(entry for entry in CLAIMS if entry.id == claim)
    found = report.all_measured(entry, *[a for pair in pairs for a in pair], statistic=statistic)
    # One meta-training and many runs, though both are resampled with the test images.
    return dataclasses.replace(found, n_seeds=1, n_tasks=len(pairs[0][0]))


def _gathered(fields: dict[str, Field]) -> tuple[dict, dict]:
    tables = {label: field.rows() for label, field in fields.items()}
    arrays: dict[str, np.ndarray] = {}
    for field in fields.values():
        arrays |= {f"{field.problem}/{field.horizon}/{name}": curve
                   for name, curve in field.curves().items()}  # fmt: skip
    return tables, arrays


_NOTES = [
    "Every hand-designed optimizer is tuned for this task and horizon: "
    "rates a factor of two apart, further ones where the best is at an edge, with each of four "
    "schedules on few runs, the best of them on more, by the loss on data that the test has not. "
    "So are the rivals' rates; L3RS is taken as trained. Of each the first meta-training that did "
    "not fail (end with a larger meta-loss than it began with), of at most three.",
    "L3RS, no average, has momentum and a cosine in place of a mean of iterates; no claim is about "
    "it.",
    "Test runs are new starts of the head and new orders of batches, the same for all optimizers; "
    "intervals are over runs and over test images, both drawn anew.",
]


def in_distribution(context) -> StudyResult:
    """All optimizers at the horizon, on the tasks that the learned ones were trained for."""
    fields = {}
    for task, which in problems_of(context).items():
        entrants = hand_designed(context) | learned(context, task)
        fields[task] = Field(context, which, entrants, context.config.horizon)
    tables, arrays = _gathered(fields)
    tables["many passes over the same images"] = [
        _allowed(field, many_passes(context, problems_of(context)[task]))
        for task, field in fields.items()
    ]
    by_hand = [(f.ends(OURS), f.ends(f.best)) for f in fields.values()]
    claims = [judged("in_distribution.loss", by_hand, ratio)]
    for claim in ("general", "specialised"):
        if claim == "general" and len(fields) < 2:
            claims.append(report.unjudged("in_distribution.general", "one task is no mixture"))
            continue
        pairs = [(field.ends(f"{_LABELS[name]}, {claim}"), field.ends(OURS))
                 for field in fields.values() for name in context.config.rivals]  # fmt: skip
        claims.append(judged(f"in_distribution.{claim}", pairs, difference))
    notes = [*_NOTES, "Many passes over the images that each test run draws show what these allow. "
             "Optimizer, rate, weight decay and last step are tuned; no entrant of the contest: "
             "they take many more steps."]  # fmt: skip
    return StudyResult(claims, tables, arrays, notes)


def _allowed(field: Field, many: ManyPasses) -> dict:
    """A row of what the images allow, over the best by hand and L3RS over that."""
    ends = contest.ends(many.images, field.model)
    row: dict[str, Any] = {"task": field.problem, "by": many.optimizer, "rate": many.rate,
                           "weight decay": many.decay, "steps": many.steps,
                           "test loss": float(ends.mean())}  # fmt: skip
    for name, pair in (("over the best by hand", (ends, field.ends(field.best))),
                       (f"{OURS} over it", (field.ends(OURS), ends))):  # fmt: skip
        over, (low, high) = interval(*pair, statistic=ratio)
        row |= {name: over, f"{name}, low": low, f"{name}, high": high}
    return row


def new_initialisation(context) -> StudyResult:
    """The same from networks that nothing was trained or tuned on, without tuning anew."""
    fields = {}
    for task, which in problems_of(context).items():
        entrants = hand_designed(context) | learned(context, task)
        fields[task] = Field(context, which, entrants, context.config.horizon, unseen=True)
    tables, arrays = _gathered(fields)
    pairs = [(f.ends(OURS), f.ends(f.best)) for f in fields.values()]
    notes = ["Rates and schedules are those tuned on the known networks.", *_NOTES]
    claims = [judged("new_initialisation.loss", pairs, ratio)]
    return StudyResult(claims, tables, arrays, notes)


def new_dataset(context) -> StudyResult:
    """L3RS on other data than it was trained on, where the hand-designed ones are tuned."""
    fields, tables = {}, {}
    for task in problems_of(context):
        which = problems.problem(context, task, new_data=True)
        entrants = hand_designed(context) | learned(context, task)
        field = Field(context, which, entrants, context.config.horizon)
        label = f"{task}: {problems.SPECS[task].data} to {problems.NEW_DATA[task].data}"
        fields[label], tables[label] = field, field.rows()
    arrays = _gathered(fields)[1]
    pairs = [(f.ends(OURS), f.ends(f.best)) for f in fields.values()]
    notes = ["Hand-designed optimizers and the rivals' rates are tuned on the new data; "
             "what was learned was learned on the other.", *_NOTES]  # fmt: skip
    return StudyResult([judged("new_dataset.loss", pairs, ratio)], tables, arrays, notes)


def longer_horizon(context) -> StudyResult:
    """More steps than L3RS was trained for; the hand-designed ones are tuned for them."""
    config, fields = context.config, {}
    for times in config.longer:
        for task, which in problems_of(context).items():
            entrants = hand_designed(context) | own(context, task)
            fields[task, times] = Field(context, which, entrants, times * config.horizon)
    tables, arrays = _gathered({f"{task}, {times} times": f for (task, times), f in fields.items()})
    claims = []
    for claim, times in (("twice", 2), ("four_times", 4)):
        pairs = [(f.ends(OURS), f.ends(f.best)) for (_, t), f in fields.items() if t == times]
        claims.append(judged(f"longer_horizon.{claim}", pairs, ratio))
    low, high = config.meta_horizons
    notes = [f"While it learned, horizons were {low} to {high}. Its learned rivals are not raced "
             "here.", *_NOTES]  # fmt: skip
    return StudyResult(claims, tables, arrays, notes)
