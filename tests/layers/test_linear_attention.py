"""Linear attention against its definition, and the memory that its forms promise."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings

from ico.layers import linear_attention

FORMS = ("parallel", "chunked", "recurrent")


def oracle(q, k, v, cotangent, *, causal):
    """Output and gradients from the definition, one pair of positions at a time, in float64."""
    q, k, v, g = (np.asarray(a, np.float64) for a in (q, k, v, cotangent))
    o, dq, dk, dv = (np.zeros_like(a) for a in (g, q, k, v))
    for b, t, h in np.ndindex(q.shape[:3]):
        for i in range(t + 1 if causal else k.shape[1]):
            q_t, k_i, v_i, g_t = q[b, t, h], k[b, i, h], v[b, i, h], g[b, t, h]
            o[b, t, h] += v_i * (k_i @ q_t)
            dq[b, t, h] += (g_t @ v_i) * k_i
            dk[b, i, h] += (g_t @ v_i) * q_t
            dv[b, i, h] += (k_i @ q_t) * g_t
    return o, dq, dk, dv


def arrays(seed, B, T, S, H, D, V, dtype=np.float64):
    """q, k, v and a cotangent of the output."""
    rng = np.random.default_rng(seed)
    shapes = (B, T, H, D), (B, S, H, D), (B, S, H, V), (B, T, H, V)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


@functools.partial(jax.jit, static_argnames=("causal", "form", "chunk_size"))
def value_and_gradients(q, k, v, cotangent, **options):
    o, pullback = jax.vjp(functools.partial(linear_attention, **options), q, k, v)
    return o, *pullback(cotangent)


SIZE = st.integers(1, 3)


@settings(max_examples=3)
@given(
    st.integers(0, 99),
    SIZE,
    st.integers(1, 17),
    st.integers(1, 17),
    SIZE,
    SIZE,
    SIZE,
    st.integers(1, 20),
    st.booleans(),
)
@example(seed=0, B=1, T=1, S=1, H=2, D=2, V=1, chunk_size=64, causal=True)
@example(seed=0, B=2, T=13, S=13, H=2, D=3, V=2, chunk_size=4, causal=True)
@example(seed=0, B=1, T=5, S=5, H=2, D=3, V=3, chunk_size=50, causal=True)
@example(seed=0, B=2, T=2, S=9, H=2, D=3, V=2, chunk_size=4, causal=False)
def test_every_form_is_the_definition(seed, B, T, S, H, D, V, chunk_size, causal):
    """Outputs and all gradients, to the accuracy of float64."""
    with jax.enable_x64(True):
        inputs = arrays(seed, B, T, T if causal else S, H, D, V)
        expected = oracle(*inputs, causal=causal)
        for form in FORMS:
            got = value_and_gradients(*inputs, causal=causal, form=form, chunk_size=chunk_size)
            for name, one, other in zip(("o", "dq", "dk", "dv"), got, expected, strict=True):
                assert one.dtype == np.float64
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-11, err_msg=f"{form} {name}")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_float32_is_close_over_a_long_sequence(form, causal):
    inputs = arrays(0, 1, 150, 150, 1, 8, 4, np.float32)
    got = value_and_gradients(*inputs, causal=causal, form=form, chunk_size=64)
    for one, other in zip(got, oracle(*inputs, causal=causal), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_without_options_it_is_causal():
    """Over more than one chunk of the default size."""
    q, k, v, g = arrays(1, 1, 70, 70, 1, 2, 2, np.float32)
    expected = oracle(q, k, v, g, causal=True)[0]
    np.testing.assert_allclose(linear_attention(q, k, v), expected, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_gates_segments_and_states(form, x64):
    """Against the recursion by hand: gates, boundaries inside chunks, a start; and the end."""
    rng = np.random.default_rng(7)
    B, T, H, D, V = 2, 11, 2, 3, 4
    q, k, v, _ = arrays(8, B, T, T, H, D, V)
    f, first = rng.uniform(0.2, 1, (B, T, H)), rng.normal(size=(B, H, V, D))
    segments = np.sort(rng.integers(0, 4, (B, T)), axis=1)
    wanted, state = np.zeros((B, T, H, V)), first.copy()
    for t in range(T):
        if t:
            state = np.where((segments[:, t] != segments[:, t - 1])[:, None, None, None], 0, state)
        state = f[:, t, :, None, None] * state
        state = state + np.asarray(v[:, t, :, :, None] * k[:, t, :, None])
        wanted[:, t] = np.einsum("bhvd,bhd->bhv", state, q[:, t])
    sides = {"forget": f, "initial_state": first, "segment_ids": segments}
    sides = {name: jnp.asarray(a) for name, a in sides.items()}
    o, last = linear_attention(q, k, v, **sides, form=form, chunk_size=4, return_state=True)
    np.testing.assert_allclose(o, wanted, atol=1e-12)
    np.testing.assert_allclose(last, state, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_strong_gates_in_float32(form):
    """Sums of their logarithms reach thousands in a chunk, where float32 has no decimals left."""
    rng = np.random.default_rng(3)
    q, k, v, _ = arrays(3, 1, 128, 128, 2, 4, 4, np.float32)
    f = np.float32(rng.choice([0, 1e-30, 1e-12, 0.999], p=[0.1, 0.2, 0.2, 0.5], size=(1, 128, 2)))
    found = jax.jit(functools.partial(linear_attention, form=form))(q, k, v, forget=jnp.asarray(f))
    state, wanted = np.zeros((1, 2, 4, 4)), np.zeros(v.shape)
    for t in range(128):
        write = np.asarray(v[:, t, :, :, None] * k[:, t, :, None], np.float64)
        state = f[:, t, :, None, None] * state + write
        wanted[:, t] = np.einsum("bhvd,bhd->bhv", state, q[:, t])
    np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("axes", [(2, 3, 6, 6), (1, 3, 6, 6), (2, 1, 6, 6)])
def test_a_gate_of_scores_multiplies_them(causal, axes):
    rng = np.random.default_rng(0)
    q, k, v, _ = arrays(9, 2, 6, 6, 3, 4, 2, np.float32)
    gate = jnp.asarray(rng.normal(size=axes), jnp.float32)
    attend = jax.jit(functools.partial(linear_attention, causal=causal, form="parallel"))
    seen = np.tri(6) if causal else np.ones((6, 6))
    scores = np.einsum("bthd,bshd->bhts", q, k) * np.asarray(gate) * seen
    expected = np.einsum("bhts,bshv->bthv", scores, v)
    np.testing.assert_allclose(attend(q, k, v, gate=gate), expected, atol=1e-4)
    ones = attend(q, k, v, gate=jnp.ones(axes))
    np.testing.assert_array_equal(ones, attend(q, k, v))


def test_a_gate_of_scores_needs_the_parallel_form():
    q, k, v, _ = arrays(9, 1, 4, 4, 1, 2, 2, np.float32)
    gate = jnp.ones((1, 1, 4, 4))
    for options in (
        {},
        {"form": "recurrent"},
        {"causal": False},
        {"form": "parallel", "return_state": True},
        {"form": "parallel", "initial_state": jnp.zeros((1, 1, 2, 2))},
    ):
        with pytest.raises(ValueError, match="form='parallel'"):
            linear_attention(q, k, v, gate=gate, **options)


@pytest.mark.parametrize(
    "option",
    [
        {"forget": jnp.ones((1, 4, 1))},
        {"initial_state": jnp.ones((1, 1, 2, 2))},
        {"segment_ids": jnp.ones((1, 4), int)},
        {"return_state": True},
    ],
)
def test_gates_states_and_segments_need_an_order(option):
    q, k, v, _ = arrays(0, 1, 4, 4, 1, 2, 2, np.float32)
    with pytest.raises(ValueError, match=f"{next(iter(option))}.* causal=True"):
        linear_attention(q, k, v, causal=False, **option)


@pytest.mark.parametrize("form", FORMS)
def test_no_keys_no_update(form):
    q, k, v, _ = arrays(0, 1, 4, 0, 2, 3, 5, np.float32)
    o = linear_attention(q, k, v, causal=False, form=form)
    np.testing.assert_array_equal(o, np.zeros((1, 4, 2, 5)))


def temporary_bytes(T, *, causal, form):
    """Memory that forward and backward pass need beside arguments and results."""

    def loss(q, k, v):
        return jnp.sum(linear_attention(q, k, v, causal=causal, form=form, chunk_size=32) ** 2)

    array = jax.ShapeDtypeStruct((1, T, 2, 8), jnp.float32)
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(array, array, array).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("causal", "form", "low", "high"),
    [
        (True, "chunked", 1.7, 2.3),
        (True, "recurrent", 1.7, 2.3),
        (False, "chunked", 1.5, 2.3),
        (True, "parallel", 3.4, 4.3),
        (False, "parallel", 3.4, 4.3),
    ],
)
def test_memory_grows_as_promised(causal, form, low, high):
    """Twice the length: twice the memory, but for the parallel form, which squares it."""
    growth = temporary_bytes(2048, causal=causal, form=form) / temporary_bytes(
        1024, causal=causal, form=form
    )
    assert low < growth < high
