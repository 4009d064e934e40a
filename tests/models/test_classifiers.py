"""Image classifiers: the convolution by patches against XLA's own, and shapes."""

import chex
import jax
import jax.numpy as jnp
import pytest
from absl.testing import parameterized

from ico import models

CLASSIFIERS = {
    "MLP": (models.MLPClassifier(7, (16, 8)), 3),
    "convolutions": (models.ConvClassifier(7, (4, 8)), 3),
    "ViT": (models.ViTClassifier(7, 2, 8, 2, 2), 2),
    "ResNet": (models.ResNetClassifier(7, (1, 1), 4), 13),
    "bottlenecks": (models.ResNetClassifier(7, (1,), 4, bottleneck=True, norm="none"), 6),
    "small ResNet": (models.SmallResNetClassifier(7, (4, 8)), 13),
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


@pytest.mark.parametrize(
    ("bottleneck", "size"), [(False, 21_797_672), (True, 25_557_032)], ids=["34", "50"]
)
def test_the_published_networks_have_their_published_sizes(bottleneck, size):
    """As many parameters with group as with batch normalisation."""
    for norm in ("group", "batch"):
        model = models.ResNetClassifier(1000, bottleneck=bottleneck, norm=norm)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == size


def test_batch_normalisation_trains_by_the_batch_and_is_evaluated_by_statistics():
    """Those over n batches are those of all images together, where the layers before are linear."""
    model = models.BatchNorm()
    x = jax.random.normal(jax.random.key(0), (3, 5, 2, 2, 4)) * 3 + 1
    params = model.init(jax.random.key(0), x[0])["params"]
    params = {"scale": params["scale"] + 1, "bias": params["bias"] + 3}
    trained = model.apply({"params": params}, x[0])
    chex.assert_trees_all_close(trained.mean((0, 1, 2)), jnp.full(4, 3.0), atol=1e-5)
    chex.assert_trees_all_close(trained.std((0, 1, 2)), jnp.full(4, 2.0), atol=1e-3)
    stats = models.batch_statistics(model, params, x)
    whole = {"mean": x.mean((0, 1, 2, 3)), "var": x.var((0, 1, 2, 3))}
    chex.assert_trees_all_close(stats, whole, rtol=1e-4)
    one = model.apply({"params": params, "batch_stats": stats}, x[0, :1])
    both = model.apply({"params": params, "batch_stats": stats}, x[0])
    chex.assert_trees_all_close(one, both[:1], atol=1e-6)


def test_statistics_of_a_network():
    """They are named like its parameters; a network without has none."""
    x = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 1))
    model = models.SmallResNetClassifier(4, (4,), norm="batch")
    params = model.init(jax.random.key(0), x[0])["params"]
    stats = jax.jit(models.batch_statistics, static_argnums=0)(model, params, x)
    assert set(stats) == {name for name in params if name.endswith("norm")}
    chex.assert_tree_all_finite(model.apply({"params": params, "batch_stats": stats}, x[0, :1]))
    assert models.batch_statistics(models.MLPClassifier(4, (3,)), _mlp_params(x), x) == {}


def _mlp_params(x):
    return models.MLPClassifier(4, (3,)).init(jax.random.key(0), x[0])["params"]
