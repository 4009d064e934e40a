"""Losses of trained models and ridge baselines on the same contexts.

Dimension key: S seeds, T tasks, L layers, D inputs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.noisy_regression.claims import CLAIMS
from experiments.noisy_regression.training import (
    Prior,
    Recipe,
    Trained,
    excess,
    prior_of,
    train_models,
)
from ico import algorithms, report, tasks
from ico.report import Measurement

STRONG = 5.0  # the noise setting that most claims are about


class Bed(NamedTuple):
    """Contexts at one noise setting, and the oracle's weights."""

    statistics: Any
    oracle: jax.Array  # [T, D]
    sigma: jax.Array  # [T]
    truth: jax.Array  # [T, D]


def task_of(context, noise=STRONG) -> tasks.NoisyRegression:
    """The paper's task at a noise setting."""
    config = context.config
    return tasks.NoisyRegression(
        num_inputs=config.num_inputs, num_context=config.num_context, noise=noise
    )


def draw(context, name: str, count: int) -> tasks.NoisyContext:
    """Contexts of their own for every name, never those of training; the noise is chosen later."""
    config = context.config
    task = tasks.NoisyRegression(count, config.num_inputs, config.num_context)
    return _draw(context.key(name), task)


@functools.partial(jax.jit, static_argnums=1)
def _draw(key, task):
    return tasks.noisy_context(key, task)


def bed(contexts: tasks.NoisyContext, noise) -> Bed:
    """The contexts at a noise setting of the paper."""
    return _bed(contexts, prior_of(noise))


def bed_at(contexts: tasks.NoisyContext, sigma: float) -> Bed:
    """The contexts at one noise level."""
    level = np.full(1, sigma, np.float32)
    return _bed(contexts, Prior(level, level))


@jax.jit
def _bed(contexts, prior):
    with jax.default_matmul_precision("highest"):
        sigma = Prior(*map(jnp.asarray, prior)).sigma(contexts.u)
        statistics = contexts.at(sigma)
        oracle = algorithms.ridge_weights(statistics, sigma**2)
    return Bed(statistics, oracle, sigma, contexts.weights)


@functools.partial(jax.jit, static_argnums=(0, 3))
def weights_of(model, params, statistics, all_layers=False):
    """The implicit model's weights [T, D], or [L, T, D]."""
    with jax.default_matmul_precision("highest"):
        return model.apply({"params": params}, statistics, method="weights", all_layers=all_layers)


def loss_of(model, params, bed: Bed) -> np.ndarray:
    """Losses [T] of one model."""
    return np.asarray(excess(weights_of(model, params, bed.statistics), bed.oracle))


def one(trained: Trained, setting: int, seed: int):
    """The parameters of one model."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[seed, setting]), trained.params)


def baselines(context, noise) -> dict[str, Any]:
    """name -> function from statistics to weights [T, D], tuned for a noise setting."""
    N = context.config.num_context
    tuned = algorithms.tune_ridge(
        task_of(context, noise), num_tasks=context.config.tuning_tasks, seed=1_000 + context.seed
    )
    return {
        "ConstRR": lambda s: algorithms.ridge_weights(s, tuned.constant["noise_variance"]),
        "AdaRR": lambda s: algorithms.adaptive_ridge_weights({}, s, N),
        "TunedRR": lambda s: algorithms.adaptive_ridge_weights(tuned.tuned, s, N),
    }


def baseline_losses(context, noise, bed: Bed) -> dict[str, np.ndarray]:
    """Losses [T] of the three baselines."""
    return {
        name: np.asarray(jax.jit(lambda s, w=w: excess(w(s), bed.oracle))(bed.statistics))
        for name, w in baselines(context, noise).items()
    }


FAR = 100.0  # a loss beyond it says that the model blew up: predicting zero costs about five


def share_far(loss_T) -> float:
    """The share of contexts whose loss is beyond `FAR`, or no number."""
    return float(1 - np.mean(loss_T <= FAR))


class Best(NamedTuple):
    """The best of several seeds, chosen on contexts of its own."""

    model: Any
    params: Any
    seed: int


def train_variant(context, variant: str, depth: int) -> tuple[Trained, tuple]:
    """The models of a variant and depth, and the noise settings they are trained for."""
    config = context.config
    settings = config.settings
    if variant == "FULL":
        if not config.full_everywhere:
            settings = (STRONG,)
        # Tamed less: else a few contexts in a hundred thousand stay far off, as pilots showed.
        rate = config.full_learning_rate
        recipe = Recipe(config.full_steps, config.batch_size, rate, far=1e4)
    elif variant == "DIAG" and depth == config.deep_depth and depth not in config.depths:
        settings = (STRONG,)
        recipe = Recipe(config.deep_steps, config.batch_size, config.deep_learning_rate)
    else:
        steps = min(config.steps_per_layer * depth, config.most_steps)
        recipe = Recipe(steps, config.batch_size, config.learning_rate)
    return train_models(context, variant, depth, settings, recipe), settings


def best(context, variant: str, depth: int, noise=STRONG) -> Best:
    """The best seed of a variant, depth and noise setting; trained, or found trained."""
    trained, settings = train_variant(context, variant, depth)
    place = settings.index(noise)
    chosen_on = bed(draw(context, "choice", context.config.choice_tasks), noise)
    means = [
        loss_of(trained.model, one(trained, place, seed), chosen_on).mean()
        for seed in range(context.config.num_seeds)
    ]
    if not np.isfinite(means).any():
        raise ValueError(f"{variant}, {depth} layers: no seed has a finite loss")
    seed = int(np.argmin(np.nan_to_num(means, nan=np.inf)))  # argmin takes nan for the least
    return Best(trained.model, one(trained, place, seed), seed)


def all_measured(claim: str, *samples, statistic) -> Measurement:
    """`ico.report.all_measured`, for a claim's id."""
    return report.all_measured(
        next(entry for entry in CLAIMS if entry.id == claim), *samples, statistic=statistic
    )
