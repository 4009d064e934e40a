"""Transformers of sequences: causality, packed sequences, and weights written by hand."""

from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import tasks
from ico.algorithms import constructions
from ico.models import (
    Mixer,
    MixerKind,
    SequenceTransformer,
    TokenTransformer,
    average_products,
    block_scalars,
    from_block_scalars,
    products,
)

# The two whose kernels compile for seconds are slow tests here; tests/layers has theirs.
KINDS = [
    pytest.param(kind, marks=pytest.mark.slow if kind.startswith("mesa") else ())
    for kind in get_args(MixerKind)
]
T, N = 9, 3


def parameters(model, *inputs, seed=0, scale=0.4):
    """So large that every part of the model matters."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]

    def draw(path, leaf):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        start = {"lam": 1.0, "reg": 1.0, "gate_bias": 1.0, "log_scale": 0.0}.get(name, 0.0)
        return jnp.asarray(start + scale * rng.standard_normal(leaf.shape), jnp.float64)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("kind", KINDS)
def test_no_position_sees_what_follows(kind, x64):
    model = SequenceTransformer(
        ("softmax", kind),
        N,
        N,
        embed_dim=6,
        num_heads=2,
        head_dim=4,
        position_dim=4,
        mlp_dim=5,
        layer_norm=True,
        normalise=True,
    )
    x = jax.random.normal(jax.random.key(0), (1, T, N), jnp.float64)
    params = parameters(model, x)
    jacobian = jax.jit(jax.jacrev(lambda x: model.apply({"params": params}, x).sum((0, 2))))(x)
    reads = np.abs(jacobian).sum((1, 3))  # [T, T]
    assert (reads[np.triu_indices(T, 1)] == 0).all()
    assert (reads[np.tril_indices(T)] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_packed_tokens_are_as_by_themselves(kind, x64):
    model = TokenTransformer(11, (kind,), dim=6, num_heads=2, head_dim=4, mlp_dim=5, chunk_size=4)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 11, (1, 10)))
    params = parameters(model, ids)
    # Equal halves, and a single segment in place of none, so that each shape is compiled once.
    apply = jax.jit(lambda *args: model.apply({"params": params}, *args))
    together = apply(ids, jnp.asarray([[0] * 5 + [1] * 5]))
    apart = jnp.concatenate([apply(ids[:, :5]), apply(ids[:, 5:])], axis=1)
    np.testing.assert_allclose(together, apart, rtol=1e-6, atol=1e-8)
    assert np.abs(together - apply(ids, jnp.zeros((1, 10), int)))[:, 5:].max() > 1e-3


def test_a_sequence_ends_where_the_number_changes(x64):
    """Softmax too: a number that comes back is another sequence, as for layers with a state."""
    mixer = Mixer("softmax", 2, 4)
    x = jax.random.normal(jax.random.key(0), (1, 6, 5), jnp.float64)
    params = parameters(mixer, x)
    ids = jnp.array([[0, 0, 1, 1, 0, 0]])
    packed = mixer.apply({"params": params}, x, segment_ids=ids)
    other = mixer.apply({"params": params}, x, segment_ids=jnp.array([[0, 0, 1, 1, 2, 2]]))
    np.testing.assert_array_equal(packed, other)


@pytest.mark.parametrize("kind", ["gated_linear", "gated_mesa"])
def test_gates_of_large_tokens_are_finite(kind):
    """Logits of hundreds: sigmoids are zero or one, their logarithms are exact."""
    x = 100 * jax.random.normal(jax.random.key(0), (2, 20, 8))
    mixer = Mixer(kind, 2, 4, normalise=True, gate_bias=0.0)
    params = mixer.init(jax.random.key(1), x)

    @jax.jit
    def both(params):
        return jax.value_and_grad(lambda params: jnp.sum(mixer.apply(params, x) ** 2))(params)

    chex.assert_tree_all_finite(both(params))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_and_the_second_call_compiles_nothing(kind):
    """Every parameter matters at the start; updates may come back as tokens."""
    mixer = Mixer(kind, 2, 3, normalise=True, conv_width=2, norm_output=True)
    x = jax.random.normal(jax.random.key(0), (2, T, 5))
    params = jax.jit(mixer.init)(jax.random.key(1), x)["params"]

    def loss(params, x):
        update = mixer.apply({"params": params}, x)
        chex.assert_trees_all_equal_shapes_and_dtypes(update, x)
        return jnp.sum(jnp.sin(update)), update

    counted = chex.assert_max_traces(loss, n=1)
    gradient = jax.jit(jax.grad(counted, (0, 1), has_aux=True))
    for _ in range(2):
        grads, x = gradient(params, x)
        chex.assert_trees_all_equal_shapes_and_dtypes(grads, (params, x))
        chex.assert_tree_all_finite(grads)
        assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


class TokenTransformerTest(chex.TestCase):
    """With and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_logits(self):
        model = TokenTransformer(7, ("softmax", "linear"), dim=6, num_heads=2, head_dim=3)
        ids = jnp.arange(10).reshape(2, 5) % 7
        variables = jax.jit(model.init)(jax.random.key(0), ids)
        logits = self.variant(model.apply)(variables, ids)
        chex.assert_shape(logits, (2, 5, 7))
        chex.assert_tree_all_finite(logits)


def test_a_mixer_is_its_layer_between_its_projections(x64):
    """Rebuilt for linear attention, with a convolution and a position code."""
    mixer = Mixer("linear", 2, 4, conv_width=3)
    x = jax.random.normal(jax.random.key(0), (1, T, 6), jnp.float64)
    code = jax.random.normal(jax.random.key(1), (T, 2), jnp.float64)
    params = parameters(mixer, x, code)
    w = jax.tree.map(np.asarray, params)
    placed = np.concatenate([x, code[None]], axis=-1)
    sides = {}
    for name in ("query", "key"):
        raw = np.einsum("bte,hea->btha", placed, w[name])
        late = [np.pad(raw, ((0, 0), (i, 0), (0, 0), (0, 0)))[:, :T] for i in range(3)]
        conv = sum(late[i] * w[f"{name}_conv"][i] for i in range(3))
        sides[name] = conv / (1 + np.exp(-conv))
    scores = np.einsum("btha,bsha->bhts", sides["query"], sides["key"]) * np.tri(T)
    value = np.einsum("bte,hea->btha", x, w["value"])
    o = np.einsum("bhts,bsha,hae->bte", scores, value, w["out"])
    np.testing.assert_allclose(mixer.apply({"params": params}, x, code), o, rtol=1e-10, atol=1e-12)


def built(kind):
    """A single layer on constructed tokens, whose weights may be set by hand."""
    return SequenceTransformer(
        (kind,), 4 * N, N, embed_dim=0, num_heads=1, head_dim=N, position_dim=0, free_lam=True
    )


def test_one_linear_layer_by_hand_is_one_gradient_step(x64):
    x = jax.random.normal(jax.random.key(0), (2, T, N), jnp.float64)
    tokens = tasks.constructed_tokens(x)
    params = constructions.next_vector(0.3, num_inputs=N)
    ours = built("linear").apply({"params": params}, tokens)
    for b, t in np.ndindex(2, T):
        w = sum(np.outer(x[b, s], x[b, s - 1]) for s in range(1, t + 1))
        np.testing.assert_allclose(ours[b, t], 0.3 * w @ x[b, t] if t else 0, atol=1e-12)


def test_one_mesa_layer_by_hand_is_least_squares(x64):
    x = jax.random.normal(jax.random.key(0), (2, T, N), jnp.float64)
    params = constructions.next_vector(num_inputs=N, lam=5.0)
    ours = built("mesa").apply({"params": params}, tasks.constructed_tokens(x))
    for b in range(2):
        before, after = np.asarray(x[b, :-1]), np.asarray(x[b, 1:])
        w = np.linalg.solve(before.T @ before + np.eye(N) / 5, before.T @ after).T
        np.testing.assert_allclose(ours[b, -1], w @ x[b, -1], atol=1e-10)


def test_constructed_tokens():
    x = jnp.arange(12.0).reshape(1, 4, 3)
    tokens = tasks.constructed_tokens(x)
    np.testing.assert_array_equal(tokens[0, 2], [0, 0, 0, 6, 7, 8, 6, 7, 8, 3, 4, 5])
    np.testing.assert_array_equal(tokens[0, 0, -3:], 0)


def test_block_scalars_and_back(x64):
    """A model made of scalars is its own compressed form; and the mean of two has mean products."""
    rng = np.random.default_rng(0)
    scalars = {"block_0": {name: jnp.asarray(rng.normal(size=(2, 4, 4))) for name in ("kq", "pv")}}
    params = from_block_scalars(scalars, N)
    again = block_scalars(params, N)["block_0"]
    for name, matrices in again.items():
        np.testing.assert_allclose(matrices, scalars["block_0"][name], atol=1e-14)
    expected = np.kron(scalars["block_0"]["kq"][1], np.eye(N))
    np.testing.assert_allclose(products(params["block_0"])[0][1], expected, atol=1e-14)
    other = jax.tree.map(lambda a: a + jnp.asarray(rng.normal(size=a.shape)), params)
    middle = average_products(params, other, 0.25)
    for got, a, b in zip(*(products(p["block_0"]) for p in (middle, params, other)), strict=True):
        np.testing.assert_allclose(got, 0.75 * a + 0.25 * b, atol=1e-12)
    with pytest.raises(ValueError, match="blocks"):
        average_products(params, {})


def test_the_papers_models_have_their_shapes():
    """3,200 parameters per head and layer on constructed tokens; seven layers on vectors."""
    x = jax.ShapeDtypeStruct((256, 50, 40), jnp.float32)
    model = SequenceTransformer(("linear",) * 6, 40, 10, embed_dim=0, position_dim=0)
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 6 * 4 * 3200
    full = SequenceTransformer(("softmax", *["linear"] * 6))
    x = jax.ShapeDtypeStruct((256, 50, 10), jnp.float32)
    params = jax.eval_shape(full.init, jax.random.key(0), x)["params"]
    assert params["block_0"]["attention"]["key"].shape == (4, 80, 20)
    assert jax.eval_shape(full.apply, {"params": params}, x).shape == (256, 50, 10)


def test_wrong_settings_are_refused(annotations_off):
    x = jnp.zeros((1, T, N))
    with pytest.raises(ValueError, match="kinds"):
        SequenceTransformer((), N, N).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="num_outputs"):
        SequenceTransformer(("linear",), N, N + 1, embed_dim=0).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="kind"):
        SequenceTransformer(("quick",), N, N).init(jax.random.key(0), x)
    ids = jnp.zeros((1, T), int)
    with pytest.raises(ValueError, match="position code"):
        TokenTransformer(5, ("linear",), position_dim=4).init(jax.random.key(0), ids, ids)
