"""The vision transformer (Dosovitskiy et al. 2021, 2010.11929) on `ico.layers`.

Dimension key: B batch, X and Y height and width in pixels, C channels, T tokens, D width, H heads,
A head width, K classes.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from ico.layers import softmax_attention
from ico.models._classifiers import PatchConv

Pooling = Literal["mean", "cls"]
Mask = Bool[Array, "#B #H #T #T"]


class _SelfAttention(nn.Module):
    """Multi-head softmax attention of all tokens over all.

    Parameters: query, key, value, each with kernel [D, H, A] and bias [H, A]; out, with kernel
    [H, A, D] and bias [D]. Kernels start as LeCun normals, biases at zero.
    """

    num_heads: int

    @nn.compact
    def __call__(self, x_BTD: Float[Array, "B T D"], mask: Mask | None = None):
        D = x_BTD.shape[-1]
        heads = self.num_heads, D // self.num_heads
        q, k, v = (nn.DenseGeneral(heads, name=name)(x_BTD) for name in ("query", "key", "value"))
        o_BTHA = softmax_attention(q, k, v, causal=False, mask=mask)
        return nn.DenseGeneral(D, axis=(-2, -1), name="out")(o_BTHA)


class ViTBlock(nn.Module):
    """Self-attention and an MLP with GELU, each after a LayerNorm and with a residual."""

    num_heads: int
    mlp_dim: int

    @nn.compact
    def __call__(
        self, x_BTD: Float[Array, "B T D"], mask: Mask | None = None
    ) -> Float[Array, "B T D"]:
        """The tokens after the block; `mask` is True where a token may see another."""
        normed = nn.LayerNorm(name="attention_norm")(x_BTD)
        x_BTD = x_BTD + _SelfAttention(self.num_heads, name="attention")(normed, mask)
        normed = nn.LayerNorm(name="mlp_norm")(x_BTD)
        hidden = jax.nn.gelu(nn.Dense(self.mlp_dim, name="up")(normed))
        return x_BTD + nn.Dense(x_BTD.shape[-1], name="down")(hidden)


class ViT(nn.Module):
    """A vision transformer that gives its tokens.

    `embed` makes tokens of images, `encode` passes any tokens through the blocks, and a call does
    both. Tokens of one's own may be concatenated between the two, or between blocks: `blocks` are
    submodules.

    Fields:
      patch: side of a square patch, in pixels.
      dim: D, the width of the tokens.
      depth: number of blocks.
      num_heads: H; must divide D.
      mlp_dim: hidden width of the MLPs; None is 4 D.
      class_token: whether a learned token stands before those of the patches.

    Raises:
      ValueError: patches that do not divide the image, or heads that do not divide the width.
    """

    patch: int = 2
    dim: int = 64
    depth: int = 4
    num_heads: int = 4
    mlp_dim: int | None = None
    class_token: bool = False

    def setup(self):
        if self.dim % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide a width of {self.dim}")
        self.patches = PatchConv(self.dim, self.patch, self.patch, name="embed_patches")
        mlp_dim = 4 * self.dim if self.mlp_dim is None else self.mlp_dim
        self.blocks = [
            ViTBlock(self.num_heads, mlp_dim, name=f"block_{i}") for i in range(self.depth)
        ]
        self.norm = nn.LayerNorm()

    @nn.compact
    def embed(self, images: Float[Array, "B Y X C"]) -> Float[Array, "B T D"]:
        """The tokens of images before the first block: patches and learned positions.

        With `class_token` it is the first, T = 1 + Y X / patch^2.
        """
        B, Y, X, _ = images.shape
        if Y % self.patch or X % self.patch:
            raise ValueError(f"patches of {self.patch} do not divide images of {Y} x {X}")
        x_BTD = self.patches(images).reshape(B, -1, self.dim)
        if self.class_token:
            class_D = self.param("class_token", nn.initializers.zeros, (self.dim,))
            first_B1D = jnp.broadcast_to(class_D[None, None], (B, 1, self.dim))
            x_BTD = jnp.concatenate([first_B1D.astype(x_BTD.dtype), x_BTD], axis=1)
        position_TD = self.param("position", nn.initializers.normal(0.02), x_BTD.shape[1:])
        return x_BTD + jnp.asarray(position_TD)[None]

    def encode(
        self, tokens_BTD: Float[Array, "B T D"], mask: Mask | None = None
    ) -> Float[Array, "B T D"]:
        """The tokens after all blocks and the last LayerNorm; see `ViTBlock` for the mask."""
        return self.hidden(tokens_BTD, mask)[-1]

    def hidden(
        self, tokens_BTD: Float[Array, "B T D"], mask: Mask | None = None
    ) -> list[Float[Array, "B T D"]]:
        """The tokens after each block, and last after the LayerNorm: depth + 1 arrays."""
        tokens = []
        for block in self.blocks:
            tokens_BTD = block(tokens_BTD, mask)
            tokens.append(tokens_BTD)
        return [*tokens, self.norm(tokens_BTD)]

    def __call__(
        self, images: Float[Array, "B Y X C"], mask: Mask | None = None
    ) -> Float[Array, "B T D"]:
        """The tokens of images."""
        return self.encode(self.embed(images), mask)


class ViTClassifier(nn.Module):
    """A `ViT` (parameters "vit") and a linear classifier of its tokens ("head").

    Fields:
      num_classes: K.
      patch, dim, depth, num_heads, mlp_dim: of the `ViT`.
      pooling: whether the head sees the "mean" of the tokens or a class token, "cls".

    Raises:
      ValueError: an unknown pooling, or what `ViT` refuses.
    """

    num_classes: int
    patch: int = 2
    dim: int = 64
    depth: int = 4
    num_heads: int = 4
    mlp_dim: int | None = None
    pooling: Pooling = "mean"

    @nn.compact
    def __call__(
        self, images: Float[Array, "B Y X C"], mask: Mask | None = None
    ) -> Float[Array, "B K"]:
        """Logits; see `ViTBlock` for the mask."""
        if self.pooling not in ("mean", "cls"):
            raise ValueError(f"pooling must be 'mean' or 'cls', not {self.pooling!r}")
        tokens_BTD = ViT(
            self.patch,
            self.dim,
            self.depth,
            self.num_heads,
            self.mlp_dim,
            class_token=self.pooling == "cls",
            name="vit",
        )(images, mask)
        pooled_BD = tokens_BTD[:, 0] if self.pooling == "cls" else tokens_BTD.mean(1)
        return nn.Dense(self.num_classes, name="head")(pooled_BD)
