"""Classifiers of images: the convolution by patches against XLA's own, and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import models


@pytest.mark.parametrize(("size", "stride", "side"), [(3, 2, 14), (3, 2, 7), (3, 1, 6), (2, 2, 8)])
def test_patch_conv_is_a_convolution(size, stride, side):
    x = jax.random.normal(jax.random.key(0), (2, side, side + 2, 3))
    conv = models.PatchConv(5, size, stride)
    params = conv.init(jax.random.key(1), x)["params"]
    params["bias"] = params["bias"] + jnp.arange(5.0)
    kernel = params["kernel"].reshape(size, size, 3, 5)
    theirs = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(
        conv.apply({"params": params}, x), theirs + jnp.arange(5.0)[None, None, None], atol=1e-5
    )


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (models.MLPClassifier(7, (16, 8)), 3),
        (models.ConvClassifier(7, (4, 8)), 3),
        (models.ViTClassifier(7, 2, 8, 2, 2), 14),
        (models.ResNetClassifier(7, (1, 1), 4), 13),
    ],
)
def test_classifiers_give_logits_and_have_a_head(model, layers):
    x = jnp.zeros((3, 8, 8, 1))
    params = model.init(jax.random.key(0), x)["params"]
    assert model.apply({"params": params}, x).shape == (3, 7)
    assert params["head"]["kernel"].shape[-1] == 7 and len(params) == layers


def test_the_published_network_has_its_published_size():
    """ResNet-34 has 21.8 million numbers; scales and offsets of norms are as many as with BN."""
    model = models.ResNetClassifier(1000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 21_797_672


def test_patches_must_divide_the_image():
    with pytest.raises(ValueError, match="divide"):
        models.ViTClassifier(7, 3).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
