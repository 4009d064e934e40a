"""Full models, which must build their own tokens, on three tasks and two controls.

Dimension key: S seeds, B sequences, T positions, D inputs, F features.
"""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mesa_optimization import training as tr
from experiments.mesa_optimization.constructed import least_squares_losses, loss_rows
from ico import tasks
from ico.layers import ChebyshevSteps, chebyshev_queries, linear_attention
from ico.models import SequenceTransformer
from ico.report import StudyResult, difference, measured, unjudged

# Width of the tokens, of the MLPs, and whether keys and queries have length one, by task.
_SHAPES: dict[str, dict[str, Any]] = {
    "linear": {"embed_dim": 40},
    "partial": {"embed_dim": 80},
    "nonlinear": {"embed_dim": 60, "mlp_dim": 300, "normalise": True},
    "contracting": {"embed_dim": 40},
    "fixed": {"embed_dim": 40},
}
# Stacks of linear layers overflow without (the authors clip theirs on constructed tokens).
_CLIP = 4.0
_WINDOW = 8  # observations that stand for a hidden state in the explicit algorithms


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


def train_full(context, model: str, task_name: str = "linear", length: int = 0) -> tr.Trained:
    """Trains a full model for every seed, or finds it trained.

    Args:
      context: of the run.
      model: "softmax", "softmax, linear" or "softmax, mesa".
      task_name: of the system.
      length: of the sequences; 0 is that of the configuration.
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
    if length or task_name != "linear":
        steps = config.other_steps
    batch = config.long_batch if length else config.batch_size
    rate = config.hybrid_learning_rate if "mesa" in model else config.full_learning_rate
    name = f"full-{task_name}-{model.replace(', ', '-')}" + (f"-{length}" if length else "")
    recipe = tr.Recipe(steps, batch, rate)
    return tr.train_on_dynamics(context, name, built, task, recipe)


def held_out(context, task_name: str, name: str = "test", length: int = 0):
    """Sequences that no model was trained on."""
    task = dataclasses.replace(
        task_of(context, task_name), batch_size=context.config.eval_sequences
    )
    task = dataclasses.replace(task, num_steps=length or context.config.length)
    return tr.draw_jit(context.key(f"full/{task_name}/{name}"), task, False)


# Explicit algorithms ------------------------------------------------------------------------------


def features(x_BTO, task: tasks.Dynamics):
    """What least squares works on: the state, a window of observations, or the true features."""
    if task.num_observed:
        late = [jnp.pad(x_BTO[:, : x_BTO.shape[1] - w], ((0, 0), (w, 0), (0, 0)))
                for w in range(min(_WINDOW, x_BTO.shape[1]))]  # fmt: skip
        return jnp.concatenate(late, axis=-1)
    return tasks.dynamics_network(task)(x_BTO) if task.nonlinear else x_BTO


def preconditioned_step(params, x_BTF, y_BTO):
    """Proposition 2: queries preconditioned by learned Chebyshev steps, then one gradient step.

    Args:
      params: rate [S, 1] and reg [1] as logarithms, momentum [S, 1], scale [].
      x_BTF: features at every position; the pair at t is (features at t - 1, vector at t).
      y_BTO: the vectors themselves.
    """
    before = jnp.pad(x_BTF[:, :-1], ((0, 0), (1, 0), (0, 0)))[:, :, None]
    steps = ChebyshevSteps(jnp.exp(params["rate"]), params["momentum"])
    chunk = x_BTF.shape[1]
    query = chebyshev_queries(x_BTF[:, :, None], before, reg=jnp.exp(params["reg"]), steps=steps,
                              chunk_size=chunk)  # fmt: skip
    o = cast(jax.Array, linear_attention(query, before, y_BTO[:, :, None], chunk_size=chunk))
    return params["scale"] * o[:, :, 0]


def train_proposition(context, task_name: str) -> tr.Trained:
    """Learns the coefficients of Proposition 2's algorithm; a step for each layer but the last."""
    config, task = context.config, task_of(context, task_name)
    recipe = tr.Recipe(config.scalar_steps, config.batch_size, 3e-3, weight_decay=0.0)
    task = tr.sized(task, recipe.batch_size)
    num_steps = max(config.full_depth - 1, 1)

    def init(key):
        del key
        return {"rate": jnp.full((num_steps, 1), -3.0), "momentum": jnp.full((num_steps, 1), 0.2),
                "reg": jnp.zeros(1), "scale": jnp.ones(())}  # fmt: skip

    return tr.train_seeds(
        context, f"proposition-{task_name}", None, init, _proposition_loss(task),
        functools.partial(tr.draw, task=task, constructed=False), recipe,
        {"task": task, "steps": num_steps, "window": _WINDOW},
    )  # fmt: skip


@functools.lru_cache(maxsize=16)
def _proposition_loss(task):
    def loss(params, batch):
        x = batch.inputs
        prediction = preconditioned_step(params, features(x, task), x)
        return jnp.mean(tasks.half_squared_error(prediction, batch.targets)), {}

    return loss


def proposition_losses(context, task_name: str, test) -> np.ndarray:
    """Losses [S, B, T]."""
    trained, task = train_proposition(context, task_name), task_of(context, task_name)
    x = features(test.inputs, task)

    @jax.jit
    def losses(params):
        with jax.default_matmul_precision("highest"):
            error = preconditioned_step(params, x, test.inputs) - test.targets
        return 0.5 * jnp.sum(error**2, axis=-1)

    return np.stack(
        [np.asarray(losses(tr.one(trained, s))) for s in range(len(trained.params["reg"]))]
    )


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
            losses["Proposition 2"] = proposition_losses(context, task_name, test)
        least, _ = explicit_least_squares(task, test, other)
        losses["least squares"] = least[None]
        found[task_name] = losses
        tables[f"{task_name} system"] = loss_rows(losses)
        arrays |= {f"{task_name}/{name}": loss.mean((0, 1)) for name, loss in losses.items()}
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
    notes = [
        "Least squares and Proposition 2 are given what the models have to find: the state, a "
        f"window of {_WINDOW} observations, or the true nonlinear features. Least squares has the "
        "regulariser that is best for other sequences.",
        "On one fixed system nothing has to be learned in context: the control.",
    ]
    return StudyResult(claims, tables, arrays, notes)


def explicit_least_squares(task, test, other) -> tuple[np.ndarray, float]:
    """Losses [B, T] of least squares on the task's features, and the inverse regulariser."""
    return least_squares_losses(
        features(test.inputs, task), test.targets, features(other.inputs, task), other.targets,
        test.inputs, other.inputs,
    )  # fmt: skip
