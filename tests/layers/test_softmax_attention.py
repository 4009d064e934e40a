"""Softmax attention against its definition."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings

from ico.layers import softmax_attention


def arrays(seed, B, T, S, H, D, V, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = (B, T, H, D), (B, S, H, D), (B, S, H, V)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def oracle(q, k, v, *, causal, scale):
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    scale = 1 / np.sqrt(q.shape[-1]) if scale is None else scale
    o = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, t, h in np.ndindex(q.shape[:3]):
        seen = slice(0, t + 1) if causal else slice(None)
        weight = np.exp(scale * (k[b, seen, h] @ q[b, t, h]))
        o[b, t, h] = weight @ v[b, seen, h] / weight.sum()
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
