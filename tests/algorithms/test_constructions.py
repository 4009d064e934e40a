"""Hand-written weights: a transformer that performs an algorithm does so to the last digits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.algorithms import constructions, gd, gd_plus_plus
from ico.models import LinearTransformer, learner

D, K, N = 12, 8, 45


def transformer(params, prompt, *, num_layers, tied, w0=False):
    sizes = prompt.x.shape[-1], prompt.y.shape[-1], num_layers
    model = LinearTransformer(*sizes, tied=tied, initial_weights=w0)
    apply = learner(model, all_layers=True)
    # Compiling a hundred layers takes longer than running them one operation at a time.
    return (jax.jit(apply) if num_layers < 9 else apply)(params, prompt)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("wide", "tolerance"), [(False, 1e-4), (True, 1e-10)])
def test_a_hundred_layers_are_a_hundred_steps(tied, wide, tolerance, make_episode):
    """d = 12, 8 outputs, N = 45, a random start: in every layer, not just the last."""
    with jax.enable_x64(wide):
        prompt = make_episode(0, 2, N, D, K, 3).prompt
        rng = np.random.default_rng(1)
        w0 = jnp.asarray(rng.standard_normal((K, D)), prompt.x.dtype)
        rate = jnp.asarray(1.2 if tied else rng.uniform(0.5, 1.5, 100), prompt.x.dtype)
        params = constructions.gd(
            rate, num_context=N, num_inputs=D, num_outputs=K, num_layers=100, tied=tied, w0=w0
        )
        got = transformer(params, prompt, num_layers=100, tied=tied, w0=True)
        expected = gd({"rate": rate, "w0": w0}, prompt, num_steps=100, all_steps=True)
        assert got.dtype == prompt.x.dtype and got.shape == (100, 2, 3, K)
        assert np.abs(got[-1] - got[0]).max() > 0.5
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_gd_plus_plus(tied, num_outputs, make_episode, x64):
    S = 4
    prompt = make_episode(1, 3, 10, 5, num_outputs, 4).prompt
    rng = np.random.default_rng(2)
    rate, gamma = (
        (jnp.asarray(0.9), jnp.asarray(0.02))
        if tied
        else (jnp.asarray(rng.uniform(0.2, 1.5, S)), jnp.asarray(rng.uniform(0, 0.03, S)))
    )
    params = constructions.gd_plus_plus(
        rate, gamma, num_context=10, num_inputs=5, num_outputs=num_outputs, num_layers=S, tied=tied
    )
    got = transformer(params, prompt, num_layers=S, tied=tied)
    expected = gd_plus_plus({"rate": rate, "gamma": gamma}, prompt, num_steps=S, all_steps=True)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
    without = gd({"rate": rate}, prompt, num_steps=S)
    assert np.abs(got[-1] - without).max() > 1e-3


def test_without_a_start_it_starts_from_zero(make_episode, x64):
    prompt = make_episode(3, 2, 6, 4, 2, 3).prompt
    params = constructions.gd(0.8, num_context=6, num_inputs=4, num_outputs=2, num_layers=3)
    got = transformer(params, prompt, num_layers=3, tied=False)
    expected = gd({"rate": 0.8}, prompt, num_steps=3, all_steps=True)
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("start", [True, False])
def test_weights_have_the_structure_of_the_model(tied, start, make_episode):
    prompt = make_episode(0, 2, 6, 4, 2, 3).prompt
    model = LinearTransformer(4, 2, num_layers=3, tied=tied, initial_weights=start)
    shapes = jax.eval_shape(model.init, jax.random.key(0), prompt)["params"]
    w0 = jnp.zeros((2, 4)) if start else None
    params = constructions.gd(
        0.5, num_context=6, num_inputs=4, num_outputs=2, num_layers=3, tied=tied, w0=w0
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, params)


def test_errors():
    sizes = {"num_context": 5, "num_inputs": 3, "num_layers": 2}
    with pytest.raises(ValueError, match="tied layers share one rate"):
        constructions.gd(jnp.ones(2), tied=True, **sizes)
    with pytest.raises(ValueError, match=r"rate must be a scalar or \[2\], not \(3,\)"):
        constructions.gd(jnp.ones(3), **sizes)
    with pytest.raises(ValueError, match=r"gamma must be a scalar or \[2\], not \(3,\)"):
        constructions.gd_plus_plus(1.0, jnp.ones(3), **sizes)
