"""Weights, set by hand, with which a transformer performs an explicit algorithm.

Source: 2212.07677, Proposition 1, appendices A.1 and A.10; 2309.05858, Proposition 1 and section 5.
`gd` and `gd_plus_plus` return parameters for `ico.models.LinearTransformer` with one head of token
width E = D + K and no other parts; `next_vector` for `ico.models.SequenceTransformer`.
Parameters act on rows: W_K = key^T, W_Q = query^T, W_V = value^T, P = out^T.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.types import PyTree


def gd(
    rate: Float[Array, "*L"] | float,
    *,
    num_context: int,
    num_inputs: int,
    num_outputs: int = 1,
    num_layers: int = 1,
    tied: bool = False,
    w0: Float[Array, "K D"] | None = None,
) -> PyTree:
    """One gradient step per layer, equal to `ico.algorithms.gd` at the same rate.

    `W_K = W_Q = [[I, 0], [0, 0]]`, `W_V = [[0, 0], [W_0, -I]]`, `P = rate/N I`.

    Args:
      rate: scalar, or [L], one per layer (then not tied).
      num_context: N, the number of pairs that a step averages over.
      num_inputs, num_outputs, num_layers: D, K, L.
      tied: one block shared by all layers, as in `LinearTransformer(tied=True)`.
      w0: start [K, D]; the model then needs `initial_weights=True`.

    Raises:
      ValueError: rates of another shape, or several rates and `tied`.
    """
    return _layers(rate, 0.0, num_context, num_inputs, num_outputs, num_layers, tied, w0)


def gd_plus_plus(
    rate: Float[Array, "*L"] | float,
    gamma: Float[Array, "*L"] | float,
    *,
    num_context: int,
    num_inputs: int,
    num_outputs: int = 1,
    num_layers: int = 1,
    tied: bool = False,
) -> PyTree:
    """One GD++ step per layer, equal to `ico.algorithms.gd_plus_plus`.

    As `gd`, with `W_V = [[I, 0], [0, -I]]` and `P = diag(-gamma I, rate/N I)`.

    Raises:
      ValueError: rates or gammas of another shape, or several of them and `tied`.
    """
    return _layers(rate, gamma, num_context, num_inputs, num_outputs, num_layers, tied, None)


def next_vector(
    rate: Float[Array, ""] | float = 1.0,
    *,
    num_inputs: int,
    lam: Float[Array, ""] | float | None = None,
) -> PyTree:
    """One layer that predicts x_{t+1} from constructed tokens (0, x_t, x_t, x_{t-1}).

    Its keys are x_{s-1}, its values x_s, its query x_t, so that a linear layer adds
    `rate sum_s x_s x_{s-1}^T x_t`, one gradient step from zero on `1/2 sum_s |x_s - W x_{s-1}|^2`,
    and a mesa layer adds rate times the regularised least-squares prediction.

    Args:
      rate: the factor of the update.
      num_inputs: D; the model has `embed_dim=0, position_dim=0, num_heads=1, head_dim=D`.
      lam: the inverse of the regulariser, for kind "mesa" with `free_lam`; None for "linear".

    Returns:
      Parameters of one block.
    """
    eye = jnp.eye(num_inputs)

    def part(place):
        blocks = jnp.zeros((1, 4, num_inputs, num_inputs)).at[0, place].set(eye)
        return blocks.reshape(1, 4 * num_inputs, num_inputs)

    attention = {
        "key": part(3),
        "query": part(2),
        "value": part(1),
        "out": rate * jnp.swapaxes(part(0), 1, 2),
    }
    if lam is not None:
        attention["lam"] = jnp.asarray(lam, eye.dtype)[None]
    return {"block_0": {"attention": attention}}


def _layers(rate, gamma, num_context, num_inputs, num_outputs, num_layers, tied, w0) -> PyTree:
    rate, gamma = jnp.asarray(rate), jnp.asarray(gamma)
    if tied and (rate.ndim or gamma.ndim):
        raise ValueError("tied layers share one rate and one gamma")
    for name, value in (("rate", rate), ("gamma", gamma)):
        if value.ndim and value.shape != (num_layers,):
            raise ValueError(f"{name} must be a scalar or [{num_layers}], not {value.shape}")
    count = 1 if tied else num_layers
    rates, gammas = (jnp.broadcast_to(a, (count,)) for a in (rate, gamma))
    params = {
        f"block_{layer}": {
            "attention": _attention(
                rates[layer] / num_context, gammas[layer], num_inputs, num_outputs, w0
            )
        }
        for layer in range(count)
    }
    return params if w0 is None else {**params, "start": w0}


def _attention(step, gamma, num_inputs, num_outputs, w0) -> PyTree:
    dtype = jnp.result_type(step, gamma) if w0 is None else w0.dtype
    x_part = jnp.concatenate([jnp.ones(num_inputs, dtype), jnp.zeros(num_outputs, dtype)])
    y_part = 1 - x_part
    # With a start the values are W_0 x - y, the residuals of W_0, in the first and in all layers:
    # a step subtracts from the labels what it adds to W.
    value = jnp.diag(x_part - y_part)
    if w0 is not None:
        value = jnp.diag(-y_part).at[:num_inputs, num_inputs:].set(w0.T)
    return {
        "key": jnp.diag(x_part)[None],
        "query": jnp.diag(x_part)[None],
        "value": value[None],
        "out": jnp.diag(step * y_part - gamma * x_part)[None],
    }
