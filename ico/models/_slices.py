"""How a layer's weights are cut into slices that a transformer writes one by one, and back.

"output" has a slice for each output channel (a class, in the head): its kernel, then scale and bias
where they are written; "spatial" one for each pixel of the kernel (2201.04182, from the authors'
code). The head is always cut by output, with its bias.

Dimension key: B episodes, J slices, S entries of a slice, C input channels, F output channels.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Allocation = Literal["output", "spatial"]
Shapes = Mapping[str, tuple[int, ...]]


def num_slices(shapes: Shapes, allocation: Allocation) -> int:
    """J."""
    kernel = shapes["kernel"]
    if allocation == "spatial" and len(kernel) == 4:
        return kernel[0] * kernel[1]
    return kernel[-1]


def slice_width(shapes: Shapes, allocation: Allocation, with_norm: bool = False) -> int:
    """S."""
    kernel = shapes["kernel"]
    if len(kernel) == 2:
        return kernel[0] + 1
    if allocation == "spatial":
        return kernel[2] * kernel[3]
    return math.prod(kernel[:3]) + (2 if with_norm else 0)


def from_slices(
    slices: Float[Array, "B J S"], shapes: Shapes, allocation: Allocation, with_norm: bool = False
) -> dict[str, Any]:
    """A layer of `ico.models.convnet` for every episode, made of its slices."""
    B, kernel = len(slices), shapes["kernel"]
    if len(kernel) == 2:
        return {"kernel": jnp.swapaxes(slices[..., :-1], 1, 2), "bias": slices[..., -1]}
    if allocation == "spatial":
        return {"kernel": slices.reshape(B, *kernel)}
    size = math.prod(kernel[:3])
    by_output = slices[..., :size].reshape(B, kernel[3], *kernel[:3])
    layer = {"kernel": jnp.moveaxis(by_output, 1, -1)}
    if with_norm:  # around one, so that zeros change nothing
        layer |= {"scale": 1 + slices[..., size], "bias": slices[..., size + 1]}
    return layer


def to_slices(
    layer: Mapping[str, Any], allocation: Allocation, with_norm: bool = False
) -> Float[Array, "B J S"]:
    """The inverse of `from_slices`."""
    kernel = layer["kernel"]
    if kernel.ndim == 3:
        bias = layer["bias"][..., None]
        return jnp.concatenate([jnp.swapaxes(kernel, 1, 2), bias], -1)
    B, F = len(kernel), kernel.shape[-1]
    if allocation == "spatial":
        return kernel.reshape(B, kernel.shape[1] * kernel.shape[2], -1)
    slices = jnp.moveaxis(kernel, -1, 1).reshape(B, F, -1)
    if not with_norm:
        return slices
    norm = [(layer["scale"] - 1)[..., None], layer["bias"][..., None]]
    return jnp.concatenate([slices, *norm], -1)
