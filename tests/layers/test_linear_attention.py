"""Linear attention: one function in three forms, exact, causal, of the memory it promises."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings

from ico.layers import linear_attention
from tests.layers.conftest import sequences

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
    st.integers(0, 99), SIZE, st.integers(1, 17), st.integers(1, 17), SIZE, SIZE, SIZE,
    st.integers(1, 20), st.booleans(),
)  # fmt: skip
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


def test_defaults_are_causal_and_chunked_by_64():
    """What a call without options does, seen from outside: T > 64 and an oracle."""
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
    o, last = linear_attention(
        q, k, v, forget=jnp.asarray(f), initial_state=jnp.asarray(first),
        segment_ids=jnp.asarray(segments), form=form, chunk_size=4, return_state=True,
    )  # fmt: skip
    np.testing.assert_allclose(o, wanted, atol=1e-12)
    np.testing.assert_allclose(last, state, atol=1e-12)


@pytest.mark.parametrize("form", ["parallel", "chunked"])
def test_gradient_of_the_gate_is_the_recurrences(form, x64):
    """Also where nothing is forgotten: a clamp's gradient would be half there."""
    q, k, v, f = sequences(11, 3, 4)
    assert (f == 1).any()

    def loss(f, form):
        return jnp.sum(jnp.sin(linear_attention(q, k, v, forget=f, form=form, chunk_size=4)))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    np.testing.assert_allclose(gradient(f, form), gradient(f, "recurrent"), atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("axes", [(2, 3, 6, 6), (1, 3, 6, 6), (2, 1, 6, 6)])
def test_a_gate_of_scores_multiplies_them(causal, axes):
    rng = np.random.default_rng(0)
    q, k, v, _ = arrays(9, 2, 6, 6, 3, 4, 2, np.float32)
    gate = jnp.asarray(rng.normal(size=axes), jnp.float32)
    attend = jax.jit(functools.partial(linear_attention, causal=causal, form="parallel"))
    scores = np.einsum("bthd,bshd->bhts", q, k) * gate * (np.tri(6) if causal else 1)
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


def test_forgetting_has_no_meaning_without_an_order():
    q, k, v, _ = arrays(0, 1, 4, 4, 1, 2, 2, np.float32)
    with pytest.raises(ValueError, match="causal attention alone"):
        linear_attention(q, k, v, causal=False, forget=jnp.ones((1, 4, 1)))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_show_causality(form):
    """d o_t / d k_s and d o_t / d v_s are exactly zero for s > t, and only there."""
    T = 7
    q, k, v, _ = arrays(2, 1, T, T, 2, 3, 2, np.float32)
    options = {"form": form, "chunk_size": 3}
    jacobians = jax.jit(jax.jacrev(functools.partial(linear_attention, **options), (0, 1, 2)))
    dq, dk, dv = (np.abs(j).sum((0, 2, 3, 4, 6, 7)) for j in jacobians(q, k, v))
    future = np.triu(np.ones((T, T), bool), 1)
    for jacobian_TS in (dk, dv):
        assert (jacobian_TS[future] == 0).all()
        assert (jacobian_TS[~future] > 0).all()
    assert (dq[~np.eye(T, dtype=bool)] == 0).all()
    assert (dq.diagonal() > 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_the_future_changes_no_bit_of_the_past(form):
    q, k, v, _ = arrays(3, 2, 11, 11, 2, 3, 2, np.float32)
    attend = jax.jit(functools.partial(linear_attention, form=form, chunk_size=4))
    o = attend(q, k, v)
    for t in (1, 4, 6, 10):
        other = attend(*(np.concatenate([a[:, :t], 7 - 1e3 * a[:, t:]], axis=1) for a in (q, k, v)))
        np.testing.assert_array_equal(other[:, :t], o[:, :t])
        assert (other[:, t:] != o[:, t:]).any()


@pytest.mark.parametrize("form", FORMS)
def test_without_a_mask_the_order_of_keys_is_nothing(form, x64):
    q, k, v, _ = arrays(4, 2, 3, 10, 2, 3, 2)
    order = np.random.default_rng(0).permutation(10)
    attend = functools.partial(linear_attention, causal=False, form=form, chunk_size=4)
    np.testing.assert_allclose(attend(q, k[:, order], v[:, order]), attend(q, k, v), atol=1e-12)
    assert np.abs(attend(q, k[:, order], v) - attend(q, k, v)).max() > 1e-2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [True, False])
def test_linear_in_queries_keys_and_values(form, causal, x64):
    """Unscaled and without normaliser: twice one argument is twice the output, to the last bit."""
    q, k, v, _ = arrays(5, 1, 6, 6, 2, 3, 2)
    attend = functools.partial(linear_attention, causal=causal, form=form, chunk_size=4)
    expected = 2 * attend(q, k, v)
    for scaled in ((2 * q, k, v), (q, 2 * k, v), (q, k, 2 * v)):
        np.testing.assert_array_equal(attend(*scaled), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [True, False])
def test_no_positions_no_output(form, causal):
    q, k, v, _ = arrays(0, 1, 0, 0, 2, 3, 5, np.float32)
    assert linear_attention(q, k, v, causal=causal, form=form).shape == (1, 0, 2, 5)


@pytest.mark.parametrize("form", FORMS)
def test_no_keys_no_update(form):
    q, k, v, _ = arrays(0, 1, 4, 0, 2, 3, 5, np.float32)
    o = linear_attention(q, k, v, causal=False, form=form)
    np.testing.assert_array_equal(o, np.zeros((1, 4, 2, 5)))


@pytest.mark.parametrize(
    ("q", "k", "v", "options", "message"),
    [
        ((2, 4, 3), (1, 2, 4, 3), (1, 2, 4, 3), {}, r"must be \[B, T, H, D\].*\(2, 4, 3\)"),
        ((1, 2, 1, 3), (1, 2, 1, 3), (1, 3, 1, 3), {}, "k and v must agree"),
        ((1, 2, 1, 3), (1, 2, 1, 3), (1, 2, 2, 3), {}, "k and v must agree"),
        ((1, 2, 1, 4), (1, 2, 1, 3), (1, 2, 1, 3), {}, "q and k must agree"),
        ((2, 2, 1, 3), (1, 2, 1, 3), (1, 2, 1, 3), {}, "q and k must agree"),
        ((1, 3, 1, 3), (1, 2, 1, 3), (1, 2, 1, 3), {}, "as many queries as keys, got 3 and 2"),
        ((1, 2, 1, 3), (1, 2, 1, 3), (1, 2, 1, 3), {"chunk_size": 0}, "chunk_size.*not 0"),
        ((1, 2, 1, 3), (1, 2, 1, 3), (1, 2, 1, 3), {"form": "scan"}, "'recurrent', not 'scan'"),
    ],
)
def test_errors_name_what_does_not_fit(q, k, v, options, message, annotations_off):
    with pytest.raises(ValueError, match=message):
        linear_attention(jnp.zeros(q), jnp.zeros(k), jnp.zeros(v), **options)


@pytest.mark.parametrize("form", FORMS)
def test_second_call_compiles_nothing(form):
    """Outputs may come back as inputs: neither type nor weakness of type drifts."""
    q, k, v, _ = arrays(6, 1, 9, 9, 2, 3, 3, np.float32)
    attend = jax.jit(functools.partial(linear_attention, form=form, chunk_size=4))
    attend(q, k, attend(q, k, v))
    assert attend._cache_size() == 1


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
