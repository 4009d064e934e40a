"""The closed-form models are the attention that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import algorithms as al
from ico import models

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
    blocks = {
        f"block_{i}": {"attention": {"key": q[i], "query": eye, "out": eye,
                                     "value": jnp.swapaxes(p[i], -1, -2)}}
        for i in range(len(p))
    }  # fmt: skip
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


@pytest.mark.parametrize("name", MODELS)
def test_initialisation_is_small_and_gradients_flow(name, make_prompt):
    model, prompt = MODELS[name], make_prompt(K=1)
    params = model.init(jax.random.key(0), prompt)["params"]
    leaves = jax.tree.leaves(params)
    assert all(0 < float(jnp.abs(leaf).max()) < 5 * model.init_scale for leaf in leaves)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(model.apply({"params": p}, prompt) ** 2)))(params)
    # The first p_x and q_y of DIAG do something through later layers alone, the last nothing.
    assert sum(float(jnp.abs(leaf).sum()) > 0 for leaf in jax.tree.leaves(grads)) == len(leaves)


def test_gd_plus_plus_writes_no_labels_into_inputs(make_prompt, make_params):
    model, prompt = MODELS["GD++"], make_prompt(K=1)
    scalars = model.apply({"params": make_params(model, prompt)}, method="scalars")
    assert not np.any(scalars.xy) and not np.any(scalars.yy)
    assert np.all(np.asarray(scalars.xx) != 0)


@pytest.mark.parametrize("model", [models.DiagonalLinearTransformer,
                                   models.FreeDiagonalLinearTransformer])  # fmt: skip
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
