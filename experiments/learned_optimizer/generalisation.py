"""Is L3RS better beyond what it was meta-trained for: new networks, new data, longer fine-tunings?

The abstract: "robust generalization with respect to model initialization, evaluating on unseen
datasets, and training durations beyond its meta-training horizon".
"""

from typing import Any

from experiments.learned_optimizer.paper import paper
from experiments.learned_optimizer.problems import SPECS, problem, problems
from experiments.learned_optimizer.races import against_best, entrants_for, race, show_races


@paper.study("And from networks pretrained with other seeds?")
def new_initialisation(run):
    """A record an optimizer and task; losses are [P, N], a row a network."""
    for task, of in problems(run).items():
        yield from race(run, of, entrants_for(run, task), run.config.horizon, unseen=True)


@paper.study("And on data that they were not trained on?")
def new_dataset(run):
    """A record an optimizer and task, on other data than that of the task."""
    for task in run.config.tasks:
        of, horizon = problem(run, task, new_data=True), run.config.horizon
        title = f"{task}: {SPECS[task].data} to {SPECS[task].new_data}"
        yield from race(run, of, entrants_for(run, task), horizon, title=title)


@paper.study("And for more steps than they were trained for?")
def longer_horizon(run):
    """A record an optimizer, task and horizon, `times` as long as the configuration's."""
    for times in run.config.longer:
        for task, of in problems(run).items():
            entrants, horizon = entrants_for(run, task, rivals=False), times * run.config.horizon
            yield from race(run, of, entrants, horizon, times=times)
    low, high = run.config.meta_horizons
    run.note(f"While it was meta-trained, horizons were {low} to {high}.")


_SETTINGS: dict[str, Any] = {
    "source": "abstract; the band is ours",
    "unit": "ratio",
    "kind": "core",
}
new_initialisation.claim(
    "loss",
    "So it does from networks of unseen pretraining seeds (the largest ratio)",
    band=(None, 0.85),
    of=against_best(),
    **_SETTINGS,
)
_SETTINGS["band"] = (None, 1.0)
new_dataset.claim(
    "loss",
    "On a data set that it was not trained on it is no worse than the best hand-designed "
    "optimizer, tuned there (the largest ratio)",
    of=against_best(),
    **_SETTINGS,
)
longer_horizon.claim(
    "twice",
    "Nor for twice as many steps as it was trained for, against optimizers tuned for them (the "
    "largest ratio)",
    of=against_best(times=2),
    **_SETTINGS,
)
_FOUR = "Nor for four times as many (the largest ratio)"
longer_horizon.claim("four_times", _FOUR, of=against_best(times=4), **_SETTINGS)
show_races(
    new_initialisation,
    "Mean test losses along fine-tunings of networks with unseen pretraining seeds.",
    "Learning rates and schedules are those tuned on the known networks.",
)
show_races(
    new_dataset,
    "Mean test losses along fine-tunings on data that no optimizer was meta-trained on.",
    "Hand-designed optimizers and the rivals' learning rates are tuned on the new data; what was "
    "learned was learned on the other.",
)
show_races(
    longer_horizon,
    "Mean test losses along longer fine-tunings.",
    "The learned rivals of L3RS are not raced here.",
)
