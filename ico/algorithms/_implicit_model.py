"""The linear model that a linear transformer holds in its tokens (2402.14180, Theorem 4.1).

Every layer adds `sum_h P_h G Q_h e` to every token e = (x, y), where G = sum_j e_j e_j^T over the
context. So after any number of layers token i is T e_i0, with the same matrix T for all tokens:

    x_i = M x_i0 + y_i0 u,        y_i = a y_i0 - <w, x_i0>,        T = [[M, u], [-w^T, a]],

and a query, whose y is 0, is answered by -y = <w, x_query>: linear regression with weights w.

Dimension key: L layers, H heads, B tasks, D inputs, E = D + 1 token width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.types import Statistics


class ImplicitModel(NamedTuple):
    """The implicit model before the first layer (index 0) and after each layer."""

    M: Float[Array, "L+1 B D D"]
    u: Float[Array, "L+1 B D"]
    a: Float[Array, "L+1 B"]
    w: Float[Array, "L+1 B D"]


class DescentReading(NamedTuple):
    """A layer as a step on the loss `1/2 sum_i (a y_i - <w, x_i>)^2`:

        w_next = rescaling w - preconditioner gradient + momentum + cross

    `momentum` is parallel to M^T u, where u accumulates what earlier layers added to the inputs,
    that is, earlier gradients. `cross` is the contribution of the blocks of P and Q between x and
    y, zero in a diagonal model.
    """

    rescaling: Float[Array, "L B"]
    preconditioner: Float[Array, "L B D D"]
    gradient: Float[Array, "L B D"]
    momentum: Float[Array, "L B D"]
    cross: Float[Array, "L B D"]

    @property
    def descent(self) -> Float[Array, "L B D"]:
        """The gradient step, `-preconditioner gradient`."""
        return -jnp.einsum("lbde,lbe->lbd", self.preconditioner, self.gradient)


def implicit_model(
    p: Float[Array, "L H E E"], q: Float[Array, "L H E E"], statistics: Statistics
) -> ImplicitModel:
    """The implicit model of any linear transformer, layer by layer, in closed form.

    Args:
      p, q: the matrices P and Q of every head, acting on columns; those of a `LinearTransformer`
        come from `ico.models.stacked_products`.
      statistics: of the contexts, from `ico.algorithms.statistics`.

    Raises:
      ValueError: mismatched shapes.
    """
    p, q, g0_BEE = _padded(p, q, statistics)
    start_BEE = jnp.broadcast_to(jnp.eye(p.shape[-1], dtype=g0_BEE.dtype), g0_BEE.shape)

    def layer(t_BEE, pq_HEE):
        write_BEE = _written(pq_HEE[0], pq_HEE[1], _through(t_BEE, g0_BEE))
        t_BEE = t_BEE + write_BEE @ t_BEE
        return t_BEE, t_BEE

    _, t_LBEE = jax.lax.scan(layer, start_BEE, (p, q))
    t = jnp.concatenate([start_BEE[None], t_LBEE])
    D = statistics.xy.shape[-1]
    return ImplicitModel(t[..., :D, :D], t[..., :D, D], t[..., D, D], -t[..., D, :D])


def implicit_weights(
    p: Float[Array, "L H E E"], q: Float[Array, "L H E E"], statistics: Statistics
) -> Float[Array, "B D"]:
    """`implicit_model(p, q, statistics).w[-1]` only, at two thirds of the cost, for training.

    Computes the moments of the tokens before each layer, then pulls the linear functional "y of the
    query" back through the layers, which needs vectors instead of matrices.

    Raises:
      ValueError: mismatched shapes.
    """
    p, q, g_BEE = _padded(p, q, statistics)
    num_layers, D = len(p), statistics.xy.shape[-1]
    eye, layers = jnp.eye(p.shape[-1], dtype=g_BEE.dtype)[None], []
    for i in range(num_layers):
        layers.append(eye + _written(p[i], q[i], g_BEE))
        if i < num_layers - 1:
            g_BEE = _through(layers[-1], g_BEE)
    r_BE = layers.pop()[:, D]
    for layer_BEE in reversed(layers):
        r_BE = jnp.einsum("bef,be->bf", layer_BEE, r_BE)
    return -r_BE[:, :D]


def descent_reading(
    p: Float[Array, "L H E E"],
    q: Float[Array, "L H E E"],
    statistics: Statistics,
    model: ImplicitModel,
) -> DescentReading:
    """Every layer as preconditioned gradient descent with rescaling and momentum (section 4).

    With g the gradient, s = a sum y^2 - <w, sum y x>, and `p_yy`, `q_xx` ... the blocks of a head:
    the label's row of G is (-M g + s u, <w, g> + a s), so that a layer adds to w

        sum_h p_yy M^T q_xx^T M g  -  s sum_h p_yy M^T q_xx^T u  -  the terms in q_yx and p_yx,

    beside the rescaling by 1 + (sum_h P_h G Q_h)_yy.

    Args:
      p, q, statistics: see `implicit_model`.
      model: its result for them.

    Raises:
      ValueError: a model with another number of layers.
    """
    if len(model.w) != len(p) + 1:
        raise ValueError(f"model has {len(model.w) - 1} layers, p and q have {len(p)}")
    g0_BEE = moments(statistics)

    def layer(p_HEE, q_HEE, M, u, a, w):
        t_BEE = _matrix(M, u, a, w)
        write_BEE = _written(p_HEE, q_HEE, _through(t_BEE, g0_BEE))
        gradient = jnp.einsum("bde,be->bd", g0_BEE[:, :-1, :-1], w) - a[:, None] * statistics.xy
        s = a * statistics.yy - jnp.sum(w * statistics.xy, axis=1)
        back_DD = jnp.einsum("h,hde->ed", p_HEE[:, -1, -1], q_HEE[:, :-1, :-1])
        # The sign makes it positive definite where the layer descends.
        preconditioner = -jnp.einsum("bed,ef,bfg->bdg", M, back_DD, M)
        momentum = -s[:, None] * jnp.einsum("bed,ef,bf->bd", M, back_DD, u)
        rescaling = 1 + write_BEE[:, -1, -1]
        added = -jnp.einsum("bed,be->bd", M, write_BEE[:, -1, :-1])
        descent = -jnp.einsum("bde,be->bd", preconditioner, gradient)
        return DescentReading(
            rescaling, preconditioner, gradient, momentum, added - descent - momentum
        )

    return jax.vmap(layer)(p, q, *(leaf[:-1] for leaf in model))


def moments(statistics: Statistics) -> Float[Array, "B E E"]:
    """`sum_j e_j e_j^T` of the tokens e = (x, y)."""
    xx, xy, yy = statistics
    if xx.ndim == 2:
        xx = xx[:, :, None] * jnp.eye(xx.shape[1], dtype=xx.dtype)[None]
    top = jnp.concatenate([xx, xy[:, :, None]], axis=2)
    bottom = jnp.concatenate([xy, yy[:, None]], axis=1)
    return jnp.concatenate([top, bottom[:, None]], axis=1)


def _padded(p, q, statistics):
    """P, Q and the moments, padded with zeros to a width that is a multiple of four.

    On CPU, XLA multiplies 12 x 12 matrices several times faster than 11 x 11.
    """
    E = statistics.xy.shape[-1] + 1
    if p.shape != q.shape or p.ndim != 4 or p.shape[-2:] != (E, E) or 0 in p.shape:
        raise ValueError(f"p and q must be [L, H, {E}, {E}], got {p.shape}, {q.shape}")
    more = -E % 4
    p, q = (jnp.pad(a, ((0, 0), (0, 0), (0, more), (0, more))) for a in (p, q))
    return p, q, jnp.pad(moments(statistics), ((0, 0), (0, more), (0, more)))


def _through(t_BEE, g0_BEE):
    """The moments of tokens T e."""
    return t_BEE @ g0_BEE @ jnp.swapaxes(t_BEE, 1, 2)


def _written(p_HEE, q_HEE, g_BEE):
    """`sum_h P_h G Q_h`, as one product with P and one with Q over all tasks and heads."""
    return jnp.einsum("hbef,hfg->beg", jnp.einsum("hde,bef->hbdf", p_HEE, g_BEE), q_HEE)


def _matrix(M, u, a, w):
    top = jnp.concatenate([M, u[:, :, None]], axis=2)
    bottom = jnp.concatenate([-w, a[:, None]], axis=1)
    return jnp.concatenate([top, bottom[:, None]], axis=1)
