"""Gradient descent and GD++ at their best rates, by the exact expected loss.

On the paper's tasks (w isotropic, the query's inputs independent and of equal variance) the
expected loss given the context depends on its inputs through the eigenvalues of X^T X alone. In
the eigenvector with eigenvalue lambda, GD++ keeps a scale a (inputs) and an error e (what is left
of w), both starting at 1:

    e <- e (1 - rate/N a^2 lambda),   a <- a (1 - gamma a^2 lambda),

so that the loss is `1/2 Var(x) sum_i e_i^2`. No data noise is left but that of the context inputs,
and rates are fitted in seconds, far harder than by training on tasks (the paper's way). gamma = 0
is gradient descent.

Dimension key: M contexts, D eigenvalues of each, S steps.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import ico
from experiments.gd_in_context.paper import draw, sampler_of
from ico import algorithms, lab, tasks

_PADDED_STEPS = 12  # the most that a study fits
_STARTS = 3


def eigenvalues(key, task, count: int) -> np.ndarray:
    """Eigenvalues [M, D] of the context's X^T X for `count` contexts of a task."""
    episode = jax.jit(sampler_of(dataclasses.replace(task, batch_size=count)))(key)
    x = np.asarray(episode.prompt.x, np.float64)
    return np.linalg.eigvalsh(np.swapaxes(x, 1, 2) @ x).clip(min=0)


def expected_loss(rate_S, gamma_S, eigenvalues_MD, num_context: int, input_variance: float):
    """The expected loss of GD++ with the given rates and gammas, after each step: [S]."""

    def step(carry, rate_gamma):
        error, scale = carry
        rate, gamma = rate_gamma
        curvature = scale**2 * eigenvalues_MD
        error = error * (1 - rate / num_context * curvature)
        return (error, scale * (1 - gamma * curvature)), jnp.mean(jnp.sum(error**2, axis=-1))

    ones = jnp.ones_like(eigenvalues_MD)
    # Unrolled, the steps of a context stay in registers: several times faster.
    _, squares_S = jax.lax.scan(step, (ones, ones), (rate_S, gamma_S), unroll=True)
    return 0.5 * input_variance * squares_S


def fit(
    run: lab.Run, name: str, task: tasks.LinearRegression, num_steps: int, *, plain: bool = False
) -> dict[str, dict[str, np.ndarray]]:
    """The best rate and gamma of GD++ (gamma 0 if `plain`), for tied steps and for one a step.

    L-BFGS from several starts on the eigenvalues of `fit_contexts` contexts; start and iterate are
    chosen on as many other tasks by the algorithm itself. That choice matters: many free steps
    fitted to the end blow up on one context in ten thousand, or by rounding. Kept on disk.

    Returns:
      {"tied", "free"}: each {"rate", "gamma"}, scalars or [S], as `ico.algorithms.gd_plus_plus`
      takes them.

    Raises:
      ValueError: the task's inputs are not uniform, or every start ended at a loss not finite.
    """
    if task.inputs != "uniform":
        raise ValueError(f"baselines are fitted to uniform inputs, not {task.inputs!r}")
    config = run.config
    counts = {"contexts": config.fit_contexts, "updates": config.fit_steps}
    spec = {"task": task, "steps": num_steps, "plain": plain} | counts
    return run.kept(name, spec, lambda folder: _fit(run, name, task, num_steps, plain))


def _fit(run, name: str, task, num_steps: int, plain: bool) -> dict[str, dict]:
    fit_key, start_key = jax.random.split(run.key(f"baselines/{name}"))
    config = run.config
    fit_MD = jnp.asarray(eigenvalues(fit_key, task, config.fit_contexts), jnp.float32)
    others = draw(run, f"baselines/{name}/choice", task, config.fit_contexts)
    apply = functools.partial(algorithms.gd_plus_plus, num_steps=num_steps)
    steps = max(num_steps, _PADDED_STEPS)
    problem = _Problem(
        active_S=np.arange(steps) < num_steps,
        plain=np.asarray(plain),
        num_context=np.asarray(task.num_context, np.float32),
        input_variance=np.asarray(task.input_range**2 / 12, np.float32),
    )

    def learned(log_2S, steps):
        rate_S, gamma_S = _unpack(log_2S, problem)
        return {"rate": rate_S[steps], "gamma": gamma_S[steps]}

    def judge(log_2S):
        candidate = {name: (apply, learned(log_2S, slice(num_steps)))}
        return float(ico.compare(candidate, others).losses[name].mean())

    random = np.random.default_rng(np.asarray(jax.random.key_data(start_key)))
    # Around one step's rate and the paper's gamma (A.10: 0.18 for N = 10).
    around_21 = np.log([[3.0], [1.0 / task.num_context]])
    starts_R21 = around_21 + random.uniform(-0.7, 0.7, (_STARTS, 2, 1))
    tied_21 = _descend(name, starts_R21, problem, fit_MD, judge, config.fit_steps)
    # A rate a step starts at the best single rate, so that it cannot end above it.
    noise_R2S = random.normal(0, 0.3, (_STARTS, 2, steps))
    noise_R2S[0] = 0
    free_2S = _descend(name, tied_21 + noise_R2S, problem, fit_MD, judge, config.fit_steps)
    return {"tied": learned(tied_21, 0), "free": learned(free_2S, slice(num_steps))}


class _Problem(NamedTuple):
    """One fit. Traced, and padded to as many steps as any study's, so that all compile once."""

    active_S: np.ndarray
    plain: np.ndarray
    num_context: np.ndarray
    input_variance: np.ndarray


def _unpack(log_2S, problem):
    """Rates and gammas [S] from their logarithms [2, S] or, alike for all steps, [2, 1]."""
    # Steps that are padding do nothing.
    active_S = jnp.asarray(problem.active_S, jnp.float32)
    rate_S, gamma_S = jnp.exp(jnp.asarray(log_2S, jnp.float32)) * active_S[None]
    return rate_S, jnp.where(problem.plain, 0.0, gamma_S)


@jax.jit
def _log_loss(log_2S, problem, values_MD):
    """The logarithm of the expected loss after the last step, and its gradient."""

    def loss(log_2S):
        sizes = (problem.num_context, problem.input_variance)
        return jnp.log(expected_loss(*_unpack(log_2S, problem), values_MD, *sizes)[-1])

    return jax.value_and_grad(loss)(log_2S)


def _descend(name: str, starts, problem, fit_MD, judge, num_updates: int) -> np.ndarray:
    """The best by `judge`, a loss on other tasks, of L-BFGS's iterates (each 20th) and starts."""
    shape = starts[0].shape
    best, best_loss = None, np.inf

    def loss(flat):
        value, gradient = _log_loss(jnp.asarray(flat.reshape(shape), jnp.float32), problem, fit_MD)
        gradient = np.asarray(gradient, np.float64).ravel()
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 100.0, np.zeros_like(gradient)  # a wall: the line search turns back
        return float(value), gradient

    def consider(flat):
        nonlocal best, best_loss
        candidate = flat.reshape(shape).copy()
        value = judge(candidate)
        if value < best_loss:
            best, best_loss = candidate, value

    for start in starts:
        consider(start.ravel())
        counter = itertools.count(1)
        result = scipy.optimize.minimize(
            loss,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": num_updates, "maxcor": 20},
            callback=lambda flat, counter=counter: (
                consider(flat) if next(counter) % 20 == 0 else None
            ),
        )
        consider(result.x)
    if best is None:
        raise ValueError(f"no start of the baseline {name} ended at a finite loss")
    return best
