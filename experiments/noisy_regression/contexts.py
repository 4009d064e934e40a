"""Noise settings, contexts to evaluate on, and the ridge baselines tuned for a setting.

Dimension key: T tasks, D inputs, K intervals of a prior.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.noisy_regression.ridge_tuning import TunedRidge, tune_ridge
from ico import algorithms, lab, tasks
from ico.types import Statistics

Noise = float | tuple[float, ...]  # sigma is uniform up to a number, or one of some values

STRONG = 5.0  # the noise setting that most claims are about
FAR = 100.0  # a loss beyond it says that the model blew up: predicting zero costs about five
_INTERVALS = 6  # divisible by one, two and three


class Prior(NamedTuple):
    """A prior of sigma that can be traced: K equally likely intervals, uniform in each.

    A uniform prior is one interval cut into K; a value is an interval of no length. So all
    settings of a table have equal shapes, and models for all of them train under one vmap.
    """

    low: Float[Array | np.ndarray, "K"]
    high: Float[Array | np.ndarray, "K"]

    def sigma(self, u: Float[Array, "T"]) -> Float[Array, "T"]:
        """The quantile function, at u in [0, 1)."""
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        place = u * low.shape[0]
        which = jnp.floor(place).astype(int)
        return low[which] + (high[which] - low[which]) * (place - which)


def prior_of(noise: Noise) -> Prior:
    """The prior of a noise setting: a number (uniform up to it) or a tuple of values."""
    if isinstance(noise, tuple):
        values = np.repeat(np.array(noise, np.float32), _INTERVALS // len(noise))
        return Prior(values, values)
    edges = np.linspace(0, noise, _INTERVALS + 1, dtype=np.float32)
    return Prior(edges[:-1], edges[1:])


def level(sigma: float) -> Prior:
    """The prior that holds one noise level alone."""
    return Prior(*(np.full(1, sigma, np.float32),) * 2)


def name_of(noise: Noise) -> str:
    """A noise setting's name in tables: "5" is uniform up to 5, "{1, 3}" one of the two."""
    if isinstance(noise, tuple):
        return "{" + ", ".join(f"{value:g}" for value in noise) + "}"
    return f"{noise:g}"


class EvalContexts(NamedTuple):
    """Contexts at a noise setting, what the oracle makes of them, and the truth."""

    statistics: Statistics
    oracle: Float[Array, "T D"]
    truth: Float[Array, "T D"]


def draw_contexts(run: lab.Run, name: str, count: int) -> tasks.NoisyContext:
    """Contexts drawn by `name`, apart from those of training; their noise is chosen later."""
    config = run.config
    task = tasks.NoisyRegression(count, config.num_inputs, config.num_context)
    return draw(run.key(name), task)


draw = jax.jit(tasks.noisy_context, static_argnums=1)


@jax.jit
def at_noise(contexts: tasks.NoisyContext, prior: Prior) -> EvalContexts:
    """The contexts at sigma drawn from a prior. The oracle is ridge regression that knows sigma."""
    sigma = prior.sigma(contexts.u)
    statistics = contexts.at(sigma)
    oracle = algorithms.ridge_weights(statistics, sigma**2)
    return EvalContexts(statistics, oracle, contexts.weights)


def excess(w: Float[Array, "*L T D"], oracle: Float[Array, "*L T D"]) -> Float[Array, "*L T"]:
    """The expected excess over the oracle at a query x ~ N(0, I): 1/2 |w - w_oracle|^2."""
    return 0.5 * jnp.sum((w - oracle) ** 2, axis=-1)


def share_far(loss_T: Float[np.ndarray, "T"]) -> float:
    """The share of contexts whose loss is beyond `FAR`, or no number."""
    return float(1 - np.mean(loss_T <= FAR))


def baselines(
    run: lab.Run, noise: Noise = STRONG, num_context: int | None = None
) -> dict[str, Callable[[Statistics], Float[Array, "T D"]]]:
    """Name -> function from statistics to weights [T, D], tuned for a noise setting.

    Args:
      run: whose configuration says what task and how many contexts they are tuned for.
      noise: the setting.
      num_context: pairs in the contexts that they are applied to, if not those of training.
    """
    N = num_context or run.config.num_context
    tuned = run.once(("tuned ridge", noise), lambda: _tuned(run, noise))

    def adaptive(params):
        return jax.jit(lambda statistics: algorithms.adaptive_ridge_weights(params, statistics, N))

    def compiled():
        constant = functools.partial(algorithms.ridge_weights, **tuned.constant)
        return {
            "ConstRR": jax.jit(constant),
            "AdaRR": adaptive({}),
            "TunedRR": adaptive(tuned.tuned),
        }

    return run.once(("baselines", noise, N), compiled)


def _tuned(run: lab.Run, noise: Noise) -> TunedRidge:
    config = run.config
    task = tasks.NoisyRegression(
        num_inputs=config.num_inputs, num_context=config.num_context, noise=noise
    )
    return tune_ridge(task, num_tasks=config.tuning_tasks, seed=1_000 + run.seed)
