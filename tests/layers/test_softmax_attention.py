"""Softmax attention against its definition."""

import functools

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from hypothesis import example, given, settings

from ico.layers import softmax_attention


def arrays(seed, B, T, S, H, D, V, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = (B, T, H, D), (B, S, H, D), (B, S, H, V)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def oracle(q, k, v, *, causal, scale=None, mask=None, bias=None, gate=None):
    """The definition, one query at a time; zeros where it sees no key."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    (B, T, H), S = q.shape[:3], k.shape[1]
    scale = 1 / np.sqrt(q.shape[-1]) if scale is None else scale
    wanted = {"mask": (mask, True), "bias": (bias, 0.0), "gate": (gate, 1.0)}
    mask, bias, gate = (
        np.broadcast_to(default if array is None else np.asarray(array), (B, H, T, S))
        for array, default in wanted.values()
    )
    o = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, t, h in np.ndindex(q.shape[:3]):
        seen = mask[b, h, t] & (np.arange(S) <= t if causal else True)
        if seen.any():
            weight = np.exp(scale * (k[b, seen, h] @ q[b, t, h]) + bias[b, h, t, seen])
            o[b, t, h] = (gate[b, h, t, seen] * weight) @ v[b, seen, h] / weight.sum()
    return o


SIZE = st.integers(1, 3)


@settings(max_examples=3)
@given(
    st.integers(0, 99),
    SIZE,
    st.integers(1, 9),
    st.integers(1, 9),
    SIZE,
    SIZE,
    SIZE,
    st.booleans(),
    st.sampled_from([None, 0.3, 2.0]),
)
@example(seed=0, B=1, T=1, S=1, H=1, D=1, V=1, causal=True, scale=None)
@example(seed=0, B=2, T=3, S=7, H=2, D=4, V=1, causal=False, scale=None)
@example(seed=0, B=2, T=7, S=7, H=2, D=4, V=3, causal=True, scale=0.3)
def test_it_is_the_definition(seed, B, T, S, H, D, V, causal, scale):
    with jax.enable_x64(True):
        inputs = arrays(seed, B, T, T if causal else S, H, D, V)
        options = {"causal": causal, "scale": scale}
        got = jax.jit(functools.partial(softmax_attention, **options))(*inputs)
        np.testing.assert_allclose(got, oracle(*inputs, **options), atol=1e-13)


class HooksTest(chex.TestCase):
    """Mask, bias and gate, with and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(
        causal=[True, False],
        case=[
            (("mask",), (2, 1, 1, 5)),
            (("bias",), (1, 3, 5, 5)),
            (("gate",), (1, 3, 5, 5)),
            (("mask", "bias", "gate"), (2, 3, 5, 5)),
        ],
    )
    def test_they_are_the_definition(self, causal, case):
        names, axes = case
        rng = np.random.default_rng(0)
        hooks = {
            "mask": jnp.asarray(rng.random(axes) < 0.5),
            "bias": jnp.asarray(rng.normal(size=axes), jnp.float32),
            "gate": jnp.asarray(rng.normal(size=axes), jnp.float32),
        }
        hooks = {name: hooks[name] for name in names}
        inputs = arrays(0, 2, 5, 5, 3, 4, 2, np.float32)
        attend = self.variant(functools.partial(softmax_attention, causal=causal))
        expected = oracle(*inputs, causal=causal, **hooks)
        np.testing.assert_allclose(attend(*inputs, **hooks), expected, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(True, False)
    def test_a_query_that_sees_no_key_gets_zeros_and_passes_no_gradient(self, causal):
        """As if it were not there: no NaN, and all other gradients are finite."""
        q, k, v = arrays(1, 2, 4, 4, 2, 3, 3, np.float32)
        mask = jnp.ones((1, 1, 4, 4), bool).at[:, :, 2].set(False)

        def loss(q, k, v, bias):
            o = softmax_attention(q, k, v, causal=causal, mask=mask, bias=bias)
            return jnp.sum(jnp.sin(o + 1)), o

        bias = jnp.zeros((2, 2, 4, 4))
        differentiated = self.variant(jax.grad(loss, (0, 1, 2, 3), has_aux=True))
        (dq, dk, dv, dbias), o = differentiated(q, k, v, bias)
        chex.assert_tree_all_finite((dq, dk, dv, dbias, o))
        chex.assert_trees_all_equal(o[:, 2], jnp.zeros_like(o[:, 2]))
        chex.assert_trees_all_equal(dq[:, 2], jnp.zeros_like(dq[:, 2]))
        chex.assert_trees_all_equal(dbias[:, :, 2], jnp.zeros_like(dbias[:, :, 2]))
        assert np.abs(dq[:, 3]).min() > 0 and np.abs(dv[:, 0]).min() > 0


def test_hooks_that_hide_nothing_change_nothing():
    """To the last bit: a mask of True, a bias of zeros, a gate of ones."""
    inputs = arrays(2, 2, 5, 5, 3, 4, 2, np.float32)
    plain = softmax_attention(*inputs)
    ones = jnp.ones((1, 1, 5, 5))
    for hooks in ({"mask": ones > 0}, {"bias": 0 * ones}, {"gate": ones}):
        chex.assert_trees_all_equal(softmax_attention(*inputs, **hooks), plain)


def test_hooks_keep_the_type_of_the_values():
    inputs = [a.astype(jnp.bfloat16) for a in arrays(2, 1, 5, 5, 1, 4, 2, np.float32)]
    ones = jnp.ones((1, 1, 5, 5))
    assert softmax_attention(*inputs, bias=ones, gate=ones).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["mask", "bias", "gate"])
@pytest.mark.parametrize("shape", [(5, 5), (1, 1, 5, 4), (3, 1, 5, 5)])
def test_hooks_of_other_shapes_are_refused(name, shape, annotations_off):
    inputs = arrays(2, 2, 5, 5, 3, 4, 2, np.float32)
    with pytest.raises(ValueError, match=rf"{name} must be \[B, H, T, S\] = \[2, 3, 5, 5\]"):
        softmax_attention(*inputs, **{name: jnp.ones(shape, bool)})


def test_no_keys_are_refused():
    q, k, v = arrays(0, 1, 3, 0, 1, 2, 2, np.float32)
    with pytest.raises(ValueError, match="k is empty.*at least one key"):
        softmax_attention(q, k, v, causal=False)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_rows_sum_to_one(causal, size):
    """Also where scores are so large that their exponentials would overflow."""
    q, k, _ = arrays(2, 2, 9, 9, 2, 3, 1, np.float32)
    o = softmax_attention(size * q, size * k, jnp.ones((2, 9, 2, 1)), causal=causal)
    np.testing.assert_allclose(o, 1, rtol=1e-6)


def test_scale_zero_is_the_running_mean(x64):
    q, k, v = arrays(4, 1, 5, 5, 1, 3, 2)
    mean = np.cumsum(v, axis=1) / np.arange(1, 6)[None, :, None, None]
    np.testing.assert_allclose(softmax_attention(q, k, v, scale=0.0), mean, atol=1e-14)
