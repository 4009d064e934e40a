"""Features of every single parameter, and a network that is applied to each.

After Metz et al., "Practical tradeoffs between memory, compute, and performance in learned
optimizers" (2203.11860): momenta, second moments, and second moments factored as Adafactor's.

Dimension key: R decay rates, F features, I and O inputs and outputs of a layer.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from ico.optim._by_group import check_floating, in_float32
from ico.optim._network import network_init
from ico.optim._outliers import keep_if, safe_gradient

DECAYS = (0.9, 0.99, 0.999)
TIMES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
_SECOND = 0.999
_TINY = 1e-8
_MAX_UNROLLED = 64  # kernels up to this many entries are unrolled
NUM_FEATURES = 2 + 5 * len(DECAYS) + 2  # of matrices; vectors have three fewer a decay rate


class Moments(NamedTuple):
    """Running means of one tensor: of the gradient, its square, and the square's rows and columns.

    Shapes: [R, *shape], [*shape], and [R, *shape without the last or the last but one axis]; the
    last two are None for tensors of fewer than two axes.
    """

    first: Float[Array, "R ..."]
    second: Float[Array, "..."]
    rows: Float[Array, "R ..."] | None
    columns: Float[Array, "R ..."] | None


def moments_of(leaf) -> Moments:
    """Zero moments for a parameter."""
    R, shape = len(DECAYS), leaf.shape
    rows = columns = None
    if leaf.ndim >= 2:
        rows = jnp.zeros((R, *shape[:-1]), jnp.float32)
        columns = jnp.zeros((R, *shape[:-2], shape[-1]), jnp.float32)
    return Moments(
        jnp.zeros((R, *shape), jnp.float32), jnp.zeros(shape, jnp.float32), rows, columns
    )


def is_moments(node) -> bool:
    """For `jax.tree.map` over a tree of `Moments`."""
    return isinstance(node, Moments)


def move(moments: Moments, grad) -> Moments:
    """All running means after one more gradient."""
    if not grad.size:  # a mean over no rows is NaN
        return moments
    grad = grad.astype(jnp.float32)
    square = grad * grad

    def along(old, new):
        decay = jnp.asarray(DECAYS, jnp.float32).reshape(-1, *[1] * new.ndim)
        return decay * old + (1 - decay) * new[None]

    return Moments(
        along(moments.first, grad),
        _SECOND * moments.second + (1 - _SECOND) * square,
        None if moments.rows is None else along(moments.rows, jnp.mean(square, -1)),
        None if moments.columns is None else along(moments.columns, jnp.mean(square, -2)),
    )


def features_of(moments: Moments, grad, param) -> list[Float[Array, "..."]]:
    """Features of every entry of a tensor, each broadcastable to the tensor's shape.

    The gradient and the parameter. For every decay rate the momentum, the momentum over the root of
    the second moment and, for matrices, the gradient scaled by factored second moments and the two
    factors. Last, one over the root of the second moment, and the root itself.
    """
    grad, param = grad.astype(jnp.float32), param.astype(jnp.float32)
    root = jax.lax.rsqrt(moments.second + _TINY)
    found = [grad, param]
    for r in range(len(DECAYS)):
        found += [moments.first[r], moments.first[r] * root]
        if moments.rows is None or moments.columns is None:
            continue
        rows, columns = moments.rows[r], moments.columns[r]
        whole = jnp.mean(rows, -1, keepdims=True)
        by_row = jax.lax.rsqrt(rows / (whole + _TINY) + _TINY)[..., None]
        by_column = jax.lax.rsqrt(columns + _TINY)[..., None, :]
        found += [grad * by_row * by_column, by_row, by_column]
    found += [root, 1 / root]
    return found


def time_features(count) -> Float[Array, "T"]:
    """Steps done, at eleven scales: each feature goes from -1 to 1 around its scale."""
    return jnp.tanh(jnp.log((count + 1) / jnp.asarray(TIMES, jnp.float32)))


def apply_each(
    layers: dict[str, Any], features: Sequence[Float[Array, "..."]], shape, bias: Array
) -> list[Float[Array, "..."]]:
    """An MLP on every entry of a tensor; it sees each feature at unit mean square.

    The first layer is a product of its kernel with features [F, entries]. Features are grouped by
    shape, so that those constant along rows or columns are multiplied before they are broadcast,
    and the scale of a feature is applied to the kernel, not to all entries. Further layers with
    small kernels are unrolled into sums, which are faster than tiny matrix products. (Unrolling the
    first is no faster, and takes minutes to compile where it is differentiated.)

    Args:
      layers: from `network_init`; the first kernel has only the F rows of the features given.
      features: F arrays, each broadcastable to `shape`.
      shape: of the tensor.
      bias: of the first layer, with the contribution of features common to all entries, [width].

    Returns:
      One array of the tensor's shape for each output.
    """
    kernel_FO = layers["dense_0"]["kernel"]
    scale_F = jnp.stack([jax.lax.rsqrt(jnp.mean(x * x) + 1e-5) for x in features])
    scaled_OF = (kernel_FO * scale_F[:, None]).T
    hidden = jnp.expand_dims(bias, range(1, 1 + len(shape)))
    for kind in dict.fromkeys(x.shape for x in features):
        places = [f for f, x in enumerate(features) if x.shape == kind]
        x_FN = jnp.stack([features[f].reshape(-1) for f in places])
        part = jnp.matmul(scaled_OF[:, np.array(places)], x_FN, precision="highest")
        hidden = hidden + part.reshape(-1, *kind)
    outputs = list(jnp.broadcast_to(hidden, (len(bias), *shape)))
    for i in range(1, len(layers)):
        inputs = [jax.nn.relu(x) for x in outputs]
        kernel, offset = layers[f"dense_{i}"]["kernel"], layers[f"dense_{i}"]["bias"]
        if kernel.size > _MAX_UNROLLED:
            product = jnp.tensordot(kernel.T, jnp.stack(inputs), 1)
            outputs = list(product + jnp.expand_dims(offset, range(1, 1 + len(shape))))
            continue
        outputs = [
            sum((kernel[j, o] * x for j, x in enumerate(inputs)), start=offset[o])
            for o in range(len(offset))
        ]
    return outputs


def feature_places(moments: Moments) -> Array:
    """Rows of the first kernel that a tensor's features use: vectors have no factored moments."""
    places = [0, 1]
    for r in range(len(DECAYS)):
        start = 2 + 5 * r
        places += range(start, start + (2 if moments.rows is None else 5))
    places += [NUM_FEATURES - 2, NUM_FEATURES - 1]
    return jnp.asarray(places)


def output(theta, moments: Moments, grad, param, count) -> list[Float[Array, "..."]]:
    """The network's outputs for every entry of a tensor."""
    layers = theta["network"]
    kernel = layers["dense_0"]["kernel"]
    rows = kernel[feature_places(moments)]
    bias = layers["dense_0"]["bias"] + time_features(count) @ kernel[NUM_FEATURES:]
    layers = {**layers, "dense_0": {"kernel": rows}}
    return apply_each(layers, features_of(moments, grad, param), grad.shape, bias)


class PerParameterState(NamedTuple):
    """State of a network for every parameter.

    Fields:
      count: steps done.
      moments: a tree like the parameters with `Moments` in place of each.
      num_skipped: how many of the steps were skipped, because their gradient was not finite.
    """

    count: Int[Array, ""]
    moments: Any
    num_skipped: Int[Array, ""] | int = 0


def theta_init(key: Key[Array, ""], hidden: Sequence[int], num_outputs: int) -> dict[str, Any]:
    """{"network": ...}; its last layer is small but not zero, or the others had no gradient."""
    network = network_init(key, (NUM_FEATURES + len(TIMES), *hidden, num_outputs))
    last = network[f"dense_{len(hidden)}"]
    # Far from the keys of the layers, which are those of `split`.
    noise = jax.random.normal(jax.random.fold_in(key, 2**17), last["kernel"].shape)
    last["kernel"] = 0.1 * noise
    return {"network": network}


def transform(
    name: str, theta, step_of: Callable[[list[Array], Array], Array]
) -> optax.GradientTransformationExtraArgs:
    """The transform whose updates are `step_of(network outputs, steps done)`, tensor by tensor.

    A step whose gradient is not finite updates and remembers nothing.
    """

    def init(params):
        check_floating(name, params)
        zero = jnp.zeros((), jnp.int32)
        return PerParameterState(zero, jax.tree.map(moments_of, params), zero)

    def update(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError(f"{name} needs params: update(grads, state, params)")
        types = jax.tree.map(lambda a: a.dtype, updates)
        safe = safe_gradient(in_float32(updates))
        moments = jax.tree.map(move, state.moments, safe.gradient, is_leaf=is_moments)
        moments = keep_if(safe.is_finite, moments, state.moments)

        def step(moments, grad, param, kind):
            if not grad.size:
                return grad.astype(kind)
            outputs = output(theta, moments, grad, param, state.count)
            return jnp.where(safe.is_finite, step_of(outputs, state.count), 0).astype(kind)

        steps = jax.tree.map(step, moments, safe.gradient, params, types, is_leaf=is_moments)
        num_skipped = state.num_skipped + 1 - safe.is_finite.astype(jnp.int32)
        return steps, PerParameterState(state.count + 1, moments, num_skipped)

    return optax.GradientTransformationExtraArgs(init, update)
