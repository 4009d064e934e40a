"""The network that a transformer writes, and the one that writes it.

Dimension key: B episodes, N support images, Q queries, K classes, D pixels.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import models
from ico.algorithms import class_means, constructions
from ico.models._convnet import max_pool
from ico.types import Prompt

SIZE, WAY = 8, 3
SMALL = {
    "channels": 2,
    "num_convs": 2,
    "num_blocks": 2,
    "code_dim": 6,
    "shared_dim": 4,
    "local_dim": 3,
}
VARIANTS = {
    "all": {},
    "logits only": {"learned": (0, 1)},
    "first learned": {"learned": (0,)},
    "spatial": {"allocation": "spatial"},
    "linear": {"kind": "linear"},
    "mesa": {"kind": "mesa"},
    "separate": {"separate": True},
    "with norms": {"write_norm": True, "add_learned": True},
    "inductive": {"inductive": True, "shared_dim": 0, "head_reads": "features"},
}


# `make test` has one; each takes seconds to compile.
QUICK = ("all",)
each_variant = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in VARIANTS],
)


def prompt(seed=0, B=2, N=5, Q=4, way=WAY):
    rng = np.random.default_rng(seed)
    labels = np.array([0, 1, 2, 0, 1])[:N]
    y = np.broadcast_to(np.eye(way)[labels], (B, N, way))
    x = rng.normal(size=(B, N, SIZE * SIZE))
    return Prompt(*(jnp.asarray(a, jnp.float32) for a in (x, y, rng.normal(size=(B, Q, SIZE**2)))))


def built(**fields):
    model = models.HyperTransformer((SIZE, SIZE, 1), WAY, **SMALL | fields)
    params = jax.jit(model.init)(jax.random.key(0), prompt())["params"]
    return model, params


@pytest.mark.parametrize("padding", [3, 5])
def test_convolve_is_xlas_convolution(padding):
    x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
    kernel = jax.random.normal(jax.random.key(1), (padding, padding, 3, 4))
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(models.convolve(x, kernel), expected, atol=1e-4)


def test_pooling_leaves_out_an_odd_row():
    x = jnp.arange(15.0).reshape(1, 1, 3, 5)
    np.testing.assert_array_equal(max_pool(x)[0, 0], [[6, 8]])


@pytest.mark.parametrize("allocation", ["output", "spatial"])
@pytest.mark.parametrize("with_norm", [False, True])
def test_slices_reassemble(allocation, with_norm):
    """Cutting is the inverse of joining; and every weight is somewhere."""
    if with_norm and allocation == "spatial":
        pytest.skip("norms are written with output channels alone")
    shapes = models.convnet_shapes((SIZE, SIZE, 2), 4, 2, WAY)
    for name, layer in shapes.items():
        rng = np.random.default_rng(1)
        weights = {
            part: jnp.asarray(rng.normal(size=(2, *s)), jnp.float32) for part, s in layer.items()
        }
        if name != "head" and not with_norm:
            weights = {"kernel": weights["kernel"]}
        slices = models.to_slices(weights, allocation, with_norm)
        assert slices.size == sum(w.size for w in weights.values())
        back = models.from_slices(slices, layer, allocation, with_norm)
        chex.assert_trees_all_close(back, weights, rtol=1e-6)


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_written_network_by_hand_equals_the_transformers_own_pass(self):
        model, params = built()
        one = prompt()
        logits = self.variant(model.apply)({"params": params}, one)
        weights, _ = model.apply({"params": params}, one, method="write")
        for b in range(2):
            network = jax.tree.map(lambda leaf, b=b: leaf[b], weights)
            images = one.x_query[b].reshape(-1, SIZE, SIZE, 1)
            np.testing.assert_allclose(models.convnet(network, images), logits[b], atol=1e-5)


@each_variant
def test_the_order_of_the_support_does_not_matter(name):
    """But that of the labels does: the labels of two classes exchanged exchange nothing else."""
    model, params = built(**VARIANTS[name])
    one, order = prompt(), np.array([3, 0, 4, 2, 1])
    write = jax.jit(lambda prompt: model.apply({"params": params}, prompt, method="write")[0])
    turned = one._replace(x=one.x[:, order], y=one.y[:, order])
    chex.assert_trees_all_close(write(one), write(turned), atol=1e-5)
    written = {k for k in write(one) if name != "logits only" or k == "head"}
    other = write(one._replace(y=one.y[..., ::-1]))
    for layer in written - ({"conv_0"} if name == "first learned" else set()):
        assert np.abs(write(one)[layer]["kernel"] - other[layer]["kernel"]).max() > 1e-4


@each_variant
def test_every_parameter_has_a_gradient_and_that_of_no_label_only_where_there_is_none(name):
    model, params = built(**VARIANTS[name])
    one = prompt()
    answer = jnp.broadcast_to(jnp.eye(WAY)[jnp.array([0, 1, 2, 0])][None], (2, 4, WAY))

    @jax.jit
    def gradient(prompt):
        def loss(params):
            logits = model.apply({"params": params}, prompt)
            return optax.softmax_cross_entropy(logits, answer).mean()

        return jax.grad(loss)(params)

    with_all, hidden = gradient(one), gradient(one._replace(y=one.y.at[:, 3].set(0)))
    assert not np.any(with_all["labels"][-1]) and np.all(np.any(hidden["labels"], axis=-1))
    dead = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(hidden)
        if not np.any(leaf)
    ]
    # A shift of all keys alike changes no softmax.
    dead = [path for path in dead if "key_bias" not in path]
    assert not dead


def test_inductive_predictions_do_not_depend_on_other_queries():
    one = prompt()
    for inductive in (True, False):
        model, params = built(inductive=inductive)
        apply = jax.jit(lambda prompt, m=model, p=params: m.apply({"params": p}, prompt))
        both, alone = apply(one), apply(one._replace(x_query=one.x_query[:, :1]))
        same = np.allclose(both[:, :1], alone, atol=1e-5)
        assert same is inductive


def test_zeros_before_are_nothing_before():
    """The token of a slice is filled up with zeros where there is no earlier network."""
    model, params = built()
    one = prompt()
    weights, _ = model.apply({"params": params}, one, method="write")
    nothing = jax.tree.map(jnp.zeros_like, weights)
    again, _ = model.apply({"params": params}, one, nothing, method="write")
    chex.assert_trees_all_close(again, weights, atol=1e-6)
    other, _ = model.apply({"params": params}, one, weights, method="write")
    assert np.abs(other["head"]["kernel"] - weights["head"]["kernel"]).max() > 1e-3


def test_bad_fields_and_shapes_are_refused(annotations_off):
    with pytest.raises(ValueError, match="kind"):
        models.HyperTransformer((8, 8, 1), 3, kind="soft")
    with pytest.raises(ValueError, match="output"):
        models.HyperTransformer((8, 8, 1), 3, allocation="spatial", write_norm=True)
    with pytest.raises(ValueError, match="learned"):
        models.HyperTransformer((8, 8, 1), 3, learned=(4,))
    with pytest.raises(ValueError, match="below one pixel"):
        models.convnet_shapes((8, 8, 1), 2, 4, 3)
    model, params = built()
    one = prompt()
    with pytest.raises(ValueError, match="are no images"):
        model.apply({"params": params}, one._replace(x=one.x[..., 1:]))
    with pytest.raises(ValueError, match="all_layers"):
        model.apply({"params": params}, one, all_layers=True)


def rivals():
    shape = (SIZE, SIZE, 1)
    return {
        "prototypes": models.ProtoNet(shape, 2, 2),
        "linear head": models.LinearHead(shape, 7, 2, 2),
        "maml": models.Maml(shape, WAY, 2, 2),
        "first order": models.Maml(shape, WAY, 2, 2, first_order=True),
        "anil": models.Maml(shape, WAY, 2, 2, head_only=True),
    }


@pytest.mark.parametrize("name", rivals())
def test_rivals_use_the_labelled_images_alone_in_any_order(name):
    model, one = rivals()[name], prompt()
    params = jax.jit(model.init)(jax.random.key(0), one)["params"]
    apply = jax.jit(lambda prompt: model.apply({"params": params}, prompt))
    logits = apply(one)
    chex.assert_shape(logits, (2, 4, WAY))
    order = np.array([4, 2, 0, 1, 3])
    turned = one._replace(x=one.x[:, order], y=one.y[:, order])
    np.testing.assert_allclose(apply(turned), logits, atol=1e-4)
    exchanged = apply(one._replace(y=one.y[..., ::-1]))
    if name == "maml" or name == "first order" or name == "anil":
        assert np.abs(exchanged - logits).max() > 1e-4  # its head has an order of classes
    else:
        np.testing.assert_allclose(exchanged[..., ::-1], logits, atol=1e-4)


def test_maml_is_gradient_descent_and_its_first_order_form_has_the_same_forward_pass():
    one, shape = prompt(), (SIZE, SIZE, 1)
    one = one._replace(y=one.y.at[:, 3:].set(0))  # two without a label, of which there is no loss
    model = models.Maml(shape, WAY, 2, 2, num_steps=1, rate=0.3)
    params = jax.jit(model.init)(jax.random.key(0), one)["params"]
    weights = params["network"]

    def loss(weights):
        logits = models.convnet(weights, one.x[0].reshape(-1, *shape))
        return optax.softmax_cross_entropy(logits[:3], one.y[0, :3]).mean()

    moved = jax.tree.map(lambda w, g: w - 0.3 * g, weights, jax.jit(jax.grad(loss))(weights))
    expected = models.convnet(moved, one.x_query[0].reshape(-1, *shape))
    found = jax.jit(model.apply)({"params": params}, one)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)

    def outer(first_order):
        variant = model.clone(first_order=first_order)
        outer = jax.value_and_grad(lambda p: (variant.apply({"params": p}, one) ** 2).mean())
        return jax.jit(outer)(params)

    (first, g_first), (second, g_second) = outer(True), outer(False)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), g_first["network"], g_second["network"])
    assert max(jax.tree.leaves(gap)) > 1e-4
    body = jax.eval_shape(model.clone(head_only=True).init, jax.random.key(0), one)["params"]
    assert set(body["rates"]) == {"head"}


def test_hand_set_attention_writes_the_class_means():
    """Exactly: a prototype head, which does not see the images without a label."""
    fields = SMALL | {"num_blocks": 1, "shared_dim": 0, "num_heads": 1, "norm": False}
    model, params = built(**fields, learned=(0, 1), head_reads="features")
    params = params | constructions.prototype_head(WAY, 8, fields["code_dim"])
    one = prompt()
    one = one._replace(y=one.y.at[:, 4].set(0))
    weights, _ = model.apply({"params": params}, one, method="write")
    for b in range(2):
        network = jax.tree.map(lambda leaf, b=b: leaf[b], weights)
        found, _ = models.convnet_features(network, one.x[b].reshape(-1, SIZE, SIZE, 1))
        means = class_means(found[None], one.y[b][None])[0]
        np.testing.assert_allclose(network["head"]["kernel"].T, means, atol=1e-5)
        assert not np.any(network["head"]["bias"])
    with pytest.raises(ValueError, match="code_dim"):
        constructions.prototype_head(6, 8, 6)
