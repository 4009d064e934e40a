"""Meta-training the optimizers of the contest, each an artefact found again.

All are trained by the same estimator for as many inner steps.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.launch import Context
from experiments.learned_optimizer import contest, problems
from experiments.learned_optimizer.problems import Problem
from ico import metatrain, optim, train

GENERAL = "the mixture"
_ATTEMPTS = 3  # meta-trainings of each optimizer, where the first ones fail
_DIRECTION_RATE = 3e-3  # while it learns; when it is used the rate is tuned
_VERSION = 3  # of the learned optimizers' own constants: a change must not find old thetas
# L3RS of the contest takes a mean of its iterates, as schedule-free optimizers do, in place of
# momentum and cosine.
_L3RS: dict[str, Any] = {"average": True}
_WITHOUT_AVERAGE: dict[str, Any] = {"average": False}
WITHOUT_AVERAGE = "no average"
# What is left out, or put in place of what, one at a time; see `ico.optim.L3RS`. Without momentum
# Adam is RMSprop.
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
    WITHOUT_AVERAGE: _WITHOUT_AVERAGE,
    "no average, SGD alone": _WITHOUT_AVERAGE | {"base_optimizers": ("sgd",)},
    "no average, Adam alone": _WITHOUT_AVERAGE | {"base_optimizers": ("adam",)},
}


class Trained(NamedTuple):
    """A learned optimizer, what it depends on, and what its training cost."""

    learner: optim.LearnedOptimizer
    theta: Any
    spec: dict
    losses: np.ndarray  # the meta-loss, means over compiled calls
    steps: np.ndarray  # outer steps done at the end of each
    seconds: float
    inner_steps: float

    @property
    def meta_loss(self) -> float:
        """Over the last tenth of the meta-training."""
        return float(self.losses[-max(len(self.losses) // 10, 1) :].mean())

    @property
    def failed(self) -> bool:
        """Whether it ended with a larger meta-loss than it began with, or with none."""
        return not self.meta_loss <= self.losses[: max(len(self.losses) // 10, 1)].mean()

    def entrant(self) -> contest.Entrant:
        """For the contest."""
        if self.learner.name == "direction_mlp":
            return contest.direction_entrant(self.theta, self.spec)
        if self.learner.name == "adafac_mlp":
            return contest.adafac_entrant(self.theta, self.spec)
        program = self.learner.name, self.spec["ablation"]
        return contest.learned_entrant(self.learner, self.theta, self.spec, program)


def learner_of(name: str, ablation: str = "") -> optim.LearnedOptimizer:
    """One that has not learned yet. The direction's rate while it learns falls by a cosine."""
    if name == "direction_mlp":
        return _Direction(*optim.learned(name))
    if name != "l3rs":
        return optim.learned(name)
    return optim.learned(name, **_settings(ablation))


def _settings(ablation: str) -> dict[str, Any]:
    """Of L3RS, of its theta's start too."""
    return _L3RS | (ABLATIONS[ablation] if ablation else {})


class _Direction(optim.LearnedOptimizer):
    """The learned direction with a rate to learn by: the user's, tuned, when it is used."""

    def build(self, theta, num_steps):
        return optim.direction_mlp(theta, contest.schedule(1, _DIRECTION_RATE, num_steps))


def attempts(
    context: Context, name: str, tasks: dict[str, Problem], ablation: str = ""
) -> list[Trained]:
    """Meta-trainings until one does not fail; the last races, as `ico.optim.load` finds it.

    The same rule for all learned optimizers. Where all fail the one with the least meta-loss
    stands last. Arguments as of `meta_trained`.
    """
    found: list[Trained] = []
    while not found or (found[-1].failed and len(found) < _ATTEMPTS):
        found.append(meta_trained(context, name, tasks, ablation, len(found)))
    if found[-1].failed:
        found.sort(key=lambda trained: -np.nan_to_num(trained.meta_loss, nan=np.inf))
    if not ablation:
        _save(context, found[-1], tasks)
    return found


def _save(context: Context, trained: Trained, tasks: dict[str, Problem]) -> None:
    learner, config = trained.learner, context.config
    horizon = {"num_steps": config.horizon} if learner.name == "l3rs" else {}
    label = "-".join([learner.name, _on(tasks)]).replace(", ", "-").replace(" ", "-")
    optim.save(context.directory / "optimizers" / label, learner.name, trained.theta,
               learner.settings | horizon,
               {"problems": [dataclasses.asdict(problems.SPECS[task]) for task in tasks],
                "inner_steps": trained.inner_steps, "horizons": config.meta_horizons,
                "estimator": config.estimator, "seed": context.seed,
                "draw": trained.spec["draw"]})  # fmt: skip


def _on(tasks) -> str:
    return GENERAL if len(tasks) > 1 else next(iter(tasks))


def meta_trained(
    context: Context, name: str, tasks: dict[str, Problem], ablation: str = "", draw: int = 0
) -> Trained:
    """Meta-trains an optimizer on problems, or finds it trained.

    Args:
      context: of the run.
      name: as `ico.optim.learned` knows it.
      tasks: one problem, or several for a general optimizer.
      ablation: of L3RS, a word of ABLATIONS, or none.
      draw: one of several meta-trainings that differ by chance alone.
    """
    config = context.config
    learner = learner_of(name, ablation)
    families = [problems.family(which) for which in tasks.values()]
    # As many inner steps in all, on however many problems they are spent.
    estimator = metatrain.Estimator(
        config.estimator, max(config.meta_tasks // len(families), 1), config.sigma,
        config.truncation, config.meta_loss, "clipped",
    )  # fmt: skip
    rates = {"l3rs": config.meta_rate, "adafac_mlp": config.adafac_rate,
             "direction_mlp": config.direction_rate}  # fmt: skip
    meta = metatrain.MetaConfig(
        config.meta_steps, config.meta_horizons, 0.0, estimator, rates[name],
        steps_per_call=max(1, min(20, config.meta_steps)),
    )  # fmt: skip
    on = _on(tasks)
    spec = {"learner": name, "ablation": ablation, "on": list(tasks), "meta": meta,
            "problems": config.problem_settings(), "seed": context.seed,
            "draw": draw, "version": _VERSION,
            "settings": {key: value for key, value in _settings(ablation).items()
                         if name == "l3rs" and not callable(value)}}  # fmt: skip
    label = "-".join(word for word in (name, on, ablation, str(draw or "")) if word)
    label = label.replace(", ", "-").replace(" ", "-")
    directory = train.artifact_directory(context.directory / "checkpoints", f"meta-{label}", spec)
    found: Any = train.load_artifact(directory)
    if found is None:
        result = metatrain.meta_train(
            families, learner, meta, context.key(f"meta/{name}/{on}/{draw}"),
            directory=directory,
            label=f"meta-training {label}", progress=context.progress,
        )  # fmt: skip
        found = {
            "theta": jax.tree.map(np.asarray, result.theta),
            "losses": np.asarray(result.history["loss"]),
            "steps": np.asarray(result.history["step"]),
            "seconds": np.asarray(_seconds(directory)),
        }
        train.save_artifact(directory, found)
        found = train.load_artifact(directory)  # rounded alike, whether found or made
    seconds, steps = float(np.asarray(found["seconds"])), meta.inner_steps * len(families)
    return Trained(
        learner,
        found["theta"],
        spec,
        np.asarray(found["losses"]),
        np.asarray(found["steps"]),
        seconds,
        steps,
    )


def _seconds(directory: Path) -> float:
    """What the training took, all its parts."""
    return json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
