"""Weights of linear transformers: their products, interpolation between models, their scale.

Dimension key: H heads, E token width, A head width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ico.types import PyTree


def products(block: PyTree) -> tuple[Float[Array, "H E E"], Float[Array, "H E E"]]:
    """W_KQ = W_K^T W_Q and W_PV = P W_V of one block's attention, as acting on columns.

    Returns:
      ([H, E, E], [H, E, E]); a token e_j receives `sum_h W_PV,h sum_i e_i (e_i^T W_KQ,h e_j)`.
    """
    attention = block["attention"]
    # Parameters act on rows: W_K = key^T, W_Q = query^T, W_V = value^T, P = out^T.
    w_kq = jnp.einsum("hea,hfa->hef", attention["key"], attention["query"])
    w_pv = jnp.einsum("hae,hfa->hef", attention["out"], attention["value"])
    return w_kq, w_pv


def from_products(w_kq: Float[Array, "H E E"], w_pv: Float[Array, "H E E"]) -> PyTree:
    """A block of attention alone with these products, its heads as wide as the tokens."""
    eye = jnp.broadcast_to(jnp.eye(w_kq.shape[-1], dtype=w_kq.dtype), w_kq.shape)
    return {
        "attention": {
            "key": w_kq,
            "query": eye,
            "value": jnp.swapaxes(w_pv, -1, -2),
            "out": eye,
        }
    }


def normalise(params: PyTree, num_outputs: int = 1) -> PyTree:
    """The same function with W_KQ / beta and W_PV beta, beta the mean diagonal of W_KQ's x part.

    Only the product of the two is determined by what a layer does; this fixes the scale between
    them (authors' code, `analyse`), so that two models can be compared weight by weight.

    Args:
      params: parameters of a one-headed `LinearTransformer` of attention-only blocks.
      num_outputs: K, the last coordinates, which stay out of the mean.

    Returns:
      Parameters of the same structure with head width E.
    """
    result = {}
    for name, block in params.items():
        w_kq, w_pv = products(block)
        diagonal = jnp.diagonal(w_kq, axis1=-2, axis2=-1)[..., :-num_outputs]
        beta = jnp.mean(diagonal, axis=-1)[..., None, None]
        result[name] = from_products(w_kq / beta, w_pv * beta)
    return result


def interpolate(a: PyTree, b: PyTree, weight: float = 0.5, num_outputs: int = 1) -> PyTree:
    """The model between two: products of `normalise`d weights, `(1 - weight) a + weight b`.

    The products are averaged, not the factors: W_K and W_Q alone have no meaning (2212.07677,
    section 3).

    Args:
      a, b: parameters of one-headed attention-only `LinearTransformer`s of equal depth.
      weight: 0 is `a`, 1 is `b`.
      num_outputs: K.

    Raises:
      ValueError: blocks that do not match.
    """
    return average_products(normalise(a, num_outputs), normalise(b, num_outputs), weight)


def average_products(a: PyTree, b: PyTree, weight: float = 0.5) -> PyTree:
    """The model whose products of weights are `(1 - weight) a + weight b`, head by head.

    For models whose heads correspond and whose scales agree, such as a model and the one made of
    its block scalars (`from_block_scalars`); `interpolate` aligns the scales of one-headed models.

    Raises:
      ValueError: blocks that do not match.
    """
    if a.keys() != b.keys():
        raise ValueError(f"cannot interpolate blocks {sorted(a)} with {sorted(b)}")
    return {
        name: from_products(
            *(
                (1 - weight) * one + weight * other
                for one, other in zip(products(a[name]), products(b[name]), strict=True)
            )
        )
        for name in a
    }


def gd_plus_plus_gamma(block: PyTree, num_outputs: int = 1) -> np.floating:
    """GD++'s gamma in a layer: minus the mean diagonal of W_PV's x part times that of W_KQ's.

    Args:
      block: of attention alone; heads are summed.
      num_outputs: K, the last coordinates, which stay out of the means.
    """

    def mean_diagonal(w_HEE):
        return np.diagonal(np.asarray(w_HEE).sum(0))[:-num_outputs].mean()

    w_kq, w_pv = products(block)
    return -mean_diagonal(w_kq) * mean_diagonal(w_pv)


def block_scalars(params: PyTree, width: int) -> PyTree:
    """The mean diagonals of the width x width blocks of W_KQ and W_PV (2309.05858, section 4).

    Args:
      params: blocks of attention alone, on tokens of P parts of one width.
      width: of one part.

    Returns:
      For each block {"kq": [H, P, P], "pv": [H, P, P]}.
    """

    def scalars(matrix_HEE):
        H, E, _ = matrix_HEE.shape
        parts = matrix_HEE.reshape(H, E // width, width, E // width, width)
        return jnp.einsum("hpiqi->hpq", parts) / width

    return {
        name: dict(zip(("kq", "pv"), map(scalars, products(block)), strict=True))
        for name, block in params.items()
    }


def from_block_scalars(scalars: PyTree, width: int) -> PyTree:
    """The model that multiplies every part of a token only by scalars (CompressedAlg).

    Args:
      scalars: from `block_scalars`.
      width: of one part.

    Returns:
      Parameters of blocks whose heads are as wide as the tokens.
    """

    def expand(scalars_HPP):
        eye = jnp.eye(width, dtype=scalars_HPP.dtype)
        H, P, _ = scalars_HPP.shape
        return jnp.einsum("hpq,ij->hpiqj", scalars_HPP, eye).reshape(H, P * width, P * width)

    return {
        name: from_products(expand(block["kq"]), expand(block["pv"]))
        for name, block in scalars.items()
    }


def gradient_step_like(params: PyTree, rate: float, width: int) -> PyTree:
    """One gradient step of next-vector prediction, in weights whose heads resemble a given layer's.

    On constructed tokens (0, x_t, x_t, x_{t-1}): keys are x_{t-1}, queries and values both copies
    of x_t alike, into the first part, the prediction; all else is zero. A head's weights are
    determined up to a scale between W_KQ and W_PV, and what a head does up to its share of the
    whole: these two numbers are the given layer's, and the sum over heads is the rate. So the two
    layers can be averaged head by head (`average_products`).

    Args:
      params: one block of attention alone.
      rate: of the gradient step.
      width: of a part of the tokens.
    """
    ((name, block),) = block_scalars(params, width).items()
    keys_H, values_H = _step_scalars(block)
    values_H = values_H * rate / (keys_H * values_H).sum()
    heads = {
        "kq": keys_H[:, None, None] * _STEP_KQ[None],
        "pv": values_H[:, None, None] * _STEP_PV[None],
    }
    return from_block_scalars({name: heads}, width)


def gradient_step_rate(params: PyTree, width: int) -> Float[Array, ""]:
    """The rate of the gradient step that a layer takes on constructed tokens, by its scalars."""
    (block,) = block_scalars(params, width).values()
    keys_H, values_H = _step_scalars(block)
    return (keys_H * values_H).sum()


# Which blocks of W_KQ and of W_PV a gradient step on constructed tokens has.
_STEP_KQ, _STEP_PV = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
_STEP_KQ[3, 1:3] = _STEP_PV[0, 1:3] = 0.5


def _step_scalars(block: PyTree):
    """Sums of each head's scalars over the blocks that a gradient step has, [H] each."""
    return block["kq"][:, 3, 1:3].sum(-1), block["pv"][:, 0, 1:3].sum(-1)


def scale_updates(params: PyTree, factor: float) -> PyTree:
    """The same model with every attention update multiplied by a factor.

    A linear layer adds up its context where gradient descent averages over it: trained with 10
    pairs and given N, its update needs the factor 10 / N.
    """

    def scale(path, leaf):
        return leaf * factor if jax.tree_util.keystr(path[-1:], simple=True) == "out" else leaf

    return jax.tree_util.tree_map_with_path(scale, params)
