"""Products of weights, and models between models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.algorithms import constructions, gd
from ico.models import LinearTransformer, gd_plus_plus_gamma, interpolate, learner, normalise
from ico.models._interpolation import products

D, K = 3, 2


@pytest.fixture
def case(make_prompt, make_params, x64):
    """Two models of head width 2, the width-E model that normalised weights need, a prompt."""
    narrow = LinearTransformer(D, K, num_layers=2, head_dim=2)
    prompt = make_prompt(0, 2, 4, D, K, 2)
    a, b = (make_params(narrow, prompt, seed) for seed in (1, 2))
    wide = LinearTransformer(D, K, num_layers=2)
    return jax.jit(learner(narrow)), jax.jit(learner(wide)), a, b, prompt


def test_products_are_those_of_the_papers_matrices(case):
    _, _, a, _, prompt = case
    w_kq, w_pv = products(a["block_0"])
    attention = {name: np.asarray(leaf[0]) for name, leaf in a["block_0"]["attention"].items()}
    w_k, w_q, w_v, p = (attention[name].T for name in ("key", "query", "value", "out"))
    np.testing.assert_allclose(w_kq[0], w_k.T @ w_q, atol=1e-14)
    np.testing.assert_allclose(w_pv[0], p @ w_v, atol=1e-14)


def test_normalising_and_the_ends_of_interpolation_keep_the_function(case):
    narrow, wide, a, b, prompt = case
    np.testing.assert_allclose(wide(normalise(a, K), prompt), narrow(a, prompt), rtol=1e-9)
    for weight, end in ((0.0, a), (1.0, b)):
        between = interpolate(a, b, weight, K)
        np.testing.assert_allclose(wide(between, prompt), narrow(end, prompt), rtol=1e-9)
    np.testing.assert_allclose(
        wide(interpolate(a, a, 0.3, K), prompt), narrow(a, prompt), rtol=1e-9
    )


def test_normalised_weights_have_a_mean_diagonal_of_one(case):
    _, _, a, _, _ = case
    for block in normalise(a, K).values():
        w_kq, _ = products(block)
        assert np.diagonal(w_kq[0])[:-K].mean() == pytest.approx(1, abs=1e-12)


def test_scale_between_the_products_is_forgotten_before_averaging(case):
    """c W_KQ and W_PV / c are the same layer, so they must interpolate alike."""
    _, wide, a, b, prompt = case

    def factor(path, leaf):
        return {"key": 7.0, "out": 1 / 7.0}.get(path[-1].key, 1.0) * leaf

    scaled = jax.tree_util.tree_map_with_path(factor, a)
    expected = wide(interpolate(a, b, 0.5, K), prompt)
    np.testing.assert_allclose(wide(interpolate(scaled, b, 0.5, K), prompt), expected, rtol=1e-9)
    assert np.abs(expected - wide(interpolate(a, b, 0.4, K), prompt)).max() > 1e-3


def test_between_two_rates_lies_their_mean(make_prompt, x64):
    """One step at rate 1 and one at rate 3: in the middle, one step at rate 2."""
    prompt = make_prompt(0, 2, 5, D, K, 2)
    one, three = (
        constructions.gd(r, num_context=5, num_inputs=D, num_outputs=K) for r in (1.0, 3.0)
    )
    got = learner(LinearTransformer(D, K))(interpolate(one, three, 0.5, K), prompt)
    np.testing.assert_allclose(got, gd({"rate": jnp.asarray(2.0)}, prompt), atol=1e-13)


def test_blocks_that_do_not_match(case):
    _, _, a, b, _ = case
    with pytest.raises(ValueError, match="cannot interpolate blocks"):
        interpolate(a, {"block_0": b["block_0"]})


def test_gamma_is_read_from_the_weights_of_gd_plus_plus():
    built = constructions.gd_plus_plus(6.0, 0.18, num_context=10, num_inputs=10)
    assert gd_plus_plus_gamma(built["block_0"]) == pytest.approx(0.18, rel=1e-5)
    plain = constructions.gd(6.0, num_context=10, num_inputs=10)
    assert gd_plus_plus_gamma(plain["block_0"]) == pytest.approx(0.0, abs=1e-7)
