"""Losses of image classifiers on labelled images."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ico import models
from ico.data import Images

K = 3
MODEL = models.MLPClassifier(K, (8,))


def some():
    rng = np.random.default_rng(0)
    pixels = jnp.asarray(rng.integers(0, 256, (11, 4, 4, 1), np.uint8))
    images = Images(pixels, jnp.asarray(rng.integers(0, K, 11)))
    return images, MODEL.init(jax.random.key(0), models.to_unit(pixels))["params"]


class ClassificationTest(chex.TestCase):
    """With and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_measures(self):
        images, params = some()
        found = self.variant(lambda params, images: models.measure_images(MODEL, params, images))(
            params, images
        )
        logits = np.asarray(MODEL.apply({"params": params}, images.pixels / 255), np.float64)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        expected = -log_p[np.arange(11), np.asarray(images.labels)]
        np.testing.assert_allclose(found["losses"], expected, rtol=1e-5)
        np.testing.assert_allclose(found["loss"], expected.mean(), rtol=1e-5)
        right = (logits.argmax(1) == np.asarray(images.labels)).mean()
        np.testing.assert_allclose(found["accuracy"], right, rtol=1e-6)
        np.testing.assert_allclose(models.image_loss(MODEL, params, images), expected.mean(), 1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_many_images_are_seen_a_few_at_a_time(self):
        images, params = some()
        whole = models.image_logits(MODEL, params, images.pixels)

        @self.variant
        def parts(params, pixels):
            return models.image_logits(MODEL, params, pixels, max_pixels=16 * 5)

        chex.assert_trees_all_close(parts(params, images.pixels), whole, rtol=1e-5, atol=1e-6)


def test_bytes_and_floats_are_the_same_image():
    images, params = some()
    floats = models.to_unit(images.pixels)
    assert floats.dtype == jnp.float32 and float(floats.max()) <= 1
    chex.assert_trees_all_equal(models.to_unit(floats), floats)
    chex.assert_trees_all_equal(
        models.image_logits(MODEL, params, images.pixels),
        models.image_logits(MODEL, params, floats),
    )
