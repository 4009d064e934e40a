"""The mesa layer: its definition in float64, accuracy in float32, and extreme inputs."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.layers import MesaState, mesa, mesa_decode, mesa_state
from tests.layers.conftest import relative, sequences

FORMS = ("chunked", "parallel", "recurrent")
FROM_PRODUCTS = ["chunked", pytest.param("parallel", marks=pytest.mark.slow)]  # slow to compile


def test_dense_is_regularised_least_squares(x64):
    """The map that minimises the forgotten losses up to and including t, applied to q_t."""
    q, k, v, f = sequences(6, 3, 2, B=1, H=1)
    lam = 0.6
    o = mesa(q, k, v, lam=jnp.array([lam]), forget=f, form="dense")[0, :, 0]
    q, k, v, f = (np.asarray(a[0, :, 0]) for a in (q, k, v, f))
    for t in range(6):
        left = np.array([np.prod(f[s + 1 : t + 1]) for s in range(t + 1)])
        gram = (k[: t + 1].T * left) @ k[: t + 1] + np.prod(f[: t + 1]) / lam * np.eye(3)
        phi = np.linalg.solve(gram, (k[: t + 1].T * left) @ v[: t + 1]).T
        np.testing.assert_allclose(o[t], phi @ q[t], rtol=1e-10)


def test_decoding_from_nothing():
    q, k, v, _ = sequences(1, 4, 3, dtype=np.float32)
    number, diagonal = jnp.array([0.5, 2.0]), jnp.array([[0.5, 1.0, 1.5, 2.0]] * 2)
    matrix = jnp.eye(4)[None] + diagonal[:, :, None] * diagonal[:, None]
    for lam in (number, diagonal, matrix):
        out, _ = mesa_decode(mesa_state(lam, 2, 3, 4), q[:, 0], k[:, 0], v[:, 0])
        np.testing.assert_allclose(out, mesa(q, k, v, lam=lam)[:, 0], atol=1e-6)
    with pytest.raises(ValueError, match="give dim"):
        mesa_state(jnp.ones(2), 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("form", FROM_PRODUCTS)
@pytest.mark.parametrize(
    ("forget", "limit"), [((1.0, 1.0), 1e-5), ((0.99, 0.999), 1e-5), ((0.95, 0.99), 1e-4)]
)
def test_accuracy_in_float32(form, forget, limit):
    """Against float64; gradients at ten times the limit."""
    lam, cotangent = np.ones(2), np.random.default_rng(5).normal(size=(1, 300, 2, 32))

    @functools.partial(jax.jit, static_argnums=0)
    def run(form, lam, cotangent, *args):
        def layer(q, k, v, f, lam):
            return mesa(q, k, v, lam=lam, forget=f, form=form)

        out, pull = jax.vjp(layer, *args, lam)
        return out, pull(cotangent)

    with jax.enable_x64(True):
        args = sequences(300, 32, 32, B=1, forget=forget)
        wanted, right = run("recurrent", jnp.asarray(lam), jnp.asarray(cotangent), *args)
        args = [np.asarray(a) for a in args]
    single = [jnp.asarray(a.astype(np.float32)) for a in (lam, cotangent, *args)]
    out, grads = run(form, *single)
    assert out.dtype == jnp.float32 and relative(out, wanted) < limit
    for ours, theirs in zip(grads, right, strict=True):
        assert relative(ours, theirs) < 10 * limit


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_long_sequences_with_forgetting_stay_right(form):
    """Rounding that leaves R unsymmetric would grow by 1/f a position: here by 10^23 in all."""
    with jax.enable_x64(True):
        drawn = sequences(1_800, 6, 6, B=1, H=1, forget=(0.95, 0.99), seed=3)
        args = [np.asarray(a) for a in drawn]
    run = jax.jit(
        lambda form, q, k, v, f: mesa(q, k, v, lam=jnp.ones(1, q.dtype), forget=f, form=form),
        static_argnums=0,
    )
    with jax.enable_x64(True):
        right = np.asarray(run("dense", *args))
    assert (
        relative(run(form, *(jnp.asarray(np.asarray(a), jnp.float32) for a in args)), right) < 1e-5
    )


# Those of fla's tests of MesaNet's layer.
PUBLISHED = [(1, 63, 1, 64), (2, 500, 4, 60), (2, 1024, 8, 128), (4, 2048, 8, 64)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", PUBLISHED)
@pytest.mark.parametrize(
    ("forget", "limit"), [((1.0, 1.0), 1e-5), ((0.99, 0.999), 1e-5), ((0.95, 0.99), 1e-4)]
)
def test_published_shapes_in_float32(shape, forget, limit):
    """Outputs, and all gradients at ten times the limit, against float64; a regulariser an axis."""
    B, T, H, D = shape
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        _, k, _, f = sequences(T, D, D, B=B, H=H, forget=forget)
    q, v = rng.uniform(0, 0.1, (2, B, T, H, D))
    lam = 1 / (0.25 + 0.75 / (1 + np.exp(-rng.uniform(size=(H, D)))))
    args = [np.asarray(a) for a in (q, k, v, f, lam, rng.normal(size=(B, T, H, D)))]

    @functools.partial(jax.jit, static_argnums=0)
    def run(form, *args):
        def layer(q, k, v, f, lam):
            return mesa(q, k, v, lam=lam, forget=f, form=form)

        out, pull = jax.vjp(layer, *args[:-1])
        return out, pull(args[-1])

    with jax.enable_x64(True):
        wanted, right = jax.tree.map(np.asarray, run("recurrent", *map(jnp.asarray, args)))
    for form in ("chunked", "parallel"):
        out, grads = run(form, *(jnp.asarray(a, jnp.float32) for a in args))
        assert relative(out, wanted) < limit
        for ours, theirs in zip(grads, right, strict=True):
            assert relative(ours, theirs) < 10 * limit


@pytest.mark.slow
@pytest.mark.parametrize("shape", [PUBLISHED[0], PUBLISHED[1]])
@pytest.mark.parametrize(
    ("forget", "form", "chunk_size"),
    [
        ((0.8, 0.99), "recurrent", 64),
        ((0.01, 0.1), "recurrent", 64),
        ((0.8, 0.99), "chunked", 16),
        ((0.01, 0.1), "chunked", 1),
        ((0.8, 0.99), "parallel", 16),
        ((0.01, 0.1), "parallel", 1),
    ],
)
def test_where_the_regulariser_is_gone_the_condition_bounds_the_error(
    shape, forget, form, chunk_size
):
    """At most 10 eps cond(H_t), in chunks small enough; where that promises nothing, finite.

    The recursion has D eps cond(H_t), what a backward stable solver of D equations promises: on
    one processor it exceeded the other bound by 1.2.
    """
    B, T, H, D = shape
    with jax.enable_x64(True):
        q, k, v, f = (np.asarray(a) for a in sequences(T, D, D, B=B, H=H, forget=forget))

    @functools.partial(jax.jit, static_argnums=0)
    def run(form, q, k, v, f):
        lam = jnp.ones(H, q.dtype)
        return mesa(q, k, v, lam=lam, forget=f, form=form, chunk_size=chunk_size)

    out = np.asarray(run(form, *(jnp.asarray(a, jnp.float32) for a in (q, k, v, f))))
    with jax.enable_x64(True):
        right = np.asarray(run("dense", *map(jnp.asarray, (q, k, v, f))))
    gram, promised = np.broadcast_to(np.eye(D), (B, H, D, D)), 0
    for t in range(T):
        gram = f[:, t, :, None, None] * gram + k[:, t, :, :, None] * k[:, t, :, None]
        size = D if form == "recurrent" else 10
        bound = size * np.finfo(np.float32).eps * np.linalg.cond(gram).max()
        if bound < 1:
            promised += 1
            assert relative(out[:, t], right[:, t]) < bound, t
    assert promised and np.isfinite(out).all()


@pytest.mark.parametrize("lam", [1.0, 1e2, 1e4])
@pytest.mark.parametrize(
    ("form", "chunk_size"),
    [("chunked", 64), ("recurrent", 64), pytest.param("parallel", 8, marks=pytest.mark.slow)],
)
def test_a_large_lam_costs_what_its_condition_number_says(lam, form, chunk_size):
    """Ten roundings times the largest so far; of small parallel chunks, times the present one."""
    T, D, eps = 128, 16, np.finfo(np.float32).eps
    with jax.enable_x64(True):
        q, k, v = (np.asarray(a) for a in sequences(T, D, D, B=1, H=1)[:3])
    layer = functools.partial(mesa, form=form, chunk_size=chunk_size)
    args = (jnp.asarray(a, jnp.float32) for a in (q, k, v))
    out = jax.jit(layer)(*args, lam=jnp.full(1, lam, jnp.float32))
    gram = np.eye(D) / lam + np.cumsum(k[0, :, 0, :, None] * k[0, :, 0, None], axis=0)
    memory = np.cumsum(v[0, :, 0, :, None] * k[0, :, 0, None], axis=0)
    right = np.einsum("tvd,td->tv", memory, np.linalg.solve(gram, q[0, :, 0, :, None])[..., 0])
    condition = np.linalg.cond(gram)
    if form != "parallel":
        condition = np.maximum.accumulate(condition)
    for t in range(T):
        assert relative(out[0, t, 0], right[t]) < 10 * eps * condition[t], t


@pytest.mark.parametrize("form", FROM_PRODUCTS)
def test_chunk_size_does_not_matter(form, x64):
    q, k, v, f = sequences(37, 4, 3, forget=(0.8, 1.0))
    segments = jnp.asarray(np.repeat([0, 1, 2], [5, 20, 12])[None].repeat(2, 0))

    def layer(chunk_size):
        options = {"form": form, "chunk_size": chunk_size, "return_state": True}
        return mesa(q, k, v, lam=jnp.ones(2), forget=f, segment_ids=segments, **options)

    whole = layer(64)
    for chunk_size in (1, 7, None):
        chex.assert_trees_all_close(layer(chunk_size), whole, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forget", "form"), [(0.9, "recurrent"), (0.5, "recurrent"), (0.9, "chunked")]
)
def test_a_token_repeated_for_long_stays_finite(forget, form):
    """R grows by 1 / f a position in directions that no key shows: by 10^50 and more."""
    T = 1_200
    q, k, v, _ = sequences(T, 3, 2, B=1, H=1, dtype=np.float32)
    k = jnp.broadcast_to(k[:, :1], k.shape)

    @jax.jit
    def grads(q, k, v, f):
        return jax.value_and_grad(
            lambda *a: jnp.sum(mesa(*a[:3], lam=jnp.ones(1), forget=a[3], form=form) ** 2),
            (0, 1, 2, 3),
        )(q, k, v, f)

    chex.assert_tree_all_finite(grads(q, k, v, jnp.full((1, T, 1), forget)))
    # The map along the key is a mean of values; what rounding makes of it stays in proportion.
    o = mesa(k, k, v, lam=jnp.ones(1), forget=jnp.full((1, T, 1), forget), form=form)
    assert jnp.abs(o).max() < 5 * jnp.abs(v).max()


@pytest.mark.parametrize("form", FORMS)
def test_small_gates_are_right_where_the_problem_is(form):
    """Of width one the system is never singular: errors are roundings, whatever is forgotten.

    Under `jax.vmap`, where only some examples need the chunks that are computed by positions.
    """
    T, gates = 64, (1, 0.9, 0.7, 0.5, 0.1, 1e-2, 1e-4, 1e-7, 1e-20, 0)
    rng = np.random.default_rng(0)
    q, k, v = (np.repeat(a, len(gates), 0) for a in rng.normal(size=(3, 1, T, 1, 1)))
    f = np.repeat(np.float32(gates)[:, None, None], T, axis=1)

    @functools.partial(jax.jit, static_argnums=0)
    def run(form, *qkvf):
        def layer(*qkvf):
            q, k, v, f = (a[None] for a in qkvf)
            return mesa(q, k, v, lam=jnp.full(1, 0.5), forget=f, form=form)[0]

        return jax.vmap(layer)(*qkvf)

    found = run(form, *(jnp.asarray(a, jnp.float32) for a in (q, k, v, f)))
    # By hand, in float64. A factor of zero restarts from lam, and counts as one.
    h, g = np.full(len(gates), 2.0), np.zeros(len(gates))
    for t in range(T):
        now = np.where(f[:, t, 0] > 0, f[:, t, 0], 1)
        h, g = (np.where(f[:, t, 0] > 0, a, b) for a, b in ((h, 2.0), (g, 0.0)))
        h, g = now * h + k[:, t, 0, 0] ** 2, now * g + (k * v)[:, t, 0, 0]
        wanted = g / h * q[:, t, 0, 0]
        np.testing.assert_allclose(found[:, t, 0, 0], wanted, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
def test_a_regulariser_below_rounding_stays_finite(form):
    """R is then rounding errors in the directions of the keys; its pivots must not vanish."""
    q, k, v, _ = sequences(1_200, 3, 3, B=1, H=1, dtype=np.float32)
    o = jax.jit(lambda *qkv: mesa(*qkv, lam=jnp.full(1, 1e8), form=form))(q, k, v)
    chex.assert_tree_all_finite(o)


@pytest.mark.parametrize("form", ["chunked", "parallel"])
@pytest.mark.parametrize("forget", [pytest.param((0.8, 0.99), marks=pytest.mark.slow), (0.01, 0.1)])
def test_where_the_regulariser_is_gone_all_stays_finite(form, forget):
    q, k, v, f = sequences(200, 16, 16, B=1, forget=forget, dtype=np.float32)

    @jax.jit
    def run(q, k, v, f):
        def loss(*a):
            return jnp.sum(mesa(*a[:3], lam=jnp.ones(2), forget=a[3], form=form) ** 2)

        return jax.value_and_grad(loss, (0, 1, 2, 3))(q, k, v, f)

    chex.assert_tree_all_finite(run(q, k, v, f))


def test_equal_keys_stay_finite_and_right():
    """4096 times one key: H = 1/lam + t k k^T, whose answer is known; its condition is lam t."""
    T, lam = 4096, 2.0
    q, k, v, _ = sequences(T, 8, 2, B=1, H=1, dtype=np.float32)
    k = jnp.broadcast_to(k[:, :1], k.shape)
    o = jax.jit(lambda q, k, v: mesa(q, k, v, lam=jnp.array([lam])))(q, k, v)
    along = np.sum(np.asarray(q * k, np.float64), -1)[0, :, 0]
    sums = np.cumsum(np.asarray(v, np.float64)[0, :, 0], axis=0)
    wanted = sums * (along / (1 / lam + np.arange(1, T + 1)))[:, None]
    assert relative(o[0, :, 0], wanted) < 10 * np.finfo(np.float32).eps * lam * T


@pytest.mark.parametrize("form", FROM_PRODUCTS)
def test_backward_memory_grows_with_vectors_not_matrices(form):
    """65536 positions of width 64: far below the 64 x 64 floats a position of autodiff."""
    T = 65_536

    def loss(q, k, v):
        return jnp.sum(mesa(q, k, v, lam=jnp.ones(1), form=form))

    shape = jax.ShapeDtypeStruct((1, T, 1, 64), jnp.float32)
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, shape).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1e9  # a matrix a position: 1.07e9


@pytest.mark.parametrize("lam", [[1.0, 0.0], [1.0, -1.0], [1.0, np.nan], [[1.0] * 4, [-1.0] * 4]])
def test_a_lam_that_is_not_positive_is_refused(lam):
    q, k, v, _ = sequences(3, 4, 3, dtype=np.float32)
    with pytest.raises(ValueError, match="lam must be positive"):
        mesa(q, k, v, lam=jnp.asarray(lam))


def test_a_number_is_a_diagonal_is_a_matrix(x64):
    """The three ways in which lam may be given."""
    q, k, v, f = sequences(9, 3, 2)
    lam = jnp.array([0.5, 2.0])
    diagonal = lam[:, None] * jnp.ones((2, 3))
    matrix = lam[:, None, None] * jnp.eye(3)[None]
    first, *others = (mesa(q, k, v, lam=a, forget=f) for a in (lam, diagonal, matrix))
    assert np.abs(first - mesa(q, k, v, lam=2 * lam, forget=f)).max() > 1e-2
    for other in others:
        chex.assert_trees_all_equal(first, other)


def test_values_may_be_integers(annotations_off):
    """Outputs are not integers: they would be truncated."""
    q, k, v, _ = sequences(9, 4, 3, dtype=np.float32)
    whole = jnp.round(3 * v).astype(int)
    layer = jax.jit(lambda v: mesa(q, k, v, lam=jnp.ones(2)))
    assert layer(whole).dtype == jnp.float32
    np.testing.assert_array_equal(layer(whole), layer(whole.astype(jnp.float32)))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"v": jnp.ones((2, 2, 1))}, "memory"),
        ({"q": jnp.ones((1, 2, 4))}, "agree"),
        ({"forget": jnp.ones((2, 1))}, "forget"),
        ({"state": mesa_state(jnp.ones(2), 1, 3, 4)}, "memory"),
        ({"state": MesaState(jnp.ones((2, 2, 5, 5)), jnp.ones((2, 2, 3, 4)))}, "inverse"),
    ],
)
def test_what_does_not_fit_is_named_in_decoding(change, word, annotations_off):
    ones = {"q": jnp.ones((2, 2, 4)), "k": jnp.ones((2, 2, 4)), "v": jnp.ones((2, 2, 3))}
    given = {"state": mesa_state(jnp.ones(2), 2, 3, 4)} | ones | change
    with pytest.raises(ValueError, match=word):
        mesa_decode(given.pop("state"), **given)
    with pytest.raises(ValueError, match="width"):
        mesa_state(jnp.ones((2, 4)), 2, 3, 5)


def test_a_factor_of_zero_needs_lam_in_decoding():
    ones = jnp.ones((2, 2, 4))
    state, zero = mesa_state(jnp.ones(2), 2, 4, 4), jnp.zeros((2, 2))
    with pytest.raises(ValueError, match="give lam"):
        mesa_decode(state, ones, ones, ones, forget=zero)
    anew, _ = mesa_decode(
        MesaState(7 * state.inverse, 7 + state.memory),
        *(ones, ones, ones),
        forget=zero,
        lam=jnp.ones(2),
    )
    chex.assert_trees_all_close(anew, mesa_decode(state, ones, ones, ones)[0], rtol=1e-6)
