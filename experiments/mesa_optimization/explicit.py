"""The algorithms that models are compared with, and the features that they are given.

Least squares in float64; one gradient step; Proposition 2: preconditioning, then one step.

Dimension key: S seeds, B sequences, T positions, D outputs, F features, R regularisers.
"""

import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from experiments.mesa_optimization import training as tr
from ico import tasks
from ico.layers import ChebyshevSteps, chebyshev_queries, chebyshev_steps, linear_attention

_INVERSES = np.geomspace(1e-1, 1e6, 57)  # of the regularisers that are tried
_CHOOSE = 500  # sequences that they are chosen on
WINDOW = 8  # observations that stand for a hidden state
# What Proposition 2 starts from: the best, on other sequences, of these regularisers and lower
# ends of the spectrum, both as shares of its upper end.
_MARGIN = 2.0  # beyond the largest eigenvalue seen: above the upper end steps diverge
_REGS, _LOWS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0), (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


# One gradient step --------------------------------------------------------------------------------


@jax.jit
def gradient_step(x_BTD):
    """`sum_{s <= t} x_s x_{s-1}^T x_t` at every position: one gradient step from zero, unscaled."""
    before = jnp.pad(x_BTD[:, :-1], ((0, 0), (1, 0), (0, 0)))
    with jax.default_matmul_precision("highest"):
        scores = jnp.tril(jnp.einsum("btd,bsd->bts", x_BTD, before))
        return jnp.einsum("bts,bsd->btd", scores, x_BTD)


def gradient_descent_losses(test, other, dim: int) -> tuple[np.ndarray, float]:
    """Losses [B, T] of one gradient step at the best rate for other sequences, and the rate.

    Both on constructed tokens of parts of width `dim`.
    """
    step, y = gradient_step(other.inputs[..., dim : 2 * dim]), other.targets
    rate = float(jnp.sum(step * y) / jnp.sum(step * step))
    error = rate * gradient_step(test.inputs[..., dim : 2 * dim]) - test.targets
    return np.asarray(0.5 * jnp.sum(error**2, axis=-1)), rate


# Least squares ------------------------------------------------------------------------------------


@threadpoolctl.threadpool_limits.wrap(limits=1)  # of many small matrices
def least_squares(x_BTF, y_BTD, inverses) -> np.ndarray:
    """Regularised least-squares predictions of the next vector, all pairs counted, in float64.

    Args:
      x_BTF: what it works on, the vectors themselves or features of them.
      y_BTD: the vectors; the pair at t is (x at t - 1, y at t).
      inverses: R inverses of regularisers.

    Returns:
      [R, B, T, D].
    """
    x, y = (np.asarray(a, np.float64) for a in (x_BTF, y_BTD))
    before = np.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
    result = np.empty((len(inverses), *y.shape))
    for b in range(len(x)):
        gram = np.cumsum(before[b, :, :, None] * before[b, :, None], axis=0)
        cross = np.cumsum(y[b, :, :, None] * before[b, :, None], axis=0)
        values, vectors = np.linalg.eigh(gram)
        weights, query = cross @ vectors, (x[b, :, None] @ vectors)[:, 0]
        for r, inverse in enumerate(inverses):
            solved = query / (np.maximum(values, 0) + 1 / inverse)
            result[r, b] = (weights @ solved[..., None])[..., 0]
    return result


def least_squares_losses(
    x_BTF, targets, other_x, other_targets, y_BTD=None, other_y=None
) -> tuple[np.ndarray, float]:
    """Losses [B, T] at the regulariser that is best for other sequences, and its inverse."""
    y_BTD, other_y = x_BTF if y_BTD is None else y_BTD, other_x if other_y is None else other_y

    def losses(x, y, targets, inverses):
        error = least_squares(x, y, inverses) - np.asarray(targets, np.float64)
        return 0.5 * np.sum(error**2, axis=-1)

    few = slice(0, _CHOOSE)
    tried = losses(other_x[few], other_y[few], other_targets[few], _INVERSES)
    best = float(_INVERSES[int(np.argmin(tried.mean((1, 2))))])
    return losses(x_BTF, y_BTD, targets, [best])[0], best


def features(x_BTO, task: tasks.Dynamics):
    """What least squares works on: the state, a window of observations, or the true features."""
    if task.num_observed:
        late = [jnp.pad(x_BTO[:, : x_BTO.shape[1] - w], ((0, 0), (w, 0), (0, 0)))
                for w in range(min(WINDOW, x_BTO.shape[1]))]  # fmt: skip
        return jnp.concatenate(late, axis=-1)
    return tasks.dynamics_network(task)(x_BTO) if task.nonlinear else x_BTO


# Proposition 2 ------------------------------------------------------------------------------------


def preconditioned_step(params, x_BTF, y_BTO):
    """Proposition 2: queries preconditioned by Chebyshev steps, then one gradient step.

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


@functools.partial(jax.jit, static_argnums=1)
def _proposition_losses(params, task, x, targets):
    with jax.default_matmul_precision("highest"):
        error = preconditioned_step(params, features(x, task), x) - targets
    return 0.5 * jnp.sum(error**2, axis=-1)


def known_in_advance(task: tasks.Dynamics, other, num_steps: int) -> dict:
    """Coefficients by Chebyshev's polynomials for the spectrum of other sequences: a start.

    Args:
      task: the systems.
      other: sequences that it is not tested on.
      num_steps: of the preconditioning.
    """
    x, y = other.inputs[:_CHOOSE], other.targets[:_CHOOSE]
    found = np.asarray(features(x, task), np.float64)
    high = float(np.linalg.eigvalsh(np.einsum("btf,btg->bfg", found, found)).max())
    best, lowest = {}, np.inf
    for reg in _REGS:
        for low in _LOWS:
            steps = chebyshev_steps(low * high, _MARGIN * high * (1 + reg), num_steps, 1)
            params = {"rate": jnp.log(steps.rate), "momentum": steps.momentum,
                      "reg": jnp.log(jnp.full(1, reg * high)), "scale": jnp.ones(())}  # fmt: skip
            params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
            loss = float(jnp.mean(_proposition_losses(params, task, x, y)))
            if loss < lowest:
                best, lowest = params, loss
    return best


def train_proposition(context, name: str, task: tasks.Dynamics, start: dict) -> tr.Trained:
    """Learns the coefficients of Proposition 2's algorithm from a start."""
    config = context.config
    recipe = tr.Recipe(config.scalar_steps, config.batch_size, 1e-2, weight_decay=0.0)
    task = tr.sized(task, recipe.batch_size)
    return tr.train_seeds(
        context, f"proposition-{name}", None, lambda key: start, _proposition_loss(task),
        functools.partial(tr.draw, task=task, constructed=False), recipe,
        {"task": task, "steps": len(start["rate"]), "window": WINDOW, 
         "start": jax.tree.map(lambda leaf: [float(f"{x:.3g}") for x in np.ravel(leaf)], start)},
    )  # fmt: skip


@functools.lru_cache(maxsize=16)
def _proposition_loss(task):
    def loss(params, batch):
        x = batch.inputs
        prediction = preconditioned_step(params, features(x, task), x)
        return jnp.mean(tasks.half_squared_error(prediction, batch.targets)), {}

    return loss


def proposition_losses(trained: tr.Trained, task: tasks.Dynamics, test) -> np.ndarray:
    """Losses [S, B, T]; of parameters without seeds, give them an axis of one."""
    seeds = len(trained.params["reg"])
    return np.stack([
        np.asarray(_proposition_losses(tr.one(trained, s), task, test.inputs, test.targets))
        for s in range(seeds)
    ])  # fmt: skip
