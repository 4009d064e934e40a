"""The algorithms that models are compared with.

Least squares at its best regulariser; Proposition 2: preconditioning, then one gradient step.

Dimension key: S steps of preconditioning, B sequences, T positions, F features, O observed.
"""

import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from experiments.mesa_optimization import systems
from ico import lab, tasks
from ico.algorithms import next_vector_ridge
from ico.layers import ChebyshevSteps, chebyshev_queries, chebyshev_steps, linear_attention

_INVERSES = np.geomspace(1e-1, 1e6, 57)  # of the regularisers that are tried
_CHOOSE = 500  # sequences that they are chosen on
# What Proposition 2 starts from: the best, on other sequences, of these regularisers and lower
# ends of the spectrum, both as shares of its upper end.
_MARGIN = 2.0  # beyond the largest eigenvalue seen: above the upper end steps diverge
_REGS, _LOWS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0), (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


@threadpoolctl.threadpool_limits.wrap(limits=1)  # of many small matrices
def least_squares_losses(test: tuple, other: tuple) -> tuple[np.ndarray, float]:
    """Losses [B, T] of least squares, all pairs counted, and the inverse of its regulariser.

    Args:
      test: what it works on [B, T, F] (the vectors themselves or features of them), the vectors
        [B, T, O], and what follows each position [B, T, O].
      other: the same of other sequences, for which the regulariser is best.
    """

    def losses(inverses, x, y, targets):
        error = next_vector_ridge(x, y, inverses) - np.asarray(targets, np.float64)
        return 0.5 * np.sum(error**2, axis=-1)

    tried = losses(_INVERSES, *(side[:_CHOOSE] for side in other))
    best = float(_INVERSES[int(np.argmin(tried.mean((1, 2))))])
    return losses([best], *test)[0], best


# Proposition 2 ------------------------------------------------------------------------------------


def preconditioned_step(params, x_BTF, y_BTO):
    """Proposition 2: queries preconditioned by Chebyshev steps, then one gradient step.

    Args:
      params: rate [S, 1] and reg [1] as logarithms, momentum [S, 1], scale [].
      x_BTF: features at every position; the pair at t is (features at t - 1, vector at t).
      y_BTO: the vectors themselves.
    """
    before = jnp.pad(x_BTF[:, :-1], ((0, 0), (1, 0), (0, 0)))[:, :, None]
    steps, T = ChebyshevSteps(jnp.exp(params["rate"]), params["momentum"]), x_BTF.shape[1]
    query = chebyshev_queries(
        x_BTF[:, :, None], before, reg=jnp.exp(params["reg"]), steps=steps, chunk_size=T
    )
    o = cast(jax.Array, linear_attention(query, before, y_BTO[:, :, None], chunk_size=T))
    return params["scale"] * o[:, :, 0]


@functools.partial(jax.jit, static_argnums=0)
def proposition_losses(task: tasks.Dynamics, params, sequence) -> jax.Array:
    """Losses [B, T] of Proposition 2's algorithm."""
    x = sequence.inputs
    error = preconditioned_step(params, tasks.dynamics_features(x, task), x) - sequence.targets
    return 0.5 * jnp.sum(error**2, axis=-1)


def known_in_advance(task: tasks.Dynamics, other, num_steps: int) -> dict:
    """Coefficients by Chebyshev's polynomials for the spectrum of other sequences: a start.

    Args:
      task: the systems.
      other: sequences that it is not tested on.
      num_steps: of the preconditioning.
    """
    other = other._replace(inputs=other.inputs[:_CHOOSE], targets=other.targets[:_CHOOSE])
    found = np.asarray(tasks.dynamics_features(other.inputs, task), np.float64)
    high = float(np.linalg.eigvalsh(np.einsum("btf,btg->bfg", found, found)).max())
    best, lowest = {}, np.inf
    for reg in _REGS:
        for low in _LOWS:
            steps = chebyshev_steps(low * high, _MARGIN * high * (1 + reg), num_steps, 1)
            params = {
                "rate": jnp.log(steps.rate),
                "momentum": steps.momentum,
                "reg": jnp.log(jnp.full(1, reg * high)),
                "scale": jnp.ones(()),
            }
            params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
            loss = float(jnp.mean(proposition_losses(task, params, other)))
            if loss < lowest:
                best, lowest = params, loss
    return best


def train_proposition(run: lab.Run, name: str, task: tasks.Dynamics, start: dict) -> lab.Trained:
    """Learns the coefficients of Proposition 2's algorithm from a start."""
    # Rounded, for eigenvalues may differ in their last digits from process to process.
    rounded = jax.tree.map(lambda leaf: [float(f"{x:.3g}") for x in np.ravel(leaf)], start)
    return lab.train(
        run,
        f"proposition-{name}",
        None,
        functools.partial(systems.draw, task=task),
        systems.recipe(run.config.scalar_steps, 1e-2, weight_decay=0.0),
        loss=functools.partial(_proposition_loss, task),
        init=lambda key: start,
        spec={"start": rounded},
    )


def _proposition_loss(task, params, batch):
    prediction = preconditioned_step(
        params, tasks.dynamics_features(batch.inputs, task), batch.inputs
    )
    return jnp.mean(tasks.half_squared_error(prediction, batch.targets)), {}
