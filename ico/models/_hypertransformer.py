"""A transformer that writes the weights of a small convolutional network for a few-shot episode.

Source: "HyperTransformer: Model Generation for Supervised and Semi-Supervised Few-Shot Learning",
Zhmoginov et al. 2022 (2201.04182); layout and defaults from the authors' code. UNVERIFIED: padding
of the local feature extractor (theirs has none, and would not fit the last layers of small images).

Dimension key: B episodes, N support images, Q queries, K outputs, H height, W width, C channels,
J slices, S entries of a slice, d width of a label code, F local and G shared features.
"""

from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Float

from ico.models._classifiers import PatchConv
from ico.models._convnet import conv_block, convnet, convnet_shapes
from ico.models._set_attention import SetBlocks, SetKind
from ico.models._slices import Allocation, from_slices, num_slices, slice_width, to_slices
from ico.types import Prompt

Weights = dict[str, Any]


class LocalFeatures(nn.Module):
    """What is read off a layer's input: means over the image after each of a few convolutions.

    The features are linear in the last convolution; ReLU stands only between them.
    """

    features: int
    num_convs: int = 2

    @nn.compact
    def __call__(self, z: Float[Array, "M H W C"]) -> Float[Array, "M F"]:
        """[M, num_convs features] for M images."""
        found = []
        for i in range(self.num_convs):
            stride = 2 if i == 0 and self.num_convs > 1 else 1
            z = PatchConv(self.features, 3, stride, name=f"conv_{i}")(jax.nn.relu(z) if i else z)
            found.append(z.mean((1, 2)))
        return jnp.concatenate(found, -1)


class SharedFeatures(nn.Module):
    """What is read off the support images once, for all layers."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "M H W C"]) -> Float[Array, "M G"]:
        """[M, features] for M images."""
        for i, stride in enumerate((2, 2, 2, 1)):
            x = jax.nn.relu(PatchConv(self.features, 3, stride, name=f"conv_{i}")(x))
        return x.mean((1, 2))


class LayerWriter(nn.Module):
    """The transformer that writes one layer.

    Tokens: of a support image its label's code, then what is known of the image; of a slice of the
    layer its own code, then what the slice was before (zeros, but in a continual HyperTransformer).
    A slice is what stands in its token after the last block, after the code.

    Fields:
      num_slices, slice_width: J and S.
      kind, num_blocks, num_heads, norm: of the transformer.
      inner: the width of its heads together, and of its dense layers, as a share of the tokens'.
      code_dim: d.
      separate: whether an encoder of the images and a decoder of the slices take the place of one
        transformer over both.
    """

    num_slices: int
    slice_width: int
    kind: SetKind = "softmax"
    num_blocks: int = 3
    num_heads: int = 2
    inner: float = 1.0
    code_dim: int = 32
    separate: bool = False
    norm: bool = True

    @nn.compact
    def __call__(
        self,
        samples_BNE: Float[Array, "B N E"],
        before_BJS: Float[Array, "B J S"] | None = None,
    ) -> Float[Array, "B J S"]:
        """The slices of the layer."""
        J, S, d = self.num_slices, self.slice_width, self.code_dim
        width = max(samples_BNE.shape[-1], d + S)
        code_Jd = self.param("slices", nn.initializers.normal(1.0), (J, d))
        B = len(samples_BNE)
        slices_BJE = jnp.broadcast_to(code_Jd[None], (B, J, d))
        if before_BJS is not None:
            slices_BJE = jnp.concatenate([slices_BJE, before_BJS], -1)
        slices_BJE, samples_BNE = (_widened(t, width) for t in (slices_BJE, samples_BNE))
        inner = max(1, round(self.inner * width))
        block = FrozenDict(
            kind=self.kind,
            num_heads=self.num_heads,
            head_dim=-(-inner // self.num_heads),
            hidden_dim=inner,
            norm=self.norm,
        )
        if self.separate:
            samples_BNE = SetBlocks(self.num_blocks, block, name="encoder")(samples_BNE)
            decoder = SetBlocks(self.num_blocks, block.copy({"cross": True}), name="decoder")
            slices_BJE = decoder(slices_BJE, samples_BNE)
        else:
            tokens_BTE = jnp.concatenate([slices_BJE, samples_BNE], axis=1)
            blocks = SetBlocks(self.num_blocks, block, name="blocks")
            slices_BJE = blocks(tokens_BTE)[:, :J]
        return slices_BJE[..., d : d + S]


def _widened(tokens, width):
    return jnp.pad(tokens, ((0, 0), (0, 0), (0, width - tokens.shape[-1])))


class HyperTransformer(nn.Module):
    """Reads a support set and writes a network that classifies queries; a learner.

    A support image whose label is all zeros is an unlabelled one. Layers are written one after the
    other, each from what the layers before it make of the support images; the head always is.

    Fields:
      image_shape: (H, W, C) of the images, which a prompt has flattened.
      way: classes of an episode.
      channels: of every convolution of the network that is written.
      num_convs: of that network.
      learned: convolutions that are not written but learned; all of them is "logits only".
      outputs: K; 0 is `way`.
      allocation: "output": a slice is all weights of an output channel; "spatial": of a pixel of
        the kernel.
      kind: of the attention.
      num_blocks, num_heads, inner, code_dim, separate, norm: see `LayerWriter`.
      shared_dim: G; 0 has no shared features.
      local_dim: channels of each layer's own feature extractor, with F = 2 local_dim.
      head_reads: "conv", one convolution, or "features", the head's own input as it is.
      write_norm: whether scale and bias of the normalisations are written, too ("output" alone).
      add_learned: whether learned weights are added to the written ones.
      inductive: whether queries are normalised with the support images' moments; else with the
        queries' own, as the paper does: then a prediction depends on the other queries.
    """

    image_shape: tuple[int, int, int]
    way: int
    channels: int = 8
    num_convs: int = 4
    learned: tuple[int, ...] = ()
    outputs: int = 0
    allocation: Allocation = "output"
    kind: SetKind = "softmax"
    num_blocks: int = 3
    num_heads: int = 2
    inner: float = 1.0
    code_dim: int = 32
    separate: bool = False
    norm: bool = True
    shared_dim: int = 32
    local_dim: int = 8
    head_reads: Literal["conv", "features"] = "conv"
    write_norm: bool = False
    add_learned: bool = False
    inductive: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name, allowed in [
            ("kind", get_args(SetKind)),
            ("allocation", get_args(Allocation)),
            ("head_reads", ("conv", "features")),
        ]:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, not {getattr(self, name)!r}")
        if self.write_norm and self.allocation != "output":
            raise ValueError("write_norm needs the allocation 'output'")
        if not set(self.learned) <= set(range(self.num_convs)):
            raise ValueError(f"learned must be of {self.num_convs} convolutions: {self.learned}")

    @property
    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Of the weights of the network that is written."""
        outputs = self.outputs or self.way
        return convnet_shapes(self.image_shape, self.channels, self.num_convs, outputs)

    def setup(self):
        self.code = self.param("labels", nn.initializers.normal(1.0), (self.way + 1, self.code_dim))
        if self.shared_dim:
            self.shared = SharedFeatures(self.shared_dim)
        writers, readers, weights = {}, {}, {}
        for number, (name, shapes) in enumerate(self.shapes.items()):
            if number not in self.learned:
                writers[name] = LayerWriter(
                    num_slices(shapes, self.allocation),
                    slice_width(shapes, self.allocation, self.write_norm),
                    self.kind,
                    self.num_blocks,
                    self.num_heads,
                    self.inner,
                    self.code_dim,
                    self.separate,
                    self.norm,
                )
                if name != "head":
                    readers[name] = LocalFeatures(self.local_dim, 2)
                elif self.head_reads == "conv":
                    readers[name] = LocalFeatures(self.local_dim, 1)
            weights[name] = self._learned(name, shapes, number in self.learned)
        self.writers, self.readers, self.weights = writers, readers, weights

    def _learned(self, name, shapes, whole: bool) -> Weights:
        """The learned weights of a layer: all, or those that are not written or are added."""
        found: Weights = {}
        if "scale" in shapes and not (self.write_norm and not whole):
            found["scale"] = self.param(f"{name}_scale", nn.initializers.ones, shapes["scale"])
            found["bias"] = self.param(f"{name}_bias", nn.initializers.zeros, shapes["bias"])
        if whole or self.add_learned:
            found["kernel"] = self.param(
                f"{name}_kernel", nn.initializers.he_normal(), shapes["kernel"]
            )
        return found

    def __call__(self, prompt: Prompt, all_layers: bool = False) -> Float[Array, "B Q K"]:
        """Logits of the queries.

        Raises:
          ValueError: `all_layers`, of which there is but one, or images of another shape.
        """
        if all_layers:
            raise ValueError("all_layers: only the whole network predicts")
        weights, moments = self.write(prompt)
        queries = self._images(prompt.x_query)
        if self.inductive:
            return jax.vmap(convnet)(weights, queries, moments)
        return jax.vmap(convnet)(weights, queries)

    def write(self, prompt: Prompt, before: Weights | None = None) -> tuple[Weights, list]:
        """The network for each episode, as `ico.models.convnet` takes it, every leaf [B, ...].

        Args:
          prompt: support images and their labels; its queries are not used.
          before: the network as it was before these images, [B, ...] (2301.04584).

        Returns:
          The weights; and the moments of every normalisation over the support images.
        """
        z, weights, moments = self._images(prompt.x), {}, []
        known_BNE = self._known(prompt, z)
        for number, (name, shapes) in enumerate(self.shapes.items()):
            learned = {
                part: jnp.broadcast_to(leaf[None], (len(z), *leaf.shape))
                for part, leaf in self.weights[name].items()
            }
            if number in self.learned:
                layer = learned
            else:
                previous = None if before is None else before[name]
                layer = self._written(name, shapes, known_BNE, z, previous)
                if self.add_learned:
                    layer["kernel"] = layer["kernel"] + learned.pop("kernel")
                layer |= learned
            weights[name] = layer
            if name != "head":
                z, used = jax.vmap(conv_block)(layer, z)
                moments.append(used)
        return weights, moments

    def _written(self, name, shapes, known_BNE, z, previous) -> Weights:
        B, N = z.shape[:2]
        if name in self.readers:
            local = self.readers[name](z.reshape(B * N, *z.shape[2:])).reshape(B, N, -1)
        else:
            local = z.reshape(B, N, -1)
        # Label code, then local features, then shared ones (authors' code).
        d = self.code_dim
        samples = jnp.concatenate([known_BNE[..., :d], local, known_BNE[..., d:]], axis=-1)
        if previous is not None:
            previous = to_slices(previous, self.allocation, self.write_norm)
        slices = self.writers[name](samples, previous)
        return from_slices(slices, shapes, self.allocation, self.write_norm)

    def _known(self, prompt: Prompt, images) -> Float[Array, "B N E"]:
        """Label code and shared features of every support image."""
        unknown_BN1 = 1 - prompt.y.sum(-1, keepdims=True)
        parts = [jnp.concatenate([prompt.y, unknown_BN1], -1) @ self.code]
        if self.shared_dim:
            B, N = images.shape[:2]
            flat = images.reshape(B * N, *self.image_shape)
            parts.append(self.shared(flat).reshape(B, N, -1))
        return jnp.concatenate(parts, -1)

    def _images(self, x_BND):
        if x_BND.shape[-1] != int(np.prod(self.image_shape)):
            raise ValueError(f"inputs of {x_BND.shape[-1]} pixels are no images {self.image_shape}")
        return cast(jax.Array, x_BND.reshape(*x_BND.shape[:2], *self.image_shape))
