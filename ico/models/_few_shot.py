"""Rivals of the HyperTransformer with the same small network: prototypes, MAML, a linear head.

All are learners of episodes whose inputs are flattened images and whose targets are one-hot, or
zeros for an image without a label, which they do not use.

Dimension key: B episodes, N support images, Q queries, K classes, H height, W width, C channels,
D features, T inner steps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.core import unfreeze
from jaxtyping import Array, Float

from ico.algorithms import logistic_regression, nearest_class_mean
from ico.models._convnet import (
    Weights,
    convnet,
    convnet_features,
    convnet_shapes,
    init_convnet,
)
from ico.models._mixer import unit
from ico.types import Prompt


class ProtoNet(nn.Module):
    """Prototypical network (Snell et al. 2017): the nearest class mean of learned features.

    Fields:
      image_shape: (H, W, C).
      channels, num_convs: of the network.
      inductive: whether queries are normalised with the support images' moments.
    """

    image_shape: tuple[int, int, int]
    channels: int = 8
    num_convs: int = 4
    inductive: bool = False

    @nn.compact
    def __call__(self, prompt: Prompt, all_layers: bool = False) -> Float[Array, "B Q K"]:
        """Logits: minus the squared distances."""
        del all_layers
        shapes = convnet_shapes(self.image_shape, self.channels, self.num_convs, 1)
        del shapes["head"]
        weights = self.param("network", init_convnet, shapes)
        return nearest_class_mean({}, _embedded(weights, prompt, self))


class LinearHead(nn.Module):
    """Logistic regression on the normalised features of a network that is trained before (RFS).

    "Rethinking few-shot image classification: a good embedding is all you need?", 2003.11539.
    `class_logits` is what it is trained by, on all base classes.

    Fields:
      image_shape: (H, W, C).
      num_classes: that the network is trained on.
      channels, num_convs: of the network.
      penalty: of the logistic regression.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    channels: int = 8
    num_convs: int = 4
    penalty: float = 1e-3
    inductive: bool = False

    def setup(self):
        shapes = convnet_shapes(self.image_shape, self.channels, self.num_convs, self.num_classes)
        self.weights = self.param("network", init_convnet, shapes)

    def __call__(self, prompt: Prompt, all_layers: bool = False) -> Float[Array, "B Q K"]:
        """Logits of an episode."""
        del all_layers
        x, y, x_query = _embedded(self.weights, prompt, self)
        normalised = Prompt(unit(x), y, unit(x_query))
        return logistic_regression({"penalty": self.penalty}, normalised)

    def class_logits(self, images: Float[Array, "N H W C"]) -> Float[Array, "N K"]:
        """Logits of the base classes."""
        return convnet(self.weights, images)


class Maml(nn.Module):
    """MAML (Finn et al. 2017) with learned learning rates for each layer and step (MAML++).

    Fields:
      image_shape: (H, W, C).
      way: K.
      channels, num_convs: of the network.
      num_steps: T, of gradient descent on the labelled support images.
      rate: that the learned rates start from.
      first_order: whether the outer gradient does not look into the inner ones.
      head_only: whether the head alone adapts (ANIL, Raghu et al. 2020).
      inductive: whether queries are normalised with the support images' moments.
    """

    image_shape: tuple[int, int, int]
    way: int
    channels: int = 8
    num_convs: int = 4
    num_steps: int = 5
    rate: float = 0.1
    first_order: bool = False
    head_only: bool = False
    inductive: bool = False

    def setup(self):
        shapes = convnet_shapes(self.image_shape, self.channels, self.num_convs, self.way)
        self.start = self.param("network", init_convnet, shapes)
        self.rates = self.param("rates", self._rates, shapes)

    def __call__(self, prompt: Prompt, all_layers: bool = False) -> Float[Array, "B Q K"]:
        """Logits after the last step."""
        del all_layers
        queries = _images(prompt.x_query, self.image_shape)
        if not self.inductive:
            return jax.vmap(convnet)(self.write(prompt), queries)

        def one(weights, x, x_query):
            return convnet(weights, x_query, convnet_features(weights, x)[1])

        return jax.vmap(one)(self.write(prompt), _images(prompt.x, self.image_shape), queries)

    def write(self, prompt: Prompt) -> dict[str, Any]:
        """The network for each episode, as `ico.models.convnet` takes it, every leaf [B, ...]."""
        # Linen freezes dicts that are attributes.
        start, rates = unfreeze(self.start), unfreeze(self.rates)
        adapt = jax.vmap(lambda x, y: self._adapted(start, rates, x, y))
        return adapt(_images(prompt.x, self.image_shape), prompt.y)

    def _rates(self, key: Array, shapes) -> dict[str, Array]:
        """Of every layer that adapts, [T]."""
        del key
        names = ("head",) if self.head_only else tuple(shapes)
        return {name: jnp.full(self.num_steps, self.rate) for name in names}

    def _adapted(self, start: dict[str, Any], rates: dict[str, Array], x, y) -> dict[str, Any]:
        labelled = y.sum(-1)

        def loss(moving, fixed):
            logits = convnet(fixed | moving, x)
            errors = optax.softmax_cross_entropy(logits, y)  # zero where there is no label
            return errors.sum() / jnp.maximum(labelled.sum(), 1)

        fixed = {name: layer for name, layer in start.items() if name not in rates}

        def step(moving, rates):
            found = jax.grad(loss)(moving, fixed)
            if self.first_order:
                found = jax.lax.stop_gradient(found)
            moved = {
                name: jax.tree.map(lambda w, g, r=rates[name]: w - r * g, layer, found[name])
                for name, layer in moving.items()
            }
            return moved, None

        moving = {name: layer for name, layer in start.items() if name in rates}
        return fixed | jax.lax.scan(step, moving, rates)[0]


def _embedded(weights: Weights, prompt: Prompt, module: Any) -> Prompt:
    """The prompt with features in place of images."""

    def one(x, x_query):
        found, moments = convnet_features(weights, x)
        return found, convnet_features(weights, x_query, moments if module.inductive else None)[0]

    images, queries = (_images(a, module.image_shape) for a in (prompt.x, prompt.x_query))
    x, x_query = jax.vmap(one)(images, queries)
    return Prompt(x, prompt.y, x_query)


def _images(x_BND, image_shape):
    if x_BND.shape[-1] != int(np.prod(image_shape)):
        raise ValueError(f"inputs of {x_BND.shape[-1]} pixels are no images {image_shape}")
    return x_BND.reshape(*x_BND.shape[:2], *image_shape)
