"""A small convolutional network as a plain dict of weights: what a HyperTransformer writes.

    {"conv_0": {"kernel" [3, 3, C, F], "scale" [F], "bias" [F]}, ..., "head": {"kernel" [D, K],
    "bias" [K]}}

Each convolution (3 x 3, "SAME", no bias) is followed by ReLU, max-pooling by two and batch
normalisation (2201.04182, from the authors' code), the last by the head on flattened features.

Dimension key: N images, H height, W width, C and F channels, D features, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Weights = Mapping[str, Mapping[str, Array]]
_EPSILON = 1e-5


class Moments(NamedTuple):
    """Mean and variance of each channel, which a layer is normalised with."""

    mean: Float[Array, "F"]
    var: Float[Array, "F"]


def convolve(
    x: Float[Array, "N H W C"], kernel: Float[Array, "S S C F"]
) -> Float[Array, "N H W F"]:
    """A convolution of stride one, padded to the same size, as one product with all patches.

    Under `vmap` over kernels XLA's own convolution becomes a grouped one, which is fifty times
    slower on CPU (`make bench`).

    Args:
      x: images.
      kernel: of an odd size S.
    """
    return jnp.moveaxis(_convolve(jnp.moveaxis(x, -1, 0), kernel), 0, -1)


def conv_block(
    weights: Mapping[str, Array],
    x: Float[Array, "N H W C"],
    moments: Moments | None = None,
    *,
    counted: Float[Array, "N"] | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> tuple[Float[Array, "N H2 W2 F"], Moments]:
    """One layer of `convnet`; and the moments it was normalised with.

    Args:
      weights: {"kernel" [3, 3, C, F], optionally "scale" [F] and "bias" [F]}.
      x: images.
      moments: to normalise with; None takes those of x (transductive, as the paper does).
      counted: how much each image counts in those; None counts all alike.
      activation: between convolution and pooling.
    """
    y, moments = _block(weights, jnp.moveaxis(x, -1, 0), moments, counted, activation)
    return jnp.moveaxis(y, 0, -1), moments


def convnet_features(
    weights: Weights,
    x: Float[Array, "N H W C"],
    moments: Sequence[Moments] | None = None,
    *,
    counted: Float[Array, "N"] | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> tuple[Float[Array, "N D"], list[Moments]]:
    """What the head is given; and the moments of every layer.

    Args:
      weights: of a network; its head is not used.
      x: images.
      moments: of every layer, to normalise with; None takes those of x.
      counted: how much each image counts in those; None counts all alike.
      activation: between convolution and pooling.
    """
    found, y = [], jnp.moveaxis(x, -1, 0)
    for layer in range(num_convs(weights)):
        given = None if moments is None else moments[layer]
        y, used = _block(weights[f"conv_{layer}"], y, given, counted, activation)
        found.append(used)
    return jnp.moveaxis(y, 0, -1).reshape(len(x), -1), found


def convnet(
    weights: Weights,
    x: Float[Array, "N H W C"],
    moments: Sequence[Moments] | None = None,
    *,
    counted: Float[Array, "N"] | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> Float[Array, "N K"]:
    """Logits of the network for images; see `convnet_features` for the arguments."""
    features, _ = convnet_features(weights, x, moments, counted=counted, activation=activation)
    return dense(weights["head"], features)


def dense(weights: Mapping[str, Array], x: Float[Array, "N D"]) -> Float[Array, "N K"]:
    """`x kernel + bias`."""
    return x @ weights["kernel"] + weights["bias"][None]


# Inside, channels come first: with a handful of them the pixels are what vectorises.


def _block(weights, x_CNHW, moments, counted_N, activation):
    y = max_pool(activation(_convolve(x_CNHW, weights["kernel"])))
    if moments is None and counted_N is None:
        moments = Moments(y.mean((1, 2, 3)), y.var((1, 2, 3)))
    elif moments is None:
        share_N = counted_N / counted_N.sum()
        mean = jnp.einsum("n,cnhw->chw", share_N, y).mean((1, 2))
        gap = (y - mean[:, None, None, None]) ** 2
        moments = Moments(mean, jnp.einsum("n,cnhw->chw", share_N, gap).mean((1, 2)))
    factor = jax.lax.rsqrt(moments.var + _EPSILON)
    y = (y - moments.mean[:, None, None, None]) * factor[:, None, None, None]
    if "scale" in weights:
        y = y * weights["scale"][:, None, None, None] + weights["bias"][:, None, None, None]
    return y, moments


def _convolve(x_CNHW, kernel):
    S, (_, N, H, W), reach = len(kernel), x_CNHW.shape, len(kernel) // 2
    padded = jnp.pad(x_CNHW, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    wide = jnp.concatenate([padded[:, :, :, j : j + W] for j in range(S)])
    patches = jnp.concatenate([wide[:, :, i : i + H] for i in range(S)])  # as kernels: i, j, C
    products = kernel.reshape(-1, kernel.shape[-1]).T @ patches.reshape(-1, N * H * W)
    return products.reshape(-1, N, H, W)


def max_pool(x: Float[Array, "C N H W"]) -> Float[Array, "C N H2 W2"]:
    """The largest of two by two pixels; an odd last row or column is left out."""
    C, N, H, W = x.shape
    x = x[:, :, : H - H % 2, : W - W % 2].reshape(C, N, H // 2, 2, W // 2, 2)
    # The derivative of `max` looks for the entries that equal the largest. Where XLA computes them
    # anew, rounded otherwise, none does, and the gradient is lost; a choice always has one winner.
    x = jnp.where(x[:, :, :, 0] > x[:, :, :, 1], x[:, :, :, 0], x[:, :, :, 1])
    return jnp.where(x[..., 0] > x[..., 1], x[..., 0], x[..., 1])


def num_convs(weights: Weights) -> int:
    """How many convolutions a network has."""
    return sum(name.startswith("conv_") for name in weights)


def convnet_shapes(
    image_shape: tuple[int, int, int], channels: int, num_convs: int, way: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of a network's weights.

    Raises:
      ValueError: images that are too small to be halved so often.
    """
    H, W, C = image_shape
    if min(H, W) < 2**num_convs:
        raise ValueError(f"{num_convs} convolutions halve {H} x {W} images below one pixel")
    shapes: dict[str, Any] = {}
    for layer in range(num_convs):
        kernel = (3, 3, channels if layer else C, channels)
        shapes[f"conv_{layer}"] = {"kernel": kernel, "scale": (channels,), "bias": (channels,)}
    D = (H >> num_convs) * (W >> num_convs) * channels
    shapes["head"] = {"kernel": (D, way), "bias": (way,)}
    return shapes


def init_convnet(key: Array, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> dict[str, Any]:
    """Weights to start from: He et al. 2015 for kernels, one and zero for scale and bias."""
    weights: dict[str, Any] = {}
    for number, (name, layer) in enumerate(sorted(shapes.items())):
        key_of = jax.random.fold_in(key, number)
        kernel = jax.nn.initializers.he_normal()(key_of, layer["kernel"])
        weights[name] = {"kernel": kernel, "bias": jnp.zeros(layer["bias"])}
        if "scale" in layer:
            weights[name]["scale"] = jnp.ones(layer["scale"])
    return weights
