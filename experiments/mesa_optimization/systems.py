"""Dynamical systems, the models of them that several studies share, and their losses.

Dimension key: S seeds, B sequences, T positions, L layers, E token width.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from ico import algorithms, lab, models, tasks
from ico.models import MixerKind, SequenceTransformer
from ico.types import Sequence

LOSS = "half squared error"
# Clips of tokens after every layer. One layer is compared with algorithms that clip nothing, and
# would be better than they are with 1.5, the clip that the newer of the authors' configurations has
# for two layers. Stacks of layers train worse with 4. Depth is judged with one clip for all.
CLIP_ONE, CLIP_DEEP = 4.0, 1.5
# Stacks of linear layers overflow without (the authors clip theirs on constructed tokens).
_CLIP_FULL = 4.0
# Width of the tokens, of the MLPs, and whether keys and queries have length one, by system.
_SHAPES: dict[str, dict[str, Any]] = {
    "partial": {"embed_dim": 80},
    "nonlinear": {"embed_dim": 60, "mlp_dim": 300, "normalise": True},
}

CHOOSE = 500  # sequences that coefficients of explicit algorithms are chosen on

# Systems and sequences ----------------------------------------------------------------------------


def system(config: Any, name: str = "linear", count: int = 1, length: int = 0) -> tasks.Dynamics:
    """One of the paper's systems: `count` sequences, of the configuration's length if 0."""
    changes: dict[str, dict[str, Any]] = {
        "linear": {},
        "partial": {"num_hidden": 3 * config.dim // 2, "num_observed": max(config.dim // 2, 1)},
        "nonlinear": {"nonlinear": True},
        "contracting": {"transition": "contracting"},
        "fixed": {"fixed": True},
    }
    whole = tasks.Dynamics(count, length or config.length, config.dim)
    return dataclasses.replace(whole, **changes[name])


def draw(key, *given, task: tasks.Dynamics, constructed: bool = False) -> Sequence:
    """Sequences, whatever is `given`; as constructed tokens (0, x_t, x_t, x_{t-1}) if asked."""
    sequence = tasks.dynamics(key, task).sequence
    if constructed:
        sequence = sequence._replace(inputs=tasks.constructed_tokens(sequence.inputs))
    return sequence


draw_jit = jax.jit(draw, static_argnames=("task", "constructed"))


def held_out(run: lab.Run, name: str, system_name: str = "") -> Sequence:
    """Sequences that no model was trained on, different ones for every name.

    Args:
      run: of the studies.
      name: such as "test" or "probe".
      system_name: for full models; "" are constructed tokens of the linear system.
    """
    task = system(run.config, system_name or "linear", run.config.eval_sequences)
    stream = f"full/{system_name}/{name}" if system_name else name
    return draw_jit(run.key(stream), task=task, constructed=not system_name)


# Training -----------------------------------------------------------------------------------------


def recipe(
    num_steps: int, learning_rate: float, weight_decay: float = 0.05, **more: Any
) -> lab.Recipe:
    """AdamW with warm-up and a cosine to a hundredth.

    The paper: AdamW (b2 .999) at 1e-4 without schedule on constructed tokens (mesa 4e-4), weight
    decay 0.1, 5,000 to 15,000 steps; full models warm up 1,000 steps to 7e-4 or 8e-4, weight decay
    0.05, 10,000 steps; gradients are clipped elementwise at one in the code. Here gradients are
    clipped by their norm, learning rates are higher and steps fewer.
    """
    shape: dict[str, Any] = {"schedule": "cosine", "warmup": 0.1, "end": 0.01}
    more |= {"weight_decay": weight_decay}
    return lab.Recipe(num_steps, learning_rate, "adamw", **shape, **more)


def next_vector_loss(model: SequenceTransformer, params, batch: Sequence):
    """The mean over positions of 1/2 |error|^2, as in the paper."""
    prediction = cast(jax.Array, model.apply({"params": params}, batch.inputs))
    return jnp.mean(tasks.half_squared_error(prediction, batch.targets)), {}


def train(
    run: lab.Run,
    name: str,
    model: SequenceTransformer,
    task: tasks.Dynamics,
    recipe: lab.Recipe,
    constructed: bool = False,
    **more: Any,
) -> lab.Trained:
    """Next-vector prediction on a system; `more` goes to `lab.train`."""
    sampler = functools.partial(draw, task=task, constructed=constructed)
    loss = functools.partial(next_vector_loss, model)
    return lab.train(run, name, model, sampler, recipe, loss=loss, **more)


def train_constructed(run: lab.Run, kind: MixerKind, depth: int, clip: float = 0.0) -> lab.Trained:
    """Attention alone on constructed tokens, 2 heads for one layer, 4 for more."""
    config, D = run.config, run.config.dim
    model = SequenceTransformer(
        (kind,) * depth,
        4 * D,
        D,
        embed_dim=0,
        num_heads=2 if depth == 1 else 4,
        head_dim=2 * D,
        position_dim=0,
        token_clip=clip or (CLIP_ONE if depth == 1 else CLIP_DEEP),
        init_std=2e-4,
        chunk_size=config.length,
    )
    rate = config.mesa_learning_rate if kind == "mesa" else config.constructed_learning_rate
    task, how = system(config, count=config.batch_size), recipe(config.constructed_steps, rate, 0.1)
    return train(run, f"constructed-{kind}-{depth}", model, task, how, constructed=True)


def num_layers(config: Any, model: str) -> int:
    """Layers of a full model."""
    return 2 if model == "softmax, mesa" else config.full_depth


def train_full(
    run: lab.Run, model: str, name: str = "linear", length: int = 0, short: bool = False
) -> lab.Trained:
    """Trains a full model, which has to build its own tokens.

    Args:
      run: of the studies.
      model: "softmax", "softmax, linear" or "softmax, mesa".
      name: of the system.
      length: of the sequences; 0 is that of the configuration.
      short: whether with the steps and batches of systems other than the linear one.
    """
    config = run.config
    first, *rest = model.split(", ")
    kinds = (first, *(rest or [first]) * (num_layers(config, model) - 1))
    task = system(config, name, length=length)
    width = task.num_observed or task.num_hidden
    built = SequenceTransformer(
        cast(tuple[MixerKind, ...], kinds),
        width,
        width,
        num_heads=4,
        head_dim=2 * config.dim,
        position_dim=40,
        chunk_size=64 if length else config.length,
        token_clip=_CLIP_FULL if "linear" in model else 0.0,
        **_SHAPES.get(name, {"embed_dim": 40}),
    )
    hybrid = "mesa" in model
    rate = config.hybrid_learning_rate if hybrid else config.full_learning_rate
    steps = config.hybrid_steps if hybrid else config.full_steps
    batch = config.batch_size
    if short or name != "linear":
        steps, batch = config.other_steps, config.other_batch
    if length:
        steps, batch = config.long_steps, config.long_batch
    label = f"full-{name}-{model.replace(', ', '-')}" + (f"-{length}" if length else "")
    label += "-short" if short and name == "linear" else ""
    task = dataclasses.replace(task, batch_size=batch)
    return train(run, label, built, task, recipe(steps, rate))


# What is measured of them -------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def _losses(model, params, sequence):
    error = model.apply({"params": params}, sequence.inputs) - sequence.targets
    return 0.5 * jnp.sum(error**2, axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def hidden(model: SequenceTransformer, params, x_BTI) -> jax.Array:
    """The tokens before the first layer and after each, [L + 1, B, T, E]."""
    return jnp.stack(cast(list, model.apply({"params": params}, x_BTI, method="hidden")))


def losses(trained: lab.Trained, sequence: Sequence) -> np.ndarray:
    """1/2 |error|^2 of every seed, sequence and position, [S, B, T]."""
    return trained.by_seed(_losses, sequence)


def compressed(trained: lab.Trained, dim: int) -> lab.Trained:
    """The model in which all products of weights are replaced by their blocks' mean diagonals."""

    @jax.vmap
    def read(params):
        return models.from_block_scalars(models.block_scalars(params, dim), dim)

    return trained.remade(read(trained.params), head_dim=4 * dim)


@threadpoolctl.threadpool_limits.wrap(limits=1)  # of many small matrices
def least_squares(test: tuple, other: tuple) -> tuple[np.ndarray, float]:
    """`ico.algorithms.tuned_next_vector_ridge`, tuned on the first 500 of the other sequences."""
    return algorithms.tuned_next_vector_ridge(test, tuple(side[:CHOOSE] for side in other))


# Records and tables of losses by position ---------------------------------------------------------


def loss_records(learner: str, loss_SBT, dim: int, **axes: Any) -> Iterator[lab.Record]:
    """Of losses [S, B, T]: means over all positions, over late ones, and at the last; a curve."""
    late, last = loss_SBT[..., 2 * dim :], loss_SBT[..., -1]
    yield lab.record(
        learner=learner,
        **axes,
        loss=loss_SBT.mean(-1),
        late=late.mean(-1),
        last=last,
        median_last=np.median(last),
        top_last=np.quantile(last, 0.99),
    )
    position = np.arange(1, loss_SBT.shape[-1] + 1)
    yield lab.record("curve", learner=learner, **axes, position=position, loss=loss_SBT.mean(1))


def loss_lines(x: str = "position", **more: Any):
    """The picture of all learners' curves."""
    return lab.lines(x, "loss", record="curve", color="learner", ylabel=LOSS, **more)


loss_rows = functools.partial(lab.rows, also=("late", "last", "median_last", "top_last"))
NOTE = (
    "late: positions from twice the width on, where least squares is determined. last: the last "
    "position, with its median and 99th percentile over sequences and seeds."
)
