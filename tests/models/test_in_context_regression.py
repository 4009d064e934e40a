"""The closed-form models are the attention that they stand for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from ico import algorithms as al
from ico import models
from ico.models import learner
from ico.types import Prompt

SIZES = (5, 3), (5, 1), (3, 3)
MODELS = {
    "FULL": models.FullLinearTransformer(num_layers=3, num_inputs=3),
    "FULL, two heads": models.FullLinearTransformer(num_layers=2, num_inputs=3, num_heads=2),
    "DIAG": models.DiagonalLinearTransformer(num_layers=3),
    "DIAG, two heads": models.DiagonalLinearTransformer(num_layers=2, num_heads=2),
    "free": models.FreeDiagonalLinearTransformer(num_layers=3),
    "GD++": models.GdPlusPlusLinearTransformer(num_layers=3),
}


def attention_form(model, params):
    """The same model as a LinearTransformer, and its parameters."""
    if isinstance(model, models.FullLinearTransformer):
        p, q = params["p"], params["q"]
    else:
        scalars = model.apply({"params": params}, method="scalars")
        p, q = al.diagonal_heads(al.DiagonalScalars(*scalars), 3)
    eye = jnp.broadcast_to(jnp.eye(4), p.shape[1:])
    blocks = {}
    for i in range(len(p)):
        weights = {"key": q[i], "query": eye, "out": eye, "value": jnp.swapaxes(p[i], -1, -2)}
        blocks[f"block_{i}"] = {"attention": weights}
    return models.LinearTransformer(num_inputs=3, num_layers=len(p), num_heads=p.shape[1]), blocks


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_those_of_attention(name, make_prompt, make_params, x64):
    model, prompt = MODELS[name], make_prompt(K=1)
    params = make_params(model, prompt, scale=0.3)
    attention, blocks = attention_form(model, params)
    for all_layers in (False, True):
        ours = model.apply({"params": params}, prompt, all_layers=all_layers)
        theirs = attention.apply({"params": blocks}, prompt, all_layers=all_layers)
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)


class ModelsTest(chex.TestCase):
    """With and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*MODELS)
    def test_initialisation_is_small_and_gradients_flow(self, name):
        model, prompt = MODELS[name], Prompt(*(jnp.ones((2, n, d)) for n, d in SIZES))
        prompt = jax.tree.map(
            lambda a: jax.random.uniform(jax.random.key(a.shape[1]), a.shape, minval=-1), prompt
        )
        params = model.init(jax.random.key(0), prompt)["params"]
        for leaf in jax.tree.leaves(params):
            assert 0 < float(jnp.abs(leaf).max()) < 5 * model.init_scale

        def loss(params):
            return jnp.sum(model.apply({"params": params}, prompt) ** 2)

        grads = self.variant(jax.grad(loss))(params)
        chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
        chex.assert_tree_all_finite(grads)
        # In DIAG the first p_x and q_y matter through later layers, so every array does.
        assert all(float(jnp.abs(leaf).sum()) > 0 for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", MODELS)
def test_second_call_compiles_nothing(name, make_prompt, make_params):
    model, prompt = MODELS[name], make_prompt(K=1)
    params = make_params(model, prompt)
    apply = jax.jit(chex.assert_max_traces(learner(model), n=1))
    for seed in range(2):
        chex.assert_tree_all_finite(apply(params, make_prompt(seed, K=1)))


def test_gd_plus_plus_writes_no_labels_into_inputs(make_prompt, make_params):
    model, prompt = MODELS["GD++"], make_prompt(K=1)
    scalars = model.apply({"params": make_params(model, prompt)}, method="scalars")
    assert not np.any(scalars.xy) and not np.any(scalars.yy)
    assert np.all(np.asarray(scalars.xx) != 0)


@pytest.mark.parametrize(
    "model", [models.DiagonalLinearTransformer, models.FreeDiagonalLinearTransformer]
)
def test_no_layers_are_refused(model, make_prompt):
    with pytest.raises(ValueError, match="num_layers must be at least 1, not 0"):
        model(num_layers=0).init(jax.random.key(0), make_prompt(K=1))


@pytest.mark.parametrize("model", [models.DiagonalLinearTransformer, models.FullLinearTransformer])
def test_no_heads_are_refused(model, make_prompt):
    with pytest.raises(ValueError, match="num_heads must be at least 1, not 0"):
        model(num_heads=0).init(jax.random.key(0), make_prompt(K=1))


def test_more_outputs_than_one_are_refused(make_prompt):
    with pytest.raises(ValueError, match="one output"):
        MODELS["DIAG"].init(jax.random.key(0), make_prompt(K=2))
