"""One gradient step from preconditioned inputs: what stacks of linear layers can do.

Source: 2309.05858, Proposition 2.

Dimension key: B sequences, T positions, F features, O observed, S steps of preconditioning.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from ico.layers import ChebyshevSteps, chebyshev_queries, chebyshev_steps, linear_attention

# What `preconditioned_start` tries: regularisers and lower ends of the spectrum, both as shares of
# its upper end.
_REGS, _LOWS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0), (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_MARGIN = 2.0  # beyond the largest eigenvalue seen: above the upper end steps diverge


class PreconditionedStep(nn.Module):
    """Queries preconditioned by Chebyshev steps, then one gradient step on all earlier pairs.

    Its parameters are rate [S, 1] and reg [1] as logarithms, momentum [S, 1] and scale []. With
    many steps it is ridge regression, `ico.algorithms.next_vector_ridge`.

    Fields:
      num_steps: S.
    """

    num_steps: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T F"], y: Float[Array, "B T O"]) -> Float[Array, "B T O"]:
        """Predicts the vector after each position.

        Args:
          x: features at every position; the pair at t is (features at t - 1, vector at t).
          y: the vectors themselves.
        """
        by_step = nn.initializers.zeros, (self.num_steps, 1)
        steps = ChebyshevSteps(
            jnp.exp(self.param("rate", *by_step)), self.param("momentum", *by_step)
        )
        reg = jnp.exp(self.param("reg", nn.initializers.zeros, (1,)))
        scale = self.param("scale", nn.initializers.ones, ())
        before = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))[:, :, None]
        T = x.shape[1]
        query = chebyshev_queries(x[:, :, None], before, reg=reg, steps=steps, chunk_size=T)
        o = cast(jax.Array, linear_attention(query, before, y[:, :, None], chunk_size=T))
        return scale * o[:, :, 0]


def preconditioned_start(
    x: Float[Any, "B T F"], num_steps: int, loss: Callable[[dict[str, Array]], Any]
) -> dict[str, Array]:
    """Parameters of `PreconditionedStep` that are known in advance, from a spectrum alone.

    Coefficients are those of Chebyshev's polynomials for the eigenvalues of the sequences' second
    moments, at the regulariser and lower end that are best by a loss.

    Args:
      x: features of sequences that it is not tested on.
      num_steps: S.
      loss: parameters -> number, on these sequences.
    """
    found = np.asarray(x, np.float64)
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
            if (value := float(loss(params))) < lowest:
                best, lowest = params, value
    return best
