"""Linear transformers on tokens (x, y) that compute with sums over the context, not with tokens.

They compute exactly what linear attention over the tokens does (an `ico.models.LinearTransformer`
with the same products of weights), at a cost that does not grow with the context.
Each model has `weights(statistics)`, the linear model that it fits in context.

Source: 2402.14180, sections 3 and 4. Initialisation is UNVERIFIED there: normal, `init_scale`.

Dimension key: L layers, H heads, B tasks, Q queries, D inputs, E = D + 1 token width.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ico.algorithms import (
    DiagonalScalars,
    diagonal_scalars,
    diagonal_weights,
    implicit_model,
    implicit_weights,
    statistics,
)
from ico.types import Prompt, PyTree, Statistics


class _InContextRegression(nn.Module):
    """Base of the four models: from a prompt to its statistics, from weights to predictions."""

    num_layers: int = 1
    init_scale: float = 0.1

    def __call__(
        self, prompt: Prompt, all_layers: bool = False
    ) -> Float[Array, "B Q 1"] | Float[Array, "L B Q 1"]:
        """Predictions for the queries, of the last layer or of every layer."""
        w = self.weights(statistics(prompt), all_layers=all_layers)
        return jnp.einsum("bqd,...bd->...bq", prompt.x_query, w)[..., None]

    def weights(
        self, statistics: Statistics, all_layers: bool = False
    ) -> Float[Array, "B D"] | Float[Array, "L B D"]:
        """The weights w of the linear model <w, x_query> that the layers fit."""
        raise NotImplementedError

    def _normal(self, name: str, *shape: int):
        for size in ("num_layers", "num_heads", "num_inputs"):
            if getattr(self, size, 1) < 1:
                raise ValueError(f"{size} must be at least 1, not {getattr(self, size)}")
        return self.param(name, nn.initializers.normal(self.init_scale), shape)


class FullLinearTransformer(_InContextRegression):
    """FULL: free matrices P and Q for every head."""

    num_inputs: int = 10
    num_heads: int = 1

    @nn.compact
    def weights(self, statistics, all_layers=False):
        L, H, E = self.num_layers, self.num_heads, self.num_inputs + 1
        p, q = self._normal("p", L, H, E, E), self._normal("q", L, H, E, E)
        if all_layers:
            return implicit_model(p, q, statistics).w[1:]
        return implicit_weights(p, q, statistics)


class _Scalars(_InContextRegression):
    """Layers that act through four scalars."""

    def scalars(self) -> DiagonalScalars:
        """The scalars of every layer."""
        raise NotImplementedError

    def weights(self, statistics, all_layers=False):
        return diagonal_weights(self.scalars(), statistics, all_layers=all_layers)


class DiagonalLinearTransformer(_Scalars):
    """DIAG: P = diag(p_x I, p_y), Q = diag(q_x I, q_y) for every head."""

    num_heads: int = 1

    @nn.compact
    def scalars(self):
        shape = self.num_layers, self.num_heads
        return diagonal_scalars(
            *(self._normal(name, *shape) for name in ("p_x", "p_y", "q_x", "q_y"))
        )


class FreeDiagonalLinearTransformer(_Scalars):
    """DIAG with two or more heads, parametrised by the four scalars of a layer themselves.

    Their initial standard deviation is `init_scale` squared, as DIAG's are products of two.
    """

    @nn.compact
    def scalars(self):
        init = nn.initializers.normal(self.init_scale**2)
        if self.num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, not {self.num_layers}")
        return DiagonalScalars(
            *(
                self.param(name, init, (self.num_layers,))
                for name in ("w_xx", "w_xy", "w_yx", "w_yy")
            )
        )


class GdPlusPlusLinearTransformer(_Scalars):
    """GD++: a diagonal model with w_xy = w_yy = 0, gradient descent with curvature correction."""

    num_heads: int = 1

    @nn.compact
    def scalars(self):
        shape = self.num_layers, self.num_heads
        p_x, p_y, q_x = (self._normal(name, *shape) for name in ("p_x", "p_y", "q_x"))
        return diagonal_scalars(p_x, p_y, q_x, jnp.zeros_like(q_x))


def stacked_products(params: PyTree) -> tuple[Float[Array, "L H E E"], Float[Array, "L H E E"]]:
    """P and Q of every layer of an untied, attention-only `LinearTransformer`.

    In the form that `ico.algorithms.implicit_model` takes: P W_V and W_K^T W_Q of every head.
    """
    from ico.models._interpolation import products

    blocks = [products(params[f"block_{layer}"]) for layer in range(len(params))]
    w_kq, w_pv = (jnp.stack(part) for part in zip(*blocks, strict=True))
    return w_pv, w_kq
