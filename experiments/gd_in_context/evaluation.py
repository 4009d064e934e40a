"""Measuring trained models, seed by seed, against explicit algorithms on the same tasks.

Dimension key: S seeds, T tasks, L layers or steps.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gd_in_context.claims import CLAIMS
from experiments.gd_in_context.training import sampler_of
from ico import report, sensitivity, tasks
from ico.report import Measurement, interval, ratio

RATES = np.arange(0.001, 25, 0.1, dtype=np.float32)  # the authors' grid; the rate is divided by N


def draw(context, name: str, task, count: int | None = None):
    """Evaluation tasks: never those trained or tuned on, for their key has another name."""
    count = context.config.eval_tasks if count is None else count
    task, scales = dataclasses.replace(task, batch_size=count), {}
    if isinstance(task, tasks.LinearRegression):
        # Traced, so that a sweep over scales compiles once.
        scales = {"input_range": task.input_range, "weight_scale": task.weight_scale}
        task = dataclasses.replace(task, input_range=1.0, weight_scale=1.0)
    return _sample(task, context.key(name), scales)


@functools.partial(jax.jit, static_argnums=0)
def _sample(task, key, scales):
    return sampler_of(dataclasses.replace(task, **scales))(key)


def losses(apply, params, episode) -> np.ndarray:
    """Losses of each task, [T] or [L, T], for parameters without a seed axis."""
    return np.asarray(_losses(apply, params, episode))


def seed_losses(apply, params, episode) -> np.ndarray:
    """Losses [S, T], or [S, L, T] of a learner with all its layers, for params [S, ...]."""
    return np.asarray(_seed_losses(apply, params, episode))


# One compilation for each learner and shape, as long as `apply` is the same function.
@functools.partial(jax.jit, static_argnums=0)
def _losses(apply, params, episode):
    with jax.default_matmul_precision("highest"):
        prediction = apply(params, episode.prompt)
    return tasks.half_squared_error(prediction, episode.y_query)


@functools.partial(jax.jit, static_argnums=0)
def _seed_losses(apply, params, episode):
    # One seed after the other: the memory of one.
    return jax.lax.map(lambda one: _losses(apply, one, episode), params)


def zero(params, prompt):
    """The predictor that answers zero, a learner without parameters."""
    return jnp.zeros((*prompt.x_query.shape[:2], prompt.y.shape[-1]), prompt.x.dtype)


def slope(apply, params, prompt):
    """The sensitivity of the one output to the one query's input, [T, D]."""
    return sensitivity(apply, params, prompt)[:, 0, 0]


def likeness(apply, params, reference, reference_params, episode) -> dict[str, np.ndarray]:
    """`cosine`, `model_difference` and `prediction_difference` [S, T] to a reference algorithm.

    Sensitivities are derivatives of the prediction by the query input (2212.07677, section 3).
    """
    like = _likeness(apply, params, reference, reference_params, episode)
    return {name: np.asarray(value) for name, value in like.items()}


@functools.partial(jax.jit, static_argnums=(0, 2))
def _likeness(apply, params, reference, reference_params, episode):
    prompt = episode.prompt
    with jax.default_matmul_precision("highest"):
        wanted = reference(reference_params, prompt)
        wanted_slope = slope(reference, reference_params, prompt)

        def one(params):
            error_T = (apply(params, prompt) - wanted)[:, 0, 0]
            return likeness_of(slope(apply, params, prompt), wanted_slope, error_T)

        return jax.lax.map(one, params)


def likeness_of(slope_TD, wanted_TD, error_T):
    """The three measures [T], from two learners' slopes and the difference of predictions."""
    norms = jnp.linalg.norm(slope_TD, axis=-1) * jnp.linalg.norm(wanted_TD, axis=-1)
    return {
        "cosine": jnp.sum(slope_TD * wanted_TD, axis=-1) / jnp.maximum(norms, 1e-30),
        "model_difference": jnp.linalg.norm(slope_TD - wanted_TD, axis=-1),
        "prediction_difference": jnp.abs(error_T),
    }


def seed(params, index: int):
    """The parameters of one seed."""
    return jax.tree.map(lambda leaf: leaf[index], params)


def all_measured(claim: str, *samples, statistic) -> Measurement:
    """`ico.report.all_measured`, for a claim's id."""
    return report.all_measured(
        next(entry for entry in CLAIMS if entry.id == claim), *samples, statistic=statistic
    )


def chain(samples) -> list:
    """The pairs (a, b, b, c, ...) of neighbours in a list."""
    return [sample for pair in zip(samples[:-1], samples[1:], strict=True) for sample in pair]


def row(name: str, loss: np.ndarray, reference: np.ndarray | None = None) -> dict:
    """A table row: mean loss with its interval, the best and the worst seed's, and the ratio."""
    value, (low, high) = interval(loss)
    entry = {"learner": name, "loss": value, "95% low": low, "95% high": high}
    if loss.ndim == 2 and len(loss) > 1:
        by_seed = loss.mean(axis=1)
        entry |= {"best seed": float(by_seed.min()), "worst seed": float(by_seed.max())}
    if reference is not None:
        entry["ratio"] = interval(loss, reference, statistic=ratio)[0]
    return entry
