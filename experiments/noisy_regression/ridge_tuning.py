"""ConstRR and TunedRR: ridge regression tuned for a distribution of noise (section 3.2).

All baselines of the paper are (S + s I)^-1 b with S = sum x x^T and b = sum y x:

- ConstRR takes one s for all tasks: `ico.algorithms.ridge` with a tuned "noise_variance";
- AdaRR estimates s in each task: `ico.algorithms.adaptive_ridge`;
- TunedRR multiplies that estimate by a tuned number and caps it at another.

How the paper tunes is UNVERIFIED; here by a grid that is refined three times.

Dimension key: B tasks, N context pairs, D inputs.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ico.algorithms import refined_search
from ico.tasks import NoisyRegression, noisy_context


class TunedRidge(NamedTuple):
    """What `tune_ridge` found, as parameters of `ridge` and of `adaptive_ridge`."""

    constant: dict[str, float]
    tuned: dict[str, float]


def tune_ridge(task: NoisyRegression, *, num_tasks: int = 65_536, seed: int = 0) -> TunedRidge:
    """The best ConstRR and TunedRR for a task's distribution.

    Measured by the excess over the oracle, 1/2 |w - w_oracle|^2, in float64 and in the
    eigenvectors of each S, where any s costs D divisions.

    Args:
      task: the distribution; its batch and queries do not matter.
      num_tasks: contexts that they are tuned on.
      seed: of these contexts. They must not be those that the result is judged on.

    Raises:
      ValueError: no more pairs than inputs, or fewer than two contexts.
    """
    if num_tasks < 2:
        raise ValueError(f"num_tasks must be at least 2, not {num_tasks}")
    N, D = task.num_context, task.num_inputs
    if N <= D:
        raise ValueError(
            f"ridge is tuned on more pairs than inputs, not {N} pairs of {D} inputs: raise "
            "num_context above num_inputs"
        )
    sigma_B, b_BD, values_BD, residual_B = _contexts(task, num_tasks, seed)
    oracle_BD = b_BD / (values_BD + sigma_B[:, None] ** 2)

    def excess(s_B):
        return 0.5 * np.mean(np.sum((b_BD / (values_BD + s_B[..., None]) - oracle_BD) ** 2, -1))

    def adapted(multiplier, maximum):
        return excess(np.minimum(multiplier * residual_B, maximum))

    # Beyond ten times the largest noise variance nothing is to be found.
    top = max(1e3, 10 * float(np.max(sigma_B**2)))
    (constant,), _ = refined_search(lambda s: excess(np.full(1, s)), [(1e-8, top)], 25)
    (multiplier, maximum), least = refined_search(adapted, [(0.1, 10.0), (1e-2, top)], 9)
    if adapted(1.0, np.inf) <= least:  # AdaRR itself
        multiplier, maximum = 1.0, float("inf")
    return TunedRidge({"noise_variance": constant}, {"multiplier": multiplier, "maximum": maximum})


def _contexts(task: NoisyRegression, num_tasks: int, seed: int):
    """Sigma [B], then in the eigenvectors of S: b [B, D], eigenvalues [B, D], estimated s [B]."""
    N, D = task.num_context, task.num_inputs
    task = dataclasses.replace(task, batch_size=num_tasks)
    context = jax.jit(noisy_context, static_argnums=1)(jax.random.key(seed), task)
    sigma_B = np.asarray(task.sigma(context.u), np.float64)
    xx, xy, yy = (
        np.asarray(leaf, np.float64) for leaf in context.at(jnp.asarray(sigma_B, context.u.dtype))
    )
    values_BD, vectors_BDE = np.linalg.eigh(xx)
    b_BD = np.einsum("bde,bd->be", vectors_BDE, xy)
    residual_B = np.maximum(yy - np.sum(b_BD**2 / values_BD, axis=1), 0) / (N - D)
    return sigma_B, b_BD, values_BD, residual_B
