"""Linear transformers with diagonal weights, in closed form on sufficient statistics.

A head with P = diag(p_x I, p_y) and Q = diag(q_x I, q_y) acts through four scalars a layer
(2402.14180, section 4.3),

    x <- x + w_xx S x + w_xy y b,        y <- y + w_yx <b, x> + w_yy l y,

S = sum x x^T, b = sum y x, l = sum y^2 over the tokens before the layer, and w_ab = p_a q_b, summed
over heads. One head implies w_xx w_yy = w_xy w_yx; with two or more the scalars are free.

Dimension key: L layers, H heads, B tasks, D inputs, E = D + 1 token width.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.types import Statistics


class DiagonalScalars(NamedTuple):
    """The four scalars of each layer. GD++ has w_xy = w_yy = 0, gradient descent also w_xx = 0."""

    xx: Float[Array, "L"]
    xy: Float[Array, "L"]
    yx: Float[Array, "L"]
    yy: Float[Array, "L"]


def diagonal_scalars(
    p_x: Float[Array, "L H"],
    p_y: Float[Array, "L H"],
    q_x: Float[Array, "L H"],
    q_y: Float[Array, "L H"],
) -> DiagonalScalars:
    """The scalars of a diagonal model, from the diagonals of P and Q of its heads."""
    return DiagonalScalars(
        *(jnp.sum(p * q, axis=1) for p, q in ((p_x, q_x), (p_x, q_y), (p_y, q_x), (p_y, q_y)))
    )


def diagonal_heads(
    scalars: DiagonalScalars, num_inputs: int
) -> tuple[Float[Array, "L 2 E E"], Float[Array, "L 2 E E"]]:
    """Matrices P and Q of a two-headed linear attention that acts through these scalars."""
    zero = jnp.zeros_like(scalars.xx)
    # The first head has q_y = 0, the second q_x = 0.
    p_x = jnp.stack([scalars.xx, scalars.xy], axis=1)
    p_y = jnp.stack([scalars.yx, scalars.yy], axis=1)
    q_x = jnp.stack([zero + 1, zero], axis=1)
    q_y = jnp.stack([zero, zero + 1], axis=1)
    on_x = jnp.ones(num_inputs + 1, zero.dtype).at[-1].set(0)

    def matrices(x_LH, y_LH):
        diagonal_LHE = x_LH[..., None] * on_x[None, None] + y_LH[..., None] * (1 - on_x)[None, None]
        return diagonal_LHE[..., None] * jnp.eye(num_inputs + 1, dtype=zero.dtype)[None, None]

    return matrices(p_x, p_y), matrices(q_x, q_y)


def diagonal_weights(
    scalars: DiagonalScalars, statistics: Statistics, *, all_layers: bool = False
) -> Float[Array, "B D"] | Float[Array, "L B D"]:
    """The weights w with which a diagonal linear transformer predicts <w, x_query>.

    Computes the statistics before each layer, then pulls the linear functional "y of the query"
    back through the layers to the input. Tokens are never formed.

    Args:
      scalars: of the layers.
      statistics: of the contexts.
      all_layers: return the weights after each layer instead of the last.

    Raises:
      ValueError: no layers, or scalars of different lengths.
    """
    num_layers = len(scalars.xx)
    if not num_layers:
        raise ValueError("a diagonal linear transformer needs a layer or more: give scalars [L]")
    if len(lengths := {len(leaf) for leaf in scalars}) > 1:
        raise ValueError(f"scalars must all be [L], not of lengths {sorted(lengths)}")
    # From here on the batch is the last axis, [D, B]. Scalars are broadcast over tasks first: their
    # gradients are then sums over D, and the slow sum over tasks is made only once per scalar.
    B = len(statistics.yy)
    layers = [
        DiagonalScalars(*(jnp.broadcast_to(leaf[i], (B,)) for leaf in scalars))
        for i in range(num_layers)
    ]
    spectral = statistics.xx.ndim == 2
    gram = _Spectral(statistics.xx.T) if spectral else _Dense(statistics.xx)
    seen: list[tuple] = [(gram, statistics.xy.T, statistics.yy)]
    for i, layer in enumerate(layers[:-1]):
        # The Gram matrix after the second-to-last layer is not needed.
        seen.append(_after(layer, *seen[-1], with_gram=i < num_layers - 2))

    def weights(depth):
        last, (_, xy, yy) = layers[depth - 1], seen[depth - 1]
        r_x, r_y = last.yx[None] * xy, 1 + last.yy * yy
        for layer, (gram, xy, yy) in reversed(list(zip(layers, seen, strict=True))[: depth - 1]):
            r_x, r_y = (
                r_x + layer.xx[None] * gram.apply(r_x) + (layer.yx * r_y)[None] * xy,
                r_y + layer.xy * _dot(xy, r_x) + layer.yy * yy * r_y,
            )
        return -r_x.T

    if all_layers:
        return jnp.stack([weights(depth) for depth in range(1, num_layers + 1)])
    return weights(num_layers)


def _after(layer: DiagonalScalars, gram, xy, yy, *, with_gram: bool):
    """The statistics (S, b, l) of the tokens after a layer.

    With A = I + w_xx S:  x' = A x + w_xy y b,  y' = (1 + w_yy l) y + w_yx <b, x>.
    """
    b, sb = xy, gram.apply(xy)
    bb = _dot(b, b)
    ab = b + layer.xx[None] * sb
    keep = 1 + layer.yy * yy
    # b' = keep (A b + w_xy l b) + w_yx (A S b + w_xy |b|^2 b)
    asb = sb + layer.xx[None] * gram.apply(sb)
    factor = layer.xy * (keep * yy + layer.yx * bb)
    xy_next = keep[None] * ab + layer.yx[None] * asb + factor[None] * b
    yy_next = keep**2 * yy + 2 * keep * layer.yx * bb + layer.yx**2 * _dot(b, sb)
    if with_gram:
        # S' = A S A + h b^T + b h^T
        h = layer.xy[None] * ab + (0.5 * layer.xy**2 * yy)[None] * b
        gram = gram.through(layer.xx, h, b)
    return gram, xy_next, yy_next


class _Dense(NamedTuple):
    """A Gram matrix S in full, [B, D, D]."""

    s_BDD: Array

    def apply(self, v_DB):
        return jnp.einsum("bde,eb->db", self.s_BDD, v_DB)

    def through(self, w_B, h_DB, b_DB):
        """(I + w S) S (I + w S) + h b^T + b h^T."""
        s, w = self.s_BDD, w_B[:, None, None]
        ss = s @ s
        return _Dense(s + 2 * w * ss + w**2 * (s @ ss) + _outer(h_DB, b_DB))


class _Spectral(NamedTuple):
    """S = diag(f) + the sum of p q^T + q p^T over a few pairs of vectors, without forming a matrix.

    Products of many small matrices would be the slowest part of a training step.
    """

    f_DB: Array
    pairs: tuple = ()

    def apply(self, v_DB):
        return self.f_DB * v_DB + self._low(v_DB)

    def _low(self, v_DB):
        """The product of the low-rank part with v."""
        return sum(
            (p * _dot(q, v_DB)[None] + q * _dot(p, v_DB)[None] for p, q in self.pairs),
            jnp.zeros_like(v_DB),
        )

    def through(self, w_B, h_DB, b_DB):
        """(I + w S) S (I + w S) + h b^T + b h^T.

        With F the diagonal part, P the other, A = I + w S and A0 = I + w F this is
        A0 F A0 + A P A + X P + P X^T, where X = w A0 F + w^2/2 P F.
        """
        f, w = self.f_DB, w_B[None]
        a0 = 1 + w * f
        if len(self.pairs) > _MOST_PAIRS:
            return _Dense(_diagonal(f) + sum(_outer(p, q) for p, q in self.pairs)).through(
                w_B, h_DB, b_DB
            )
        pairs = []
        for p, q in self.pairs:
            xp, xq = (w * (a0 * f * v + 0.5 * w * self._low(f * v)) for v in (p, q))
            ap, aq = (v + w * self.apply(v) for v in (p, q))
            pairs += [(xp, q), (xq, p), (ap, aq)]
        return _Spectral(a0**2 * f, (*pairs, (h_DB, b_DB)))


_MOST_PAIRS = 1  # with more than this S is formed: their number more than triples per layer


def _diagonal(f_DB):
    return f_DB.T[:, :, None] * jnp.eye(len(f_DB), dtype=f_DB.dtype)[None]


def _outer(u_DB, v_DB):
    """u v^T + v u^T, [B, D, D]."""
    u, v = u_DB.T, v_DB.T
    return u[:, :, None] * v[:, None] + v[:, :, None] * u[:, None]


def _dot(u_DB, v_DB):
    return jnp.sum(u_DB * v_DB, axis=0)
