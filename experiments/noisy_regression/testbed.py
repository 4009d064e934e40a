"""Contexts to evaluate on, the oracle, and the ridge baselines tuned for a noise setting.

Dimension key: T tasks, D inputs, L layers.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

from experiments.noisy_regression.ridge_tuning import TunedRidge, tune_ridge
from ico import algorithms, lab, tasks
from ico.algorithms import OracleContexts
from ico.tasks import NoisePrior, NoisyContext
from ico.types import Statistics

Noise = float | tuple[float, ...]  # sigma is uniform up to a number, or one of some values

STRONG = 5.0  # the noise setting that most claims are about
FAR = 100.0  # a loss beyond it says that the model blew up: predicting zero costs about five


def name_of(noise: Noise) -> str:
    """A noise setting's name in tables: "5" is uniform up to 5, "{1, 3}" one of the two."""
    if isinstance(noise, tuple):
        return "{" + ", ".join(f"{value:g}" for value in noise) + "}"
    return f"{noise:g}"


draw_task = jax.jit(tasks.noisy_context, static_argnums=1)


def draw(run: lab.Run, name: str, count: int) -> NoisyContext:
    """Contexts drawn by `name`, apart from those of training; their noise is chosen later."""
    config = run.config
    task = tasks.NoisyRegression(count, config.num_inputs, config.num_context)
    return draw_task(run.key(name), task)


def at_noise(contexts: NoisyContext, noise: Noise = STRONG) -> OracleContexts:
    """The contexts at a noise setting; `(sigma,)` is one noise level."""
    return algorithms.with_oracle(contexts, NoisePrior.of(noise))


def share_far(loss: Float[np.ndarray, "T"]) -> float:
    """The share of contexts whose loss is beyond `FAR`, or no number."""
    return float(1 - np.mean(loss <= FAR))


@lab.once
def baselines(
    run: lab.Run, noise: Noise = STRONG, num_context: int | None = None
) -> dict[str, Callable[[Statistics], Float[Array, "T D"]]]:
    """Name -> function from statistics to weights [T, D], tuned for a noise setting.

    Args:
      run: whose configuration says what task and how many contexts they are tuned for.
      noise: the setting.
      num_context: pairs in the contexts that they are applied to, if not those of training.
    """
    found, N = _tuned(run, noise), num_context or run.config.num_context

    def adaptive(params):
        return jax.jit(lambda statistics: algorithms.adaptive_ridge_weights(params, statistics, N))

    constant = jax.jit(functools.partial(algorithms.ridge_weights, **found.constant))
    return {"ConstRR": constant, "AdaRR": adaptive({}), "TunedRR": adaptive(found.tuned)}


@lab.once
def _tuned(run: lab.Run, noise: Noise) -> TunedRidge:
    D, N = run.config.num_inputs, run.config.num_context
    task = tasks.NoisyRegression(num_inputs=D, num_context=N, noise=noise)
    return tune_ridge(task, num_tasks=run.config.tuning_tasks, seed=1_000 + run.seed)
