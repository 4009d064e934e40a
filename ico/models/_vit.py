"""The vision transformer (Dosovitskiy et al. 2021, 2010.11929) on `ico.layers`.

Dimension key: B batch, X and Y height and width in pixels, C channels, T tokens, D width, H heads,
A head width, K classes, L blocks, M memory tokens, E extra tokens, R width of an adapter.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from ico.layers import softmax_attention
from ico.models._classifiers import PatchConv

Pooling = Literal["mean", "cls"]
Mask = Bool[Array, "#B #H #T #S"]


class Additions(NamedTuple):
    """What a frozen `ViT` is given beside an image (see `ViT.extended`); None is nothing.

    Fields:
      tokens: after those of the image, [E, D].
      memory: keys and values of every block beside its tokens, before its LayerNorm: [L, M, D]
        (2203.15243). They ask nothing themselves and are new in every block.
      mask: [T + E, T + E + M], True where a token (row) sees a token or memory (column).
      propagated: whether memory tokens also ask, and what a block makes of them is handed on, with
        the next block's memory added (2203.15243, Fig. 2b); then M more tokens go through.
      adapters: {"down": [L, D, R], "up": [L, R, D]}, `x + act(x down) up` after each MLP's output
        (1902.00751); there "bias" [L, R] is zero if it is missing.
    """

    tokens: Float[Array, "E D"] | None = None
    memory: Float[Array, "L M D"] | None = None
    mask: Bool[Any, "T S"] | None = None
    propagated: bool = False
    adapters: Mapping[str, Array] | None = None


class _SelfAttention(nn.Module):
    """Multi-head softmax attention of all tokens over all.

    Parameters: query, key, value, each with kernel [D, H, A] and bias [H, A]; out, with kernel
    [H, A, D] and bias [D]. Kernels start as LeCun normals, biases at zero.
    """

    num_heads: int

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        mask: Mask | None = None,
        seen_BSD: Float[Array, "B S D"] | None = None,
    ):
        """`seen` are the tokens that keys and values are of; None is x."""
        D = x_BTD.shape[-1]
        heads = self.num_heads, D // self.num_heads
        seen_BSD = x_BTD if seen_BSD is None else seen_BSD
        given = {"query": x_BTD, "key": seen_BSD, "value": seen_BSD}
        q, k, v = (nn.DenseGeneral(heads, name=name)(x) for name, x in given.items())
        o_BTHA = softmax_attention(q, k, v, causal=False, mask=mask)
        return nn.DenseGeneral(D, axis=(-2, -1), name="out")(o_BTHA)


class ViTBlock(nn.Module):
    """Self-attention and an MLP with GELU, each after a LayerNorm and with a residual."""

    num_heads: int
    mlp_dim: int
    norm_epsilon: float = 1e-6
    exact_gelu: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        mask: Mask | None = None,
        memory_BMD: Float[Array, "B M D"] | None = None,
        adapter: Mapping[str, Array] | None = None,
    ) -> Float[Array, "B T D"]:
        """The tokens after the block; `mask` is True where a token may see another.

        For memory and adapter see `Additions`.
        """
        norm = nn.LayerNorm(self.norm_epsilon, name="attention_norm")
        normed, seen = norm(x_BTD), None
        if memory_BMD is not None:
            seen = jnp.concatenate([normed, norm(memory_BMD)], axis=1)
        x_BTD = x_BTD + _SelfAttention(self.num_heads, name="attention")(normed, mask, seen)
        normed = nn.LayerNorm(self.norm_epsilon, name="mlp_norm")(x_BTD)
        hidden = nn.Dense(self.mlp_dim, name="up")(normed)
        hidden = jax.nn.gelu(hidden, approximate=not self.exact_gelu)
        out = nn.Dense(x_BTD.shape[-1], name="down")(hidden)
        if adapter is not None:
            down = out @ adapter["down"]
            if "bias" in adapter:
                down = down + adapter["bias"][None, None]
            out = out + jax.nn.gelu(down) @ adapter["up"]
        return x_BTD + out


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
      norm_epsilon, exact_gelu: as published checkpoints have them (`ico.models.load_vit`).

    Raises:
      ValueError: patches that do not divide the image, or heads that do not divide the width.
    """

    patch: int = 2
    dim: int = 64
    depth: int = 4
    num_heads: int = 4
    mlp_dim: int | None = None
    class_token: bool = False
    norm_epsilon: float = 1e-6
    exact_gelu: bool = False

    def setup(self):
        if self.dim % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide a width of {self.dim}")
        self.patches = PatchConv(self.dim, self.patch, self.patch, name="embed_patches")
        mlp_dim = 4 * self.dim if self.mlp_dim is None else self.mlp_dim
        sizes = self.num_heads, mlp_dim, self.norm_epsilon, self.exact_gelu
        self.blocks = [ViTBlock(*sizes, name=f"block_{i}") for i in range(self.depth)]
        self.norm = nn.LayerNorm(self.norm_epsilon)

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

    def extended(self, images: Float[Array, "B Y X C"], given: Additions) -> Float[Array, "B T D"]:
        """The tokens of images, and after them the extra ones, [B, T + E, D]."""
        x_BTD, B = self.embed(images), len(images)

        def every(tokens):
            return jnp.broadcast_to(tokens[None], (B, *tokens.shape)).astype(x_BTD.dtype)

        if given.tokens is not None:
            x_BTD = jnp.concatenate([x_BTD, every(given.tokens)], axis=1)
        shown = x_BTD.shape[1]
        mask = None if given.mask is None else jnp.asarray(given.mask)[None, None]
        if given.propagated and given.memory is not None:
            x_BTD = jnp.concatenate([x_BTD, every(jnp.zeros_like(given.memory[0]))], axis=1)
        for layer, block in enumerate(self.blocks):
            adapter = None
            if given.adapters is not None:
                adapter = {name: leaf[layer] for name, leaf in given.adapters.items()}
            memory = None if given.memory is None else every(given.memory[layer])
            if given.propagated and memory is not None:
                x_BTD, memory = x_BTD.at[:, shown:].add(memory), None
            x_BTD = block(x_BTD, mask, memory, adapter)
        return self.norm(x_BTD[:, :shown])

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
