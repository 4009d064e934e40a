"""The transformer on alternating tokens x_1, y_1, x_2, y_2, ..., x_query."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.models import AlternatingTransformer, learner
from ico.models._alternating import sinusoidal_positions
from ico.types import Prompt

B, N, D, K, Q, P = 2, 3, 4, 2, 2, 6
T, E = 2 * N + Q, D + P


@pytest.fixture
def case(make_prompt, make_params, x64):
    model, prompt = AlternatingTransformer(D, K, P, num_heads=2), make_prompt(0, B, N, D, K, Q)
    return model, {"params": make_params(model, prompt)}, prompt


def test_tokens_alternate_and_know_their_places(case):
    model, variables, prompt = case
    tokens = np.asarray(model.apply(variables, prompt, method="tokens"))
    assert tokens.shape == (B, T, E)
    np.testing.assert_array_equal(tokens[:, 0 : 2 * N : 2, :D], prompt.x)
    np.testing.assert_array_equal(tokens[:, 1 : 2 * N : 2, D - K : D], prompt.y)
    assert (tokens[:, 1 : 2 * N : 2, : D - K] == 0).all()
    np.testing.assert_array_equal(tokens[:, 2 * N :, :D], prompt.x_query)
    codes = tokens[:, :, D:]
    assert (codes == codes[:1]).all()
    # Every query stands at the place after the last pair.
    places = [*range(2 * N), *[2 * N] * Q]
    np.testing.assert_array_equal(codes[0], sinusoidal_positions(2 * N + 1, P)[places])


@pytest.mark.parametrize("width", [1, 2, 5, 10])
def test_position_codes_are_sines_and_cosines(width):
    codes = sinusoidal_positions(21, width)
    assert codes.shape == (21, width)
    for position, i in np.ndindex(codes.shape):
        angle = position / 10000 ** ((i - i % 2) / width)
        assert codes[position, i] == pytest.approx([np.sin, np.cos][i % 2](angle), abs=1e-6)
    assert len(np.unique(codes, axis=0)) == 21


def test_predictions_are_minus_the_change_of_the_last_coordinates(case):
    model, variables, prompt = case
    layers = learner(model, all_layers=True)(variables["params"], prompt)
    assert layers.shape == (2, B, Q, K)
    np.testing.assert_allclose(learner(model)(variables["params"], prompt), layers[-1], atol=1e-13)
    before, after = (model.apply(variables, prompt, layer, method="hidden") for layer in (0, 1))
    np.testing.assert_allclose(layers[0], (before - after)[:, 2 * N :, -K:], atol=1e-13)


@pytest.mark.parametrize("layer", [0, 1])
def test_scores_and_hidden_tokens_explain_the_layer(case, layer):
    """Update = sum over heads of scores times values, rebuilt from the probes alone."""
    model, variables, prompt = case
    scores, tokens = (
        np.asarray(model.apply(variables, prompt, layer, method=name))
        for name in ("scores", "hidden")
    )
    assert scores.shape == (B, 2, T, 2 * N) and tokens.shape == (B, T, E)
    if layer == 0:  # softmax
        np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-12)
        assert (scores > 0).all()
    else:  # linear
        assert np.abs(scores.sum(-1) - 1).max() > 0.1
    weights = variables["params"][f"block_{layer}"]["attention"]
    value = np.einsum("bse,hea->bhsa", tokens[:, : 2 * N], weights["value"])
    update = np.einsum("bhts,bhsa,hae->bte", scores, value, weights["out"])
    layers = learner(model, all_layers=True)(variables["params"], prompt)
    change = layers[layer] - (layers[layer - 1] if layer else 0)
    np.testing.assert_allclose(-update[:, 2 * N :, -K:], change, atol=1e-12)
    if layer == 0:
        after = model.apply(variables, prompt, 1, method="hidden")
        np.testing.assert_allclose(after, tokens + update, atol=1e-12)


def test_order_matters_and_queries_do_not_see_each_other(case):
    model, variables, prompt = case
    apply = jax.jit(lambda prompt: learner(model)(variables["params"], prompt))
    swapped = prompt._replace(x=prompt.x[:, ::-1], y=prompt.y[:, ::-1])
    assert np.abs(apply(swapped) - apply(prompt)).max() > 1e-3
    by_query = np.abs(jax.jit(jax.jacrev(apply))(prompt).x_query).sum((2, 5)).reshape(4, 4)
    same = np.eye(4, dtype=bool)
    assert (by_query[~same] == 0).all() and (by_query[same] > 0).all()


def test_second_call_compiles_nothing(make_prompt, make_params):
    model = AlternatingTransformer(D, K, P, num_heads=2)
    prompts = [make_prompt(seed, B, N, D, K, Q) for seed in range(2)]
    apply = jax.jit(chex.assert_max_traces(learner(model), n=1))
    params = make_params(model, prompts[0])
    chex.assert_tree_all_finite([apply(params, prompt) for prompt in prompts])


def test_the_papers_model_has_its_shapes():
    """21 tokens, position code 10, key width 20, batch 2048 (Fig. 5)."""
    sizes = (2048, 10, 10), (2048, 10, 1), (2048, 1, 10)
    prompt = Prompt(*(jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes))
    model = AlternatingTransformer()
    params = jax.eval_shape(model.init, jax.random.key(0), prompt)["params"]
    assert {leaf.shape for leaf in jax.tree.leaves(params)} == {(1, 20, 20)}
    assert jax.eval_shape(learner(model), params, prompt).shape == (2048, 1, 1)
