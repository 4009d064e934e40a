"""Image classifiers. The last layer of each is called `head`.

Dimension key: B batch, H height, W width, C channels, K classes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class MLPClassifier(nn.Module):
    """Dense layers with ReLU between them on the flattened image."""

    num_classes: int
    hidden: Sequence[int] = (128, 128)

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        """Logits."""
        x = x.reshape(len(x), -1)
        for i, width in enumerate(self.hidden):
            x = jax.nn.relu(nn.Dense(width, name=f"dense_{i}")(x))
        return nn.Dense(self.num_classes, name="head")(x)


class PatchConv(nn.Module):
    """A convolution as one matrix product on patches, its kernel [size * size * C, features].

    Under `vmap` over kernels (many networks trained at once) XLA's own convolution becomes a
    grouped one, which is slow on CPU; a batched matrix product is fast.
    """

    features: int
    size: int = 3
    stride: int = 2

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 features"]:
        """The convolution with padding "SAME" and a bias."""
        _, H, W, C = x.shape
        pads = []
        for length in (H, W):
            total = max((-(-length // self.stride) - 1) * self.stride + self.size - length, 0)
            pads.append((total // 2, total - total // 2))
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        parts = [_cut(x, 2, j, self.size, self.stride) for j in range(self.size)]
        wide = jnp.concatenate(parts, axis=-1)  # [B, H + pads, W2, size * C]
        parts = [_cut(wide, 1, i, self.size, self.stride) for i in range(self.size)]
        patches = jnp.concatenate(parts, axis=-1)
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (self.size**2 * C, self.features)
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return patches @ kernel + bias[None, None, None]


def _cut(x, axis: int, start: int, size: int, stride: int):
    """Every stride-th slice from `start`, one for each window of `size` that fits."""
    return jax.lax.slice_in_dim(x, start, start + x.shape[axis] - size + 1, stride, axis)


class ConvClassifier(nn.Module):
    """Convolutions of stride two with ReLU, then a dense layer on the flattened features."""

    num_classes: int
    widths: Sequence[int] = (16, 32)

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        """Logits."""
        for i, width in enumerate(self.widths):
            x = jax.nn.relu(PatchConv(width, name=f"conv_{i}")(x))
        return nn.Dense(self.num_classes, name="head")(x.reshape(len(x), -1))


class MultiHeadClassifier(nn.Module):
    """Convolutions of stride two, an embedding, and several linear heads on it (2211.15774).

    The heads are one kernel [D, (H + 1) K].

    Fields:
      num_classes: K.
      aux_heads: H, beside the main one.
      widths: of the convolutions.
      dim: D.
    """

    num_classes: int
    aux_heads: int = 0
    widths: Sequence[int] = (16, 32)
    dim: int = 64

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "H B K"]]:
        """Embeddings, and the logits of the main head and then of the others."""
        for i, width in enumerate(self.widths):
            x = jax.nn.relu(PatchConv(width, name=f"conv_{i}")(x))
        embedding = jax.nn.relu(nn.Dense(self.dim, name="embed")(x.reshape(len(x), -1)))
        heads = 1 + self.aux_heads
        logits = nn.Dense(heads * self.num_classes, name="head")(embedding)
        logits = logits.reshape(len(x), heads, self.num_classes)
        return embedding, jnp.moveaxis(logits, 1, 0)
