"""Full models, which must build their own tokens, on three tasks and two controls.

Dimension key: S seeds, B sequences, T positions, D inputs.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments.mesa_optimization import explicit
from experiments.mesa_optimization import training as tr
from experiments.mesa_optimization.constructed import loss_rows
from ico import tasks
from ico.models import SequenceTransformer
from ico.report import StudyResult, difference, interval, measured, unjudged

# Width of the tokens, of the MLPs, and whether keys and queries have length one, by task.
_SHAPES: dict[str, dict[str, Any]] = {
    "linear": {"embed_dim": 40},
    "partial": {"embed_dim": 80},
    "nonlinear": {"embed_dim": 60, "mlp_dim": 300, "normalise": True},
    "contracting": {"embed_dim": 40},
    "fixed": {"embed_dim": 40},
}
_DEPTH = 7  # that the claims name
_WORDS = {"linear": "new systems", "fixed": "one system"}
# Stacks of linear layers overflow without (the authors clip theirs on constructed tokens).
_CLIP = 4.0


def task_of(context, name: str) -> tasks.Dynamics:
    """One of the paper's systems."""
    config = context.config
    whole = tasks.Dynamics(1, config.length, config.dim)
    return {
        "linear": whole,
        "partial": dataclasses.replace(whole, num_hidden=3 * config.dim // 2,
                                       num_observed=max(config.dim // 2, 1)),
        "nonlinear": dataclasses.replace(whole, nonlinear=True),
        "contracting": dataclasses.replace(whole, transition="contracting"),
        "fixed": dataclasses.replace(whole, fixed=True),
    }[name]  # fmt: skip


def kinds_of(config, model: str) -> tuple:
    """The layers of a model by its name."""
    return {
        "softmax": ("softmax",) * config.full_depth,
        "softmax, linear": ("softmax", *["linear"] * (config.full_depth - 1)),
        "softmax, mesa": ("softmax", "mesa"),
    }[model]


def train_full(
    context, model: str, task_name: str = "linear", length: int = 0, short: bool = False
) -> tr.Trained:
    """Trains a full model for every seed, or finds it trained.

    Args:
      context: of the run.
      model: "softmax", "softmax, linear" or "softmax, mesa".
      task_name: of the system.
      length: of the sequences; 0 is that of the configuration.
      short: whether with the steps and batches of systems other than the linear one.
    """
    config, task = context.config, task_of(context, task_name)
    task = dataclasses.replace(task, num_steps=length or config.length)
    width = task.num_observed or task.num_hidden
    built = SequenceTransformer(
        kinds_of(config, model), width, width, num_heads=4, head_dim=2 * config.dim,
        position_dim=40, chunk_size=64 if length else config.length,
        token_clip=_CLIP if "linear" in model else 0.0, **_SHAPES[task_name],
    )  # fmt: skip
    steps = config.hybrid_steps if "mesa" in model else config.full_steps
    if short or task_name != "linear":
        steps = config.other_steps
    steps = config.long_steps if length else steps
    batch = config.other_batch if short or task_name != "linear" else config.batch_size
    batch = config.long_batch if length else batch
    rate = config.hybrid_learning_rate if "mesa" in model else config.full_learning_rate
    name = f"full-{task_name}-{model.replace(', ', '-')}" + (f"-{length}" if length else "")
    name += "-short" if short and task_name == "linear" else ""
    recipe = tr.Recipe(steps, batch, rate)
    return tr.train_on_dynamics(context, name, built, task, recipe)


def held_out(context, task_name: str, name: str = "test", length: int = 0):
    """Sequences that no model was trained on."""
    task = dataclasses.replace(
        task_of(context, task_name), batch_size=context.config.eval_sequences
    )
    task = dataclasses.replace(task, num_steps=length or context.config.length)
    return tr.draw_jit(context.key(f"full/{task_name}/{name}"), task, False)


# The study ----------------------------------------------------------------------------------------


def model_comparison(context) -> StudyResult:
    """All models on all systems; and on contracting ones and on one fixed system, the hybrid."""
    config = context.config
    tables, arrays, found = {}, {}, {}
    for task_name in config.systems:
        task, test = task_of(context, task_name), held_out(context, task_name)
        other = held_out(context, task_name, "regulariser")
        losses = {}
        for model in config.models_on(task_name):
            losses[model] = tr.losses(train_full(context, model, task_name), test)
        if task_name not in ("contracting", "fixed"):
            start = explicit.known_in_advance(task, other, max(config.full_depth - 1, 1))
            learned = explicit.train_proposition(context, task_name, task, start)
            known = tr.Trained(None, jax.tree.map(lambda leaf: leaf[None], start))
            for name, which in (("Proposition 2", learned), ("Proposition 2, start", known)):
                losses[name] = explicit.proposition_losses(which, task, test)
        least, _ = explicit_least_squares(task, test, other)
        losses["least squares"] = least[None]
        found[task_name] = losses
        tables[f"{task_name} system"] = loss_rows(losses, config.dim)
        arrays |= {f"{task_name}/{name}": loss.mean((0, 1)) for name, loss in losses.items()}
    if {"linear", "fixed"} <= set(found) and "softmax, mesa" in found["linear"]:
        tables["control"] = _control(context)
    last = {name: loss[..., -1] for name, loss in found.get("linear", {}).items()}
    claims = [
        measured(f"model_comparison.{claim}", last[model], last["softmax, mesa"],
                 statistic=difference)
        for claim, model in (("hybrid_linear", "softmax, linear"), ("hybrid_softmax", "softmax"))
        if model in last and "softmax, mesa" in last
    ]  # fmt: skip
    claims += [
        unjudged(f"model_comparison.{claim}", "a model that it is about was not trained")
        for claim, model in (("hybrid_linear", "softmax, linear"), ("hybrid_softmax", "softmax"))
        if model not in last or "softmax, mesa" not in last
    ]
    linear, hybrid = (last.get(name) for name in ("softmax, linear", "softmax, mesa"))
    claims.append(
        unjudged("model_comparison.hybrid_mostly", "a model that it is about was not trained")
        if linear is None or hybrid is None
        else measured("model_comparison.hybrid_mostly", (hybrid < linear).astype(float))
    )
    if config.full_depth != _DEPTH:
        claims = [unjudged(c.claim, f"the claim is about {_DEPTH} layers") for c in claims]
    notes = [
        "Least squares and Proposition 2 are given what the models have to find: the state, a "
        f"window of {explicit.WINDOW} observations, or the true nonlinear features. Least squares "
        "has the regulariser that is best for other sequences.",
        "Proposition 2, start: coefficients by Chebyshev's polynomials for the spectrum of other "
        "sequences, at the best of some regularisers. From there they are learned.",
        "On one fixed system nothing has to be learned in context: the control, in which the "
        "hybrid is tested on the systems that it was not trained on, too; there it has the "
        "steps and batches of the other systems. Intervals are over sequences of that one system.",
    ]
    return StudyResult(claims, tables, arrays, notes)


def explicit_least_squares(task, test, other) -> tuple[np.ndarray, float]:
    """Losses [B, T] of least squares on the task's features, and the inverse regulariser."""
    x, other_x = (explicit.features(s.inputs, task) for s in (test, other))
    return explicit.least_squares_losses(
        x, test.targets, other_x, other.targets, test.inputs, other.inputs
    )


def _control(context) -> list[dict]:
    """The hybrid trained alike on new systems and on one, each tested on both."""
    rows = []
    for trained_on in ("linear", "fixed"):
        trained = train_full(context, "softmax, mesa", trained_on, short=True)
        for tested_on in ("linear", "fixed"):
            loss = tr.losses(trained, held_out(context, tested_on))
            value, (low, high) = interval(loss.mean(-1))
            rows.append({
                "trained on": _WORDS[trained_on], "tested on": _WORDS[tested_on],
                "mean loss": value, "95% low": low, "95% high": high,
                "first position": float(loss[..., 0].mean()),
                "last position": float(loss[..., -1].mean()),
            })  # fmt: skip
    return rows
