"""Residual networks, with group normalisation, batch normalisation or none.

Batch normalisation keeps no running means while it trains: `apply({"params": params}, x)` uses the
statistics of the batch x, so a training step is a function of parameters alone, under any vmap.
For evaluation they are computed once, from training images, after any averaging of parameters:
`apply({"params": params, "batch_stats": batch_statistics(model, params, batches)}, x)`.

Dimension key: B batch, H height, W width, C channels, K classes, n batches.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ico.models._classification import to_unit
from ico.models._classifiers import PatchConv

Norm = Literal["group", "batch", "none"]
_EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) over all axes but the last.

    With a collection "batch_stats" that is not mutable it uses that one, else the batch's own
    statistics, which it stores if the collection is mutable.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """x of mean zero and variance one by channel, then scaled and shifted."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        storing = self.is_mutable_collection("batch_stats")
        if self.has_variable("batch_stats", "mean") and not storing:
            mean = self.get_variable("batch_stats", "mean")
            var = self.get_variable("batch_stats", "var")
        else:
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
            if storing:
                self.put_variable("batch_stats", "mean", mean)
                self.put_variable("batch_stats", "var", var)
        factor = scale * jax.lax.rsqrt(var + _EPSILON)
        shift = bias - mean * factor
        return (x * factor[None, None, None] + shift[None, None, None]).astype(x.dtype)


def batch_statistics(
    model: nn.Module, params: Any, images: Float[Array, "n B H W C"]
) -> dict[str, Any]:
    """The "batch_stats" of a model for evaluation: means and variances over n batches, in order.

    Of a model without batch normalisation: an empty dict.
    """

    def stored(x) -> Any:
        found = model.apply({"params": params}, to_unit(x), mutable=["batch_stats"])[1]
        return found.get("batch_stats", {})

    found = jax.lax.map(stored, images)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _pooled(path, leaf, found), found)


def _pooled(path, leaf, whole):
    """The mean of means; of variances the mean and, with it, the variance of the means."""
    if path[-1].key == "mean":
        return leaf.mean(0)
    for key in path[:-1]:
        whole = whole[key.key]
    return leaf.mean(0) + whole["mean"].var(0)


class ResNetClassifier(nn.Module):
    """ResNet (He et al. 2016) for photographs; with the default depths ResNet-34.

    Fields:
      depths: blocks of each stage; (3, 4, 6, 3) with `bottleneck` is ResNet-50.
      bottleneck: blocks of a 1 x 1, a 3 x 3 and a 1 x 1 convolution with four times the channels.
      norm: "group" has 32 groups (Wu and He 2018), or one for each channel where there are fewer.
    """

    num_classes: int
    depths: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    bottleneck: bool = False
    norm: Norm = "group"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        """Logits."""
        x = nn.Conv(self.width, (7, 7), (2, 2), use_bias=False, name="stem")(x)
        x = jax.nn.relu(_norm(x, self.norm, "stem_norm"))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride, name = 2 if stage and not i else 1, f"block_{stage}_{i}"
                width = self.width * 2**stage
                if self.bottleneck:
                    convolutions = (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)
                else:
                    convolutions = (width, 3, stride), (width, 3, 1)
                x = _residual(x, convolutions, self.norm, name, _conv)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


class SmallResNetClassifier(nn.Module):
    """A residual network for small images; its convolutions stay fast under vmap over networks.

    Fields:
      widths: channels of each stage; every stage after the first halves height and width.
      depth: blocks a stage.
      stem_stride: of the first convolution.
      norm: as of `ResNetClassifier`; "group" has groups of four channels.
    """

    num_classes: int
    widths: Sequence[int] = (16, 32)
    depth: int = 1
    stem_stride: int = 1
    norm: Norm = "group"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        """Logits."""
        x = PatchConv(self.widths[0], 3, self.stem_stride, name="stem")(x)
        x = jax.nn.relu(_norm(x, self.norm, "stem_norm", 4))
        for stage, width in enumerate(self.widths):
            for i in range(self.depth):
                stride = 2 if stage and not i else 1
                convolutions = (width, 3, stride), (width, 3, 1)
                name = f"block_{stage}_{i}"
                x = _residual(x, convolutions, self.norm, name, _patch_conv, 4)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


def _conv(features: int, size: int, stride: int, name: str):
    return nn.Conv(features, (size, size), (stride, stride), use_bias=False, name=name)


def _patch_conv(features: int, size: int, stride: int, name: str):
    return PatchConv(features, size, stride, name=name)


def _norm(x, norm: Norm, name: str, group_size: int | None = None):
    if norm == "none":
        return x
    if norm == "batch":
        return BatchNorm(name=name)(x)
    groups = min(32, x.shape[-1]) if group_size is None else max(1, x.shape[-1] // group_size)
    return nn.GroupNorm(groups, name=name)(x)


def _residual(x, convolutions, norm: Norm, name: str, conv, group_size: int | None = None):
    """Convolutions and a skip; called in a compact method, whose module owns the parameters."""
    h = x
    for i, (features, size, stride) in enumerate(convolutions):
        part = f"{name}_{'abc'[i]}"
        h = conv(features, size, stride, part)(h)
        h = _norm(h, norm, f"{part}_norm", group_size)
        if i + 1 < len(convolutions):
            h = jax.nn.relu(h)
    if x.shape != h.shape:
        stride = max(stride for _, _, stride in convolutions)
        x = conv(h.shape[-1], 1, stride, f"{name}_skip")(x)
        x = _norm(x, norm, f"{name}_skip_norm", group_size)
    return cast(jax.Array, jax.nn.relu(x + h))
