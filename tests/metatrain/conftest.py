"""A learned optimizer whose meta-gradients are known: gradient descent on a quadratic.

theta is the logarithm of its learning rate. So the smoothed meta-loss is an integral over one
perturbation (evolution) or one for each truncation window (persistent), which Gauss and Hermite's
rule computes in float64.
"""

import jax.numpy as jnp
import numpy as np
import optax

from ico import metatrain, optim

CURVES = np.array([0.5, 2.0])
THETA = {"log_rate": jnp.asarray(-1.0)}
SIGMA = 0.2


def build(theta, num_steps):
    del num_steps
    return optax.with_extra_args_support(optax.sgd(jnp.exp(theta["log_rate"])))


TASK = metatrain.Task(
    init=lambda key: jnp.array([1.0, -2.0]),
    batch=lambda key: jnp.zeros(()),
    loss=lambda x, batch: 0.5 * jnp.sum(jnp.asarray(CURVES, x.dtype) * x**2) + batch,
    test=lambda x: jnp.sum(x**2),
)
FAMILY = metatrain.family_of(TASK)
SGD = optim.LearnedOptimizer("sgd", {}, lambda key, params: THETA)


class GradientDescent(optim.LearnedOptimizer):
    """What `build` makes."""

    def build(self, theta, num_steps):
        return build(theta, num_steps)


LEARNER = GradientDescent(*SGD)


def losses(log_rates) -> np.ndarray:
    """Losses before each step, float64; each step has its own learning rate."""
    x, found = np.array([1.0, -2.0]), []
    for log_rate in log_rates:
        found.append(0.5 * np.sum(CURVES * x**2))
        x = x - np.exp(log_rate) * CURVES * x
    return np.array(found)


def smoothed_gradient(windows: int, truncation: int) -> float:
    """d/d theta of the mean loss, theta perturbed anew in every window: Stein's identity."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    total = 0.0
    for places in np.ndindex(*[len(nodes)] * windows):
        noise = nodes[list(places)]
        value = losses(np.repeat(float(THETA["log_rate"]) + SIGMA * noise, truncation)).mean()
        total += np.prod(weights[list(places)]) * value * noise.sum() / SIGMA
    return total


def best_log_rate() -> float:
    """The logarithm of the constant rate with the least mean loss over six steps."""
    grid = np.linspace(-1.0, 0.0, 101)
    return grid[np.argmin([losses([rate] * 6).mean() for rate in grid])]
