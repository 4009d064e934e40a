"""The linear transformer against an independent implementation, and what its readers rely on."""

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings

from ico.models import LinearTransformer, learner
from ico.types import Prompt


def norm(tokens, weights):
    centred = tokens - tokens.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return normed * weights["scale"] + weights["bias"]


def mlp(tokens, weights):
    h = tokens @ weights["up"]["kernel"] + weights["up"].get("bias", 0)
    h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    return h @ weights["down"]["kernel"] + weights["down"].get("bias", 0)


def attention(tokens, num_context, weights, kind):
    """`P sum_i (W_V e_i) (W_K e_i)^T W_Q e_j`, with the paper's matrices, token by token."""
    update = np.zeros_like(tokens)
    for key, query, value, out in zip(
        *(weights[n] for n in ("key", "query", "value", "out")), strict=True
    ):
        w_k, w_q, w_v, p = key.T, query.T, value.T, out.T
        for j, e_j in enumerate(tokens):
            scores = np.array([(w_k @ e_i) @ (w_q @ e_j) for e_i in tokens[:num_context]])
            if kind == "softmax":
                scores = np.exp(scores / np.sqrt(len(w_k)))
                scores /= scores.sum()
            update[j] += p @ (w_v @ (scores @ tokens[:num_context]))
    return update


def oracle(model, params, prompt):
    """Predictions of every layer, [L, B, Q, K], in numpy float64."""
    params, prompt = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, prompt))
    K, N = model.num_outputs, prompt.x.shape[1]

    def clip(tokens):
        return np.clip(tokens, -model.token_clip, model.token_clip) if model.token_clip else tokens

    tasks = []
    for x, y, query in zip(*prompt, strict=True):
        start = -query @ params["start"].T if model.initial_weights else np.zeros((len(query), K))
        tokens = np.block([[x, y], [query, start]])
        if model.embed_dim:
            tokens = tokens @ params["embed"]["kernel"]
        if model.input_mlp_dim:
            tokens = tokens + mlp(tokens, params["input_mlp"])
        layers = []
        for layer in range(model.num_layers):
            block = params["block_0" if model.tied else f"block_{layer}"]
            kind = model.attention if isinstance(model.attention, str) else model.attention[layer]
            inner = tokens
            if model.layer_norm and (model.tied or layer > 0):
                inner = norm(tokens, block["attention_norm"])
            update = attention(inner, N, block["attention"], kind)
            if model.update == "targets":
                update[:, :-K] = 0
            tokens = clip(tokens + model.damping * update)
            if model.mlp_dim:
                inner = norm(tokens, block["mlp_norm"]) if model.layer_norm else tokens
                tokens = clip(tokens + model.damping * mlp(inner, block["mlp"]))
            layers.append(-tokens[N:, -K:])
        tasks.append(layers)
    return np.moveaxis(np.array(tasks), 1, 0)


SIZE = st.integers(1, 3)
CONFIGS = st.fixed_dictionaries(
    {
        "num_inputs": SIZE,
        "num_outputs": SIZE,
        "num_layers": SIZE,
        "tied": st.booleans(),
        "num_heads": SIZE,
        "head_dim": st.sampled_from([None, 1, 3]),
        "attention": st.sampled_from(["linear", "softmax"]),
        "mlp_dim": st.sampled_from([0, 4]),
        "layer_norm": st.booleans(),
        "token_clip": st.sampled_from([0.0, 0.8]),
        "damping": st.sampled_from([1.0, 0.75]),
        "update": st.sampled_from(["all", "targets"]),
        "embed_dim": st.sampled_from([0, 6]),
        "input_mlp_dim": st.sampled_from([0, 4]),
        "initial_weights": st.booleans(),
    }
)
PLAIN = {"num_inputs": 3, "num_outputs": 2}
FULL = PLAIN | {"mlp_dim": 4, "layer_norm": True, "num_heads": 2, "num_layers": 2}


@settings(max_examples=3)
@given(CONFIGS)
@example(PLAIN)
@example(PLAIN | {"num_layers": 2, "num_heads": 2, "attention": ("softmax", "linear")})
@example(FULL)
@example(FULL | {"tied": True, "token_clip": 0.8, "damping": 0.75, "update": "targets"})
@example(FULL | {"embed_dim": 6, "input_mlp_dim": 5, "initial_weights": True})
def test_every_layer_is_the_equation(make_prompt, make_params, config):
    with jax.enable_x64(True):
        model = LinearTransformer(**config)
        prompt = make_prompt(0, 2, 4, model.num_inputs, model.num_outputs, 2)
        params = make_params(model, prompt)
        got = jax.jit(learner(model, all_layers=True))(params, prompt)
        np.testing.assert_allclose(got, oracle(model, params, prompt), rtol=1e-10, atol=1e-10)


def test_the_last_layer_is_the_default_and_the_sign_is_minus(make_prompt, make_params, x64):
    model, prompt = LinearTransformer(**FULL), make_prompt()
    params = make_params(model, prompt)
    layers = jax.jit(learner(model, all_layers=True))(params, prompt)
    assert layers.shape == (2, 2, 3, 2)
    np.testing.assert_allclose(jax.jit(learner(model))(params, prompt), layers[-1], atol=1e-13)
    # W_V = P = W_Q = W_K = I: the query token gains sum_i e_i (e_i . e), its prediction loses it.
    model, eye = LinearTransformer(3, 2), jnp.eye(5)[None]
    params = {"block_0": {"attention": dict.fromkeys(("query", "key", "value", "out"), eye)}}
    expected = -jnp.einsum("bnk,bnd,bqd->bqk", prompt.y, prompt.x, prompt.x_query)
    np.testing.assert_allclose(learner(model)(params, prompt), expected, atol=1e-13)


@pytest.mark.parametrize("config", [FULL, FULL | {"tied": True, "num_layers": 3}])
def test_second_call_compiles_nothing(config, make_prompt, make_params):
    """Nor do gradients lose their shapes where layers are scanned."""
    model = LinearTransformer(**config)
    params = make_params(model, make_prompt())

    def loss(params, prompt):
        return jnp.sum(learner(model)(params, prompt) ** 2)

    gradient = jax.jit(jax.grad(chex.assert_max_traces(loss, n=1)))
    for seed in range(2):
        grads = gradient(params, make_prompt(seed))
        chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
        chex.assert_tree_all_finite(grads)


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_context_is_a_set_and_queries_do_not_see_each_other(
    attention, make_prompt, make_params, x64
):
    model, prompt = LinearTransformer(**FULL, attention=attention), make_prompt()
    params = make_params(model, prompt)
    apply = jax.jit(lambda prompt: learner(model)(params, prompt))
    order = np.array([3, 0, 4, 1, 2])
    shuffled = prompt._replace(x=prompt.x[:, order], y=prompt.y[:, order])
    np.testing.assert_allclose(apply(shuffled), apply(prompt), atol=1e-12)
    assert np.abs(apply(prompt._replace(y=prompt.y[:, order])) - apply(prompt)).max() > 1e-3
    by_query = np.abs(jax.jit(jax.jacrev(apply))(prompt).x_query).sum((2, 5)).reshape(6, 6)
    same = np.eye(6, dtype=bool)
    assert (by_query[~same] == 0).all() and (by_query[same] > 0).all()


def test_tied_layers_are_one_block_repeated(make_prompt, make_params, x64):
    prompt, config = make_prompt(), PLAIN | {"num_layers": 3, "mlp_dim": 4}
    tied, untied = LinearTransformer(**config, tied=True), LinearTransformer(**config)
    params = make_params(tied, prompt)
    assert set(params) == {"block_0"}
    repeated = {f"block_{layer}": params["block_0"] for layer in range(3)}
    np.testing.assert_allclose(
        jax.jit(learner(untied))(repeated, prompt),
        jax.jit(learner(tied))(params, prompt),
        atol=1e-12,
    )


def test_initial_variance_is_the_scale_over_fan_in():
    """The scale is a variance: truncated normals, within 5 standard errors (kurtosis < 3)."""
    model = LinearTransformer(60, 4, num_heads=3, head_dim=50, mlp_dim=70, init_scale=0.01)
    prompt = Prompt(jnp.zeros((1, 1, 60)), jnp.zeros((1, 1, 4)), jnp.zeros((1, 1, 60)))
    block = jax.device_get(jax.jit(model.init)(jax.random.key(0), prompt))["params"]["block_0"]
    leaves = {name: (leaf, 64) for name, leaf in block["attention"].items()}
    leaves["out"] = (block["attention"]["out"], 3 * 50)
    leaves["up"] = (block["mlp"]["up"]["kernel"], 64)
    leaves["down"] = (block["mlp"]["down"]["kernel"], 70)
    assert len(leaves) == 6
    for name, (leaf, fan_in) in leaves.items():
        n, variance = leaf.size, 0.01 / fan_in
        assert abs(leaf.mean()) < 5 * np.sqrt(variance / n), name
        assert abs(leaf.var() / variance - 1) < 5 * np.sqrt(2 / n), name


def test_a_prompt_of_another_size_needs_no_new_parameters(make_prompt, make_params, x64):
    model = LinearTransformer(**FULL)
    params = make_params(model, make_prompt())
    assert jax.eval_shape(learner(model), params, make_prompt(1, 1, 9, 3, 2, 1)).shape == (1, 1, 2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_layers": 3, "attention": ("linear", "softmax")}, "names 2 layers, not 3"),
        ({"num_layers": 2, "attention": ("linear", "softmax"), "tied": True}, "cannot differ"),
    ],
)
def test_errors(config, message, make_prompt):
    with pytest.raises(ValueError, match=message):
        LinearTransformer(**PLAIN, **config).init(jax.random.key(0), make_prompt())


def test_the_papers_largest_model_has_its_shapes():
    """12 blocks, 4 heads, MLP 44, batch 2048 (Fig. 8), forward and backward, without running."""
    model = LinearTransformer(
        num_layers=12, num_heads=4, mlp_dim=44, layer_norm=True, token_clip=10.0
    )
    sizes = (2048, 10, 10), (2048, 10, 1), (2048, 1, 10)
    prompt = Prompt(*(jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes))
    params = jax.eval_shape(model.init, jax.random.key(0), prompt)["params"]

    def loss(params, prompt):
        return jnp.mean(learner(model)(params, prompt) ** 2)

    gradient = jax.eval_shape(jax.grad(loss), params, prompt)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, params)
    assert len(params) == 12
    matrices = 4 * 4 * 11 * 11 + 2 * 11 * 44
    norms = 12 * 2 * 11 + 11 * 2 * 11
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 12 * matrices + norms
    layers = jax.eval_shape(learner(model, all_layers=True), params, prompt)
    assert layers.shape == (12, 2048, 1, 1)
