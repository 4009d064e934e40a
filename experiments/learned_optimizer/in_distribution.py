"""Is L3RS better than tuned optimizers on the tasks that it was meta-trained for?

The abstract: it "significantly outperforms both traditional off-the-shelf methods such as Adam, as
well as existing general learned optimizers". As a yardstick, many passes over the images of each
fine-tuning show what these allow.

Dimension key: R runs, E evaluations along a run, C candidates, N test images.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.learned_optimizer import contest, races
from experiments.learned_optimizer.paper import paper
from experiments.learned_optimizer.problems import Problem, problems, slug, task_of
from experiments.learned_optimizer.races import BEST, OURS
from ico import lab, metatrain, models, optim, report

_TESTS = 20
_OPTIMIZERS = {"AdamW, cosine": ("adamw", 1), "schedule-free AdamW": ("schedule_free_adamw", 0)}
_RATES = 1e-3, 3e-3, 1e-2, 3e-2
_DECAYS = 0.01, 1.0  # over many passes it matters


@paper.study("Are they better than tuned hand-designed ones, where they were trained?")
def in_distribution(run):
    """A record an optimizer and task, and "many passes", one a task."""
    for task, problem in problems(run).items():
        yield from races.race(run, problem, races.entrants_for(run, task), run.config.horizon)
        yield many_passes(run, problem)


def many_passes(run: lab.Run, problem: Problem) -> lab.Record:
    """Trains on the images that each test run of the contest draws, again and again.

    Runs start as those of the test do. Optimizer, learning rate, weight decay and the step to stop
    at are chosen on other runs, by the loss on the images that the contest is tuned by.

    Returns:
      A record of what was chosen, with loss [R, N].
    """
    config = run.config
    every = max(config.passes * config.horizon // _TESTS, 1)
    candidates = list(itertools.product(_OPTIMIZERS, _RATES, _DECAYS))

    def trained(candidate, num_runs: int, label: str, images):
        name, rate, decay = candidate
        racer = run.once(
            ("many passes", problem.name, name),
            lambda: _racer(problem, name, config.horizon, config.side_by_side),
        )
        keys_R = jax.random.split(run.key(f"{problem.name}/{label}"), num_runs)
        settings = keys_R, jnp.arange(num_runs) % problem.known
        rates, kinds = np.full(num_runs, rate), np.full(num_runs, _OPTIMIZERS[name][1])
        return racer(rates, kinds, every * _TESTS, keys_R, settings, images, decay)

    def make(_):
        tuning = problem.known, "many passes", problem.valid
        losses_CE = np.stack([trained(one, *tuning)["loss"].mean(0) for one in candidates])
        losses_CE = np.nan_to_num(losses_CE, nan=np.inf)
        best, stop = np.unravel_index(losses_CE.argmin(), losses_CE.shape)
        outcome = trained(candidates[best], config.test_runs, "test", problem.test)
        loss = contest.final_losses(outcome["losses"][:, stop], problem)
        return {"loss": loss, "best": np.asarray(best), "steps": np.asarray((stop + 1) * every)}

    spec = {"problem": problem.spec, "horizon": config.horizon, "every": every}
    spec |= {"runs": config.test_runs, "candidates": candidates}
    found = run.kept(slug("many", problem.name), spec, make)
    name, rate, decay = candidates[int(found["best"])]
    chosen = {"rate": rate, "weight_decay": decay, "steps": int(found["steps"])}
    axes = {"task": problem.name, "optimizer": name, **chosen}
    return lab.record("many passes", **axes, loss=found["loss"])


def _racer(problem: Problem, name: str, horizon: int, side_by_side: int) -> metatrain.Racer:
    """Its settings are (key, network): the pool holds the images that a run of that key draws."""

    def task(setting):
        key, network = setting
        seen = metatrain.batches_of(task_of(problem, network), key, horizon)
        pool = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), seen)
        return task_of(problem._replace(train=pool), network)

    return metatrain.racer(
        lambda rate, _, decay: optim.make(
            _OPTIMIZERS[name][0], learning_rate=rate, weight_decay=decay
        ),
        task,
        functools.partial(models.measure_images, problem.model),
        num_tests=_TESTS,
        side_by_side=side_by_side,
    )


def _against_rivals(role: str):
    """How much more loss each rival of that role has than L3RS, on every task."""

    def measure(records):
        rivals = records.where(role=role)
        if not len(rivals):
            raise lab.Missing(f"this run has no {role} learned optimizers beside L3RS")
        ours = [records.one(task=one["task"], role=OURS) for one in rivals]
        pairs = [(a["loss"], b["loss"]) for a, b in zip(rivals, ours, strict=True)]
        rate = lab.Records([*rivals, *ours]).failure_rate()
        return lab.EveryPair(pairs, report.difference, failure_rate=rate, runs=True)

    return measure


in_distribution.claim(
    "loss",
    "On every task the learned optimizer ends below 0.85 times the loss of the best "
    "hand-designed one, tuned for task and horizon (the largest ratio)",
    "abstract; the band is ours",
    unit="ratio",
    band=(None, 0.85),
    kind="core",
    of=races.against_best(),
)
less_than_rivals = functools.partial(in_distribution.claim, unit="nats", band=(0.0, None))
less_than_rivals(
    "general",
    "And below the general learned optimizers, trained on the mixture of all tasks (the "
    "smallest difference)",
    "abstract",
    kind="core",
    of=_against_rivals("general"),
)
less_than_rivals(
    "specialised",
    "And below those when they were trained on the task itself, for as many inner steps (the "
    "smallest difference)",
    "abstract; the comparison is ours",
    kind="ours",
    of=_against_rivals("specialised"),
)


@in_distribution.table("many passes over the same images")
def _(records):
    rows = []
    for many in records["many passes"]:
        here, loss = records[""].where(task=many["task"]), many["loss"]
        row = dict(many.axes) | {"test loss": float(loss.mean())}
        row |= races.over("over the best by hand", loss, here.one(role=BEST)["loss"])
        row |= races.over(f"{OURS} over it", here.one(role=OURS)["loss"], loss)
        rows.append(row)
    return rows


races.show_races(
    in_distribution,
    "Mean test losses along fine-tunings at the horizon; L3RS is drawn in thick lines.",
    "Many passes over the images that each test run draws show what these allow. Optimizer, "
    "learning rate, weight decay and last step are tuned; it is no entrant of the contest, since "
    "it takes many more steps.",
)
