"""Gradient descent and GD++ at their best rates, by the exact expected loss.

On the paper's tasks (w isotropic, the query's inputs independent and of equal variance) the
expected loss given the context depends on its inputs through the eigenvalues of X^T X alone. In
the eigenvector with eigenvalue lambda, GD++ keeps a scale a (inputs) and an error e (what is left
of w), both starting at 1:

    e <- e (1 - rate/N a^2 lambda),   a <- a (1 - gamma a^2 lambda),

so that the loss is `1/2 Var(x) sum_i e_i^2`. No data noise is left but that of the context inputs,
and rates are fitted in seconds, far harder than by training on tasks (the paper's way). gamma = 0
is gradient descent.

Dimension key: M contexts, D eigenvalues of each, S steps, R starts.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.gd_in_context.training import sampler_of


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
    _, squares_S = jax.lax.scan(step, (ones, ones), (rate_S, gamma_S))
    return 0.5 * input_variance * squares_S


def fit(context, name: str, task, num_steps: int, *, tied: bool, plain: bool = False) -> dict:
    """The best rate and gamma of GD++ (gamma 0 if `plain`), for tied steps or one a step.

    Adam from several starts on the eigenvalues of some contexts; the start is chosen on others.

    Returns:
      {"rate", "gamma"}: scalars if tied, else [S], as `ico.algorithms.gd_plus_plus` takes them.
    """
    if task.inputs != "uniform":
        raise ValueError(f"baselines are fitted to uniform inputs, not {task.inputs!r}")
    fit_key, choice_key, start_key = jax.random.split(context.key(f"baselines/{name}"), 3)
    count = min(2_000, context.config.closed_form_tasks)
    fit_MD, choice_MD = (
        jnp.asarray(eigenvalues(key, task, count), jnp.float32) for key in (fit_key, choice_key)
    )
    shape = () if tied else (num_steps,)

    def unpack(log_params):
        rate, gamma = jnp.exp(log_params["rate"]), jnp.exp(log_params["gamma"])
        gamma = jnp.zeros_like(gamma) if plain else gamma
        return rate, gamma

    def loss(log_params, eigenvalues_MD):
        rate_S, gamma_S = (jnp.broadcast_to(a, (num_steps,)) for a in unpack(log_params))
        variance = task.input_range**2 / 12
        return expected_loss(rate_S, gamma_S, eigenvalues_MD, task.num_context, variance)[-1]

    def start(key):
        rate_key, gamma_key = jax.random.split(key)
        # Around one step's rate and the paper's gamma (A.10: 0.18 for N = 10), over a factor 3.
        rate = 5.0 * jnp.exp(jax.random.uniform(rate_key, shape, minval=-0.5, maxval=0.5))
        gamma = (
            1.5
            / task.num_context
            * jnp.exp(jax.random.uniform(gamma_key, shape, minval=-1.0, maxval=0.0))
        )
        return {"rate": jnp.log(rate), "gamma": jnp.log(gamma)}

    steps = context.config.fit_steps
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, steps))

    @jax.jit
    def descend(log_params):
        def step(carry, _):
            log_params, state = carry
            gradient = jax.grad(loss)(log_params, fit_MD)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(log_params, updates), state), None

        (log_params, _), _ = jax.lax.scan(
            step, (log_params, optimizer.init(log_params)), length=steps
        )
        return log_params, loss(log_params, choice_MD)

    starts_R = jax.jit(jax.vmap(start))(jax.random.split(start_key, 4))
    fitted_R, loss_R = jax.lax.map(descend, starts_R)
    best = int(jnp.argmin(jnp.where(jnp.isfinite(loss_R), loss_R, jnp.inf)))
    if not jnp.isfinite(loss_R[best]):
        raise ValueError(f"no start of the baseline {name} ended at a finite loss")
    rate, gamma = unpack(jax.tree.map(lambda leaf: leaf[best], fitted_R))
    return {"rate": rate, "gamma": gamma}
