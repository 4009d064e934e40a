"""The vision transformer: against a float64 oracle, its mask, its tokens, its start."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from flax import linen as nn

from ico import models

SIDE, PATCH, D, H, K = 6, 2, 8, 2, 5
T = (SIDE // PATCH) ** 2


def images(seed=0, B=2):
    return jax.random.normal(jax.random.key(seed), (B, SIDE, SIDE, 1))


def parameters(model, *inputs, scale=0.5):
    """So large that every part of the model matters."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(
        lambda a: jnp.asarray(scale * rng.standard_normal(a.shape), jnp.float32), shapes
    )


def norm(x, w):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * w["scale"] + w["bias"]


def attention(x, w, mask):
    """Softmax attention of all tokens over those that they may see, head by head."""
    update = np.zeros_like(x) + w["out"]["bias"]
    for h in range(H):
        q, k, v = (x @ w[n]["kernel"][:, h] + w[n]["bias"][h] for n in ("query", "key", "value"))
        scores = np.where(mask, np.exp(np.einsum("bta,bsa->bts", q, k) / np.sqrt(D // H)), 0)
        weights = scores / scores.sum(-1, keepdims=True)
        update += weights @ v @ w["out"]["kernel"][h]
    return update


def oracle(x, params, depth, mask=True):
    """The tokens after all blocks, float64."""
    x, params = jax.tree.map(lambda a: np.asarray(a, np.float64), (x, params))
    for i in range(depth):
        w = params[f"block_{i}"]
        x = x + attention(norm(x, w["attention_norm"]), w["attention"], mask)
        h = norm(x, w["mlp_norm"]) @ w["up"]["kernel"] + w["up"]["bias"]
        h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + h @ w["down"]["kernel"] + w["down"]["bias"]
    return norm(x, params["norm"])


class ViTTest(chex.TestCase):
    """With and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(masked=[False, True], class_token=[False, True])
    def test_tokens_are_those_of_the_equations(self, masked, class_token):
        model = models.ViT(PATCH, D, 2, H, 12, class_token)
        x = images()
        params, N = parameters(model, x), T + class_token
        mask = jnp.asarray(np.random.default_rng(1).random((1, 1, N, N)) < 0.5) if masked else None
        mask = mask | jnp.eye(N, dtype=bool)[None, None] if masked else None
        apply = self.variant(lambda p, x, mask: model.apply({"params": p}, x, mask))
        start = np.asarray(model.apply({"params": params}, x, method="embed"), np.float64)
        chex.assert_shape(start, (2, N, D))
        expected = oracle(start, params, 2, True if mask is None else mask[0])
        np.testing.assert_allclose(apply(params, x, mask), expected, rtol=2e-4, atol=2e-4)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters("mean", "cls")
    def test_logits_are_of_pooled_tokens(self, pooling):
        model = models.ViTClassifier(K, PATCH, D, 1, H, pooling=pooling)
        params, x = parameters(model, images()), images()
        logits = self.variant(lambda p, x: model.apply({"params": p}, x))(params, x)
        chex.assert_shape(logits, (2, K))
        body = models.ViT(PATCH, D, 1, H, class_token=pooling == "cls")
        tokens = body.apply({"params": params["vit"]}, x)
        pooled = tokens[:, 0] if pooling == "cls" else tokens.mean(1)
        expected = pooled @ params["head"]["kernel"] + params["head"]["bias"][None]
        chex.assert_trees_all_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_mask_decides_which_patches_matter():
    """Gradient of each token to each pixel, one block: a patch sees itself and what it may see."""
    model, x = models.ViT(PATCH, D, 1, H), images(B=1)
    params = parameters(model, x)
    mask = np.eye(T, dtype=bool)
    mask[0, 5] = True

    def tokens(x):
        return model.apply({"params": params}, x, jnp.asarray(mask)[None, None]).sum((0, 2))

    reads = np.abs(jax.jit(jax.jacrev(tokens))(x))[:, 0, :, :, 0]  # [T, Y, X]
    side = SIDE // PATCH
    reads = reads.reshape(T, side, PATCH, side, PATCH).sum((2, 4)).reshape(T, T)
    np.testing.assert_array_equal(reads > 1e-6, mask)


def test_tokens_may_be_added_between_embedding_and_blocks():
    """A memory token that patches may see changes them; one that they may not see does not."""
    model, x = models.ViT(PATCH, D, 2, H), images()
    variables = {"params": parameters(model, x)}
    tokens = model.apply(variables, x, method="embed")
    plain = model.apply(variables, x)
    chex.assert_trees_all_close(model.apply(variables, tokens, method="encode"), plain)
    memory = jnp.concatenate([tokens, jnp.ones((2, 1, D))], axis=1)
    hidden = np.ones((1, 1, T + 1, T + 1), bool)
    hidden[..., :T, T] = False
    unseen = model.apply(variables, memory, jnp.asarray(hidden), method="encode")[:, :T]
    chex.assert_trees_all_close(unseen, plain, rtol=1e-4, atol=1e-5)
    seen = model.apply(variables, memory, method="encode")[:, :T]
    assert np.abs(seen - plain).max() > 1e-2
    layers = model.apply(variables, tokens, method="hidden")
    assert len(layers) == 3
    chex.assert_trees_all_equal(layers[-1], model.apply(variables, tokens, method="encode"))


def test_it_starts_like_flaxs_attention():
    """Kernels of variance 1 / fan in, as of nn.MultiHeadDotProductAttention; biases of zero."""
    model, x = models.ViT(PATCH, 64, 1, 4), images()
    ours = jax.jit(model.init)(jax.random.key(0), x)["params"]["block_0"]["attention"]
    tokens = jnp.zeros((2, T, 64))
    theirs = nn.MultiHeadDotProductAttention(4).init(jax.random.key(0), tokens)["params"]
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    for name in ("query", "key", "value", "out"):
        variance = float(jnp.var(ours[name]["kernel"]))
        assert abs(64 * variance - 1) < 5 * np.sqrt(2 / 64**2), name
        assert not ours[name]["bias"].any()


def test_second_call_compiles_nothing():
    model, x = models.ViTClassifier(K, PATCH, D, 1, H), images()
    params = parameters(model, x)
    apply = jax.jit(chex.assert_max_traces(lambda p, x: model.apply({"params": p}, x), n=1))
    chex.assert_tree_all_finite([apply(params, images(seed)) for seed in range(2)])


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"patch": 4}, "do not divide images"), ({"num_heads": 3, "dim": 8}, "width of 8")],
)
def test_what_does_not_divide_is_refused(fields, word):
    with pytest.raises(ValueError, match=word):
        models.ViTClassifier(K, **fields).init(jax.random.key(0), images())


def test_an_unknown_pooling_is_refused(annotations_off):
    with pytest.raises(ValueError, match="'mean' or 'cls', not 'max'"):
        models.ViTClassifier(K, pooling="max").init(jax.random.key(0), images())
