"""Weights, set by hand, with which a transformer performs an explicit algorithm.

Source: 2212.07677, Proposition 1, appendices A.1 and A.10; 2309.05858, Proposition 1 and section 5.
`gd` and `gd_plus_plus` return parameters for `ico.models.LinearTransformer` with one head of token
width E = D + K and no other parts; `next_vector` for `ico.models.SequenceTransformer`;
`prototype_head` for `ico.models.HyperTransformer`.
Parameters act on rows: W_K = key^T, W_Q = query^T, W_V = value^T, P = out^T.
"""

import jax
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


def prototype_head(way: int, num_features: int, code_dim: int, sharpness: float = 60.0) -> PyTree:
    """A head whose weights are class means, written by one attention layer (2201.04182, 3.2).

    For `ico.models.HyperTransformer` with one block and head, no norms and no shared features,
    `head_reads="features"` and all convolutions learned: a label's code matches the slice of its
    class, so the slice's token becomes the mean of the features of the images with that label;
    unlabelled ones are not seen. The written biases are zero. Exact up to exp(-sharpness).

    Args:
      way, num_features: K and D.
      code_dim: width of the codes, more than K: the last coordinate marks an image with a label.
      sharpness: of the softmax.

    Returns:
      The parameters "labels" and "writers_head".

    Raises:
      ValueError: codes that are too short.
    """
    if code_dim <= way:
        raise ValueError(f"code_dim must be more than {way} ways, not {code_dim}")
    d, D = code_dim, num_features
    E = d + D + 1
    labels = jnp.zeros((way + 1, d)).at[:way, :way].set(jnp.eye(way)).at[:way, d - 1].set(1)
    slices = jnp.zeros((way, d)).at[:, :way].set(jnp.eye(way))
    places, features = jnp.arange(way), jnp.arange(D)
    # A slice's score with an image of its class is twice `sharpness`, with itself and with other
    # images `sharpness`, with images without a label nothing.
    query = jnp.zeros((E, 1, E)).at[places, 0, places].set(sharpness * E**0.5)
    key = jnp.zeros((E, 1, E)).at[places, 0, places].set(1).at[d - 1, 0, d].set(1)
    attention = {
        "query": query,
        "query_bias": jnp.zeros((1, E)).at[0, d].set(sharpness * E**0.5),
        "key": key,
        "key_bias": jnp.zeros((1, E)),
        "value": jnp.zeros((E, 1, E)).at[d + features, 0, features].set(1),
        "value_bias": jnp.zeros((1, E)),
        "out": jnp.zeros((1, E, E)).at[0, features, d + features].set(1),
        "out_bias": jnp.zeros(E),
    }
    nothing = {"kernel": jnp.zeros((E, E)), "bias": jnp.zeros(E)}
    block = {"attention": attention, "up": nothing, "down": nothing}
    blocks = {"block": jax.tree.map(lambda leaf: leaf[None], block)}  # one of them
    return {"labels": labels, "writers_head": {"slices": slices, "blocks": blocks}}
