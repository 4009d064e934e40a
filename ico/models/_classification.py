"""Losses of image classifiers on labelled images.

Dimension key: N images, H height, W width, C channels, K classes.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Num

from ico.types import working_dtype

# Pixels of one forward pass, at most: 55 photographs of 224 x 224, or thousands of digits.
_MAX_PIXELS = 2**23


@runtime_checkable
class LabelledImages(Protocol):
    """What has pixels [N, H, W, C] (8 bits, or numbers from 0 to 1) and labels [N], as Images."""

    @property
    def pixels(self) -> Any: ...

    @property
    def labels(self) -> Any: ...


def to_unit(pixels: Num[Array, "..."]) -> Float[Array, "..."]:
    """Pixels as numbers from 0 to 1; those of 8 bits are divided by 255."""
    if pixels.dtype != jnp.uint8:
        return pixels
    return pixels.astype(jnp.float32) / 255


def image_logits(
    model: nn.Module, params: Any, pixels: Num[Array, "N H W C"], max_pixels: int = _MAX_PIXELS
) -> Float[Array, "N K"]:
    """Logits; of more than `max_pixels` numbers, a few images at a time."""
    batch_size = max(max_pixels // max(int(np.prod(pixels.shape[1:])), 1), 1)

    def logits(some) -> jax.Array:
        return model.apply({"params": params}, to_unit(some))  # type: ignore

    if len(pixels) <= batch_size:
        return logits(pixels)
    return jax.lax.map(lambda one: logits(one[None])[0], pixels, batch_size=batch_size)


def image_loss(model: nn.Module, params: Any, images: LabelledImages) -> Float[Array, ""]:
    """Mean cross-entropy, nats."""
    return measure_images(model, params, images)["loss"]


def measure_images(model: nn.Module, params: Any, images: LabelledImages) -> dict[str, jax.Array]:
    """A classifier on images: cross-entropies "losses" [N], their mean "loss", "accuracy" [].

    Computed in float32 or better, whatever the logits are.
    """
    logits = image_logits(model, params, images.pixels)
    logits = logits.astype(working_dtype(logits))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, images.labels)
    right = jnp.argmax(logits, -1) == images.labels
    return {"loss": jnp.mean(losses), "losses": losses, "accuracy": jnp.mean(right)}
