"""The learned optimizers of the contest and their meta-training.

All are meta-trained by the same estimator for the same number of inner steps.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.learned_optimizer import problems
from experiments.learned_optimizer.problems import Problem
from ico import lab, metatrain, optim
from ico.files import check_fields, parse_json, read_text
from ico.metatrain import Entrant, MetaTrained

OURS, NO_AVERAGE, MIXTURE = "L3RS", "no average", "the mixture"
RIVALS = {"adafac_mlp": "AdafacMLP", "direction_mlp": "direction MLP"}
# What is left out of L3RS or put in place of a part, one at a time: changes of the settings of
# `ico.optim.L3RS`. Without momentum Adam is RMSprop.
ABLATIONS: dict[str, dict[str, Any]] = {
    "SGD alone": {"base_optimizers": ("sgd",)},
    "RMSprop alone": {"base_optimizers": ("rmsprop",)},
    "an even mix": {"fixed_mix": True},
    "one step for all layers": {"shared_learning_rate": True},
    "no time": {"use_time": False},
    "no loss": {"use_loss": False},
    "no embedding": {"universal": True},
    "one layer for all": {"group": lambda path: "all"},
    "a cosine": {"anneal": True},
    "one step for all horizons": {"use_horizon": False},
    "no fading": {"fade": False},
    NO_AVERAGE: {"average": False},
    "no average, SGD alone": {"average": False, "base_optimizers": ("sgd",)},
    "no average, Adam alone": {"average": False, "base_optimizers": ("adam",)},
}
_DIRECTION_RATE = 3e-3  # while it is meta-trained; in the contest the learning rate is tuned
# Middles of the grids of learning rates; that of AdafacMLP is a factor on its updates.
_RATES = {"l3rs": 0.0, "adafac_mlp": 1.0, "direction_mlp": 1e-3}
_VERSION = 3  # of the learned optimizers: to be raised with them, or old results would be found


def entrant(trained: MetaTrained, role: str) -> Entrant:
    """As it enters the contest: of L3RS nothing is tuned, of its rivals the learning rate."""
    learner = trained.learned.learner
    build, program = functools.partial(_build, learner), (learner.name, trained.variant)
    theta, rate = trained.learned.theta, _RATES[learner.name]
    return Entrant(build, rate, theta, program, role, trained.failure_rate)


def _build(learner: optim.LearnedOptimizer, rate, horizon, theta):
    if learner.name == "l3rs":
        return learner.build(theta, horizon)
    return optim.make(learner.name, theta=theta, learning_rate=rate)


class _Direction(optim.LearnedOptimizer):
    """The learned direction, with a learning rate for its meta-training that falls by a cosine."""

    def build(self, theta, num_steps):
        return optim.direction_mlp(theta, metatrain.schedule(1, _DIRECTION_RATE, num_steps))


def learner_of(name: str, ablation: str = "") -> optim.LearnedOptimizer:
    """A learned optimizer before its meta-training.

    Args:
      name: "l3rs", which averages its iterates as schedule-free optimizers do, or one of RIVALS.
      ablation: of L3RS: one of ABLATIONS, or "" for none.
    """
    changes = {"average": True} | ABLATIONS.get(ablation, {}) if name == "l3rs" else {}
    plain = optim.learned(name, **changes)
    return _Direction(*plain) if name == "direction_mlp" else plain


def specialised(run: lab.Run, name: str, task: str, ablation: str = "") -> MetaTrained:
    """A learned optimizer meta-trained on one task: the one that races."""
    return attempts(run, name, {task: problems.problem(run, task)}, ablation)[-1]


def general(run: lab.Run, name: str) -> MetaTrained:
    """A learned optimizer meta-trained on all tasks together: the one that races."""
    return attempts(run, name, problems.problems(run))[-1]


def attempts(
    run: lab.Run, name: str, on: Mapping[str, Problem], ablation: str = ""
) -> list[MetaTrained]:
    """`ico.metatrain.attempts`; the last of the list races.

    If there is no ablation that is saved for `ico.optim.load`, in the run's folder "optimizers".
    Arguments as of `meta_train`.
    """
    found = metatrain.attempts(lambda draw: meta_train(run, name, on, ablation, draw))
    if not ablation:
        folder = run.directory / "optimizers" / problems.slug(name, trained_on(on))
        about = {"problems": [problems.SPECS[task]._asdict() for task in on], "seed": run.seed}
        about |= {"inner_steps": found[-1].inner_steps, "draw": found[-1].draw}
        about |= {"horizons": run.config.meta_horizons, "estimator": run.config.estimator}
        found[-1].learned.save(folder, run.config.horizon, about)
    return found


def trained_on(on: Mapping[str, Problem]) -> str:
    """The name of the task, or of the mixture of several."""
    return MIXTURE if len(on) > 1 else next(iter(on))


def meta_train(
    run: lab.Run, name: str, on: Mapping[str, Problem], ablation: str = "", draw: int = 0
) -> MetaTrained:
    """Meta-trains an optimizer, or finds it trained.

    Args:
      run: the run.
      name: "l3rs" or one of RIVALS.
      on: task -> its problem: one, or several for a general optimizer.
      ablation: of L3RS: one of ABLATIONS, or "".
      draw: one of several meta-trainings that differ in their random keys alone.
    """
    learner, meta = learner_of(name, ablation), _meta_config(run.config, name, len(on))
    label = problems.slug(name, trained_on(on), ablation, str(draw or ""))

    def make(folder: Path):
        learned = metatrain.meta_train(
            [problems.family(problem) for problem in on.values()],
            learner,
            meta,
            run.key(f"meta/{name}/{trained_on(on)}/{draw}"),
            directory=folder,
            label=f"meta-training {label}",
            progress=run.progress,
        )
        log = folder / "metrics.jsonl"
        last = check_fields(
            parse_json(read_text(log).splitlines()[-1], log), log, {"seconds": float}
        )
        seconds = np.asarray(last["seconds"])
        return {"theta": learned.theta, "history": learned.history, "seconds": seconds}

    spec = {"on": [problem.spec for problem in on.values()], "draw": draw, "version": _VERSION}
    spec |= {"learner": name, "ablation": ablation, "meta": meta}
    found = run.kept(f"meta-{label}", spec, make)
    learned = metatrain.Learned(learner, found["theta"], found["history"])
    inner_steps = meta.inner_steps * len(on)
    return MetaTrained(learned, ablation, draw, float(found["seconds"]), inner_steps)


def _meta_config(config, name: str, num_problems: int) -> metatrain.MetaConfig:
    """The same number of inner steps in all, on one problem or on several."""
    num_tasks = max(config.meta_tasks // num_problems, 1)
    estimator = metatrain.Estimator(
        config.estimator, num_tasks, config.sigma, config.truncation, config.meta_loss, "clipped"
    )
    rates = {"adafac_mlp": config.adafac_rate, "direction_mlp": config.direction_rate}
    return metatrain.MetaConfig(
        config.meta_steps,
        config.meta_horizons,
        estimator=estimator,
        learning_rate=rates.get(name, config.meta_rate),
        steps_per_call=max(1, min(20, config.meta_steps)),
    )
