"""Image classifiers: the convolution by patches against XLA's own, and shapes."""

import chex
import jax
import jax.numpy as jnp
from absl.testing import parameterized

from ico import models

CLASSIFIERS = {
    "MLP": (models.MLPClassifier(7, (16, 8)), 3),
    "convolutions": (models.ConvClassifier(7, (4, 8)), 3),
    "ViT": (models.ViTClassifier(7, 2, 8, 2, 2), 2),
    "ResNet": (models.ResNetClassifier(7, (1, 1), 4), 13),
}


class ClassifiersTest(chex.TestCase):
    """With and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((3, 2, 14), (3, 2, 7), (3, 1, 6), (2, 2, 8))
    def test_patch_conv_is_a_convolution(self, size, stride, side):
        x = jax.random.normal(jax.random.key(0), (2, side, side + 2, 3))
        conv = models.PatchConv(5, size, stride)
        params = conv.init(jax.random.key(1), x)["params"]
        params["bias"] = params["bias"] + jnp.arange(5.0)
        kernel = params["kernel"].reshape(size, size, 3, 5)
        theirs = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        ours = self.variant(conv.apply)({"params": params}, x)
        chex.assert_trees_all_close(ours, theirs + jnp.arange(5.0)[None, None, None], atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*CLASSIFIERS)
    def test_logits_gradients_and_a_head(self, name):
        model, num_modules = CLASSIFIERS[name]
        x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
        params = jax.jit(model.init)(jax.random.key(0), x)["params"]
        chex.assert_shape(params["head"]["bias"], (7,))
        assert len(params) == num_modules

        def loss(params):
            logits = model.apply({"params": params}, x)
            chex.assert_shape(logits, (3, 7))
            return jnp.sum(jnp.sin(logits))

        value, grads = self.variant(jax.value_and_grad(loss))(params)
        chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
        chex.assert_tree_all_finite((value, grads))
        # Not its kernel: group normalisation of single pixels leaves a ResNet no features.
        assert jnp.abs(grads["head"]["bias"]).max() > 0


def test_the_published_network_has_its_published_size():
    """ResNet-34 has 21.8 million parameters, as many with group as with batch normalisation."""
    model = models.ResNetClassifier(1000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 21_797_672
