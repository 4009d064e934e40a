"""Sparse updates: exactly k, by magnitude, over windows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ico.optim import sparse_updates, sparsify, top_mask

FLOATS = st.floats(0, 2.0**99, width=32, allow_subnormal=False)


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=FLOATS), st.floats(0, 1))
def test_mask_is_that_of_a_stable_sort(values, share):
    count = round(share * len(values))
    (mask,) = top_mask([jnp.asarray(values)], count)
    order = np.argsort(-values, kind="stable")
    wanted = np.zeros(len(values), bool)
    wanted[order[:count]] = True
    np.testing.assert_array_equal(mask, wanted)


TREE = {"a": jnp.array([[3.0, -1.0], [0.5, -4.0]]), "b": jnp.array([10.0, -20.0, 0.1, 0.2])}


@pytest.mark.parametrize("mode", ["keep_top", "drop_top", "slice", "random"])
@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("k", [0.0, 0.25, 0.5, 1.0])
def test_exactly_k_entries(mode, scope, k):
    kept = sparsify(TREE, k, mode=mode, scope=scope, key=jax.random.key(0))
    count = sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(kept))
    assert count == (8 * k if mode in ("keep_top", "slice") else 8 - 8 * k)
    for leaf, whole in zip(jax.tree.leaves(kept), jax.tree.leaves(TREE), strict=True):
        assert ((leaf == 0) | (leaf == whole)).all()


def test_ranks_within_a_tensor_or_within_all():
    tensor = sparsify(TREE, 0.25, scope="tensor")
    np.testing.assert_array_equal(tensor["a"], [[3, -1], [0.5, 0]])
    np.testing.assert_array_equal(tensor["b"], jnp.array([10, 0, 0.1, 0.2]))
    both = sparsify(TREE, 0.25, scope="global")
    np.testing.assert_array_equal(both["a"], TREE["a"])
    np.testing.assert_array_equal(both["b"], jnp.array([0, 0, 0.1, 0.2]))
    middle = sparsify(TREE["a"], 0.25, mode="slice", end=0.75)
    np.testing.assert_array_equal(middle, [[0, 0], [0.5, -4]])


@pytest.mark.parametrize("mode", ["keep_top", "drop_top", "slice", "random"])
def test_stacked_tensors_are_ranked_one_by_one(mode):
    """As if each layer's array stood alone, however different their sizes; compiled too."""
    draw = np.random.default_rng(0)
    scales = np.array([30.0, 1.0, 0.01])[:, None, None]
    layers = jnp.asarray(scales * draw.normal(size=(3, 4, 5)), jnp.float32)
    tree = {"layers": {"w": layers}, "head": layers[0]}

    def sparse(tree):
        end = 0.6 if mode == "slice" else 1.0
        key = jax.random.key(0)
        return sparsify(tree, 0.3, mode=mode, stacked=("layers",), end=end, key=key)

    kept = sparse(tree)
    for here, compiled in zip(
        jax.tree.leaves(kept), jax.tree.leaves(jax.jit(sparse)(tree)), strict=True
    ):
        np.testing.assert_array_equal(here, compiled)
    count = {"keep_top": 6, "slice": 14}.get(mode, 14)
    assert ((kept["layers"]["w"] != 0).sum((1, 2)) == count).all()
    if mode != "random":
        for layer in range(3):
            alone = sparsify(layers[layer], 0.3, mode=mode, end=0.6 if mode == "slice" else 1.0)
            np.testing.assert_array_equal(kept["layers"]["w"][layer], alone)


def test_kept_and_dropped_are_the_whole():
    top, rest = (sparsify(TREE, 0.3, mode=mode) for mode in ("keep_top", "drop_top"))
    jax.tree.map(lambda a, b, c: np.testing.assert_array_equal(a + b, c), top, rest, TREE)


@pytest.mark.parametrize("window", [1, 3])
def test_a_window_ends_at_its_sparsified_change(window):
    """Whatever the optimizer, and not before the window's end."""
    base = optax.adam(0.1)
    optimizer = optax.chain(base, sparse_updates(0.5, window=window))
    params = start = {"w": jnp.array([1.0, -2.0, 3.0, 0.5])}
    state, plain, plain_state = optimizer.init(params), params, base.init(params)
    for step in range(window):
        gradient = {"w": jnp.array([0.1, 1.0, -2.0, 0.3]) * (step + 1)}
        updates, state = jax.jit(optimizer.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
        updates, plain_state = base.update(gradient, plain_state, plain)
        plain = optax.apply_updates(plain, updates)
        if step + 1 < window:
            np.testing.assert_allclose(params["w"], plain["w"], rtol=1e-6)
    delta = jax.tree.map(lambda a, b: a - b, plain, start)
    wanted = jax.tree.map(lambda s, d: s + d, start, sparsify(delta, 0.5))
    np.testing.assert_allclose(params["w"], wanted["w"], rtol=1e-5)
    if window > 1:
        np.testing.assert_allclose(state[1].start["w"], params["w"])


def test_with_a_window_of_one_step_the_update_itself_is_ranked():
    """Not what is left of it when it is added to large parameters, which is equal here."""
    optimizer = sparse_updates(0.5, mode="keep_top")
    params, updates = jnp.full(4, 1e8), jnp.array([1e-3, 4e-3, -3e-3, 2e-3])
    kept, _ = optimizer.update(updates, optimizer.init(params), params)
    np.testing.assert_array_equal(kept, jnp.array([0, 4e-3, -3e-3, 0]))


TYPES = ["bfloat16", "float16", "float32"]


@pytest.mark.parametrize("params_type", TYPES)
@pytest.mark.parametrize("updates_type", TYPES)
def test_parameters_and_updates_may_differ_in_type(params_type, updates_type):
    """Updates keep theirs; a window ends where its largest changes are kept, the others undone."""
    optimizer = sparse_updates(0.5, window=2, mode="keep_top")
    params = {"w": jnp.array([1.0, -2.0, 3.0, 0.5], params_type)}
    start, state = params, optimizer.init(params)
    steps = {"w": jnp.array([0.25, 1.0, -0.5, 0.125], updates_type)}
    for _ in range(2):
        updates, state = optimizer.update(steps, state, params)
        assert updates["w"].dtype == updates_type
        params = optax.apply_updates(params, updates)
    expected = start["w"] + jnp.array([0, 2, -1, 0], params_type)
    np.testing.assert_array_equal(params["w"].astype(float), expected.astype(float))
    np.testing.assert_array_equal(state.start["w"].astype(float), expected.astype(float))
    assert state.start["w"].dtype == params_type


def test_scalars_are_tensors_of_one_entry():
    tree = {"s": jnp.array(2.0), "v": jnp.array([1.0, -3.0, 2.0]), "none": None}
    for compute in (sparsify, jax.jit(sparsify, static_argnums=1)):
        left = compute(tree, 0.6)
        assert left["s"].shape == () and left["s"] == 0 and left["none"] is None
        np.testing.assert_array_equal(left["v"], [1, 0, 0])
    both = sparsify(tree, 0.5, mode="keep_top", scope="global", stacked=("s",))
    assert both["s"] == 2 and (both["v"] != 0).tolist() == [False, True, False]


DOUBLES = st.floats(0, allow_subnormal=False, allow_infinity=False)
_compiled_mask = jax.jit(lambda values: top_mask([values], 4)[0])


@given(hnp.arrays(np.float64, 10, elements=DOUBLES))
def test_float64_is_ranked_without_rounding(values):
    order = np.argsort(-values, kind="stable")
    wanted = np.zeros(10, bool)
    wanted[order[:4]] = True
    with jax.enable_x64(True):
        values = jnp.asarray(values)
        np.testing.assert_array_equal(top_mask([values], 4)[0], wanted)
        np.testing.assert_array_equal(_compiled_mask(values), wanted)
        tiny = jnp.array([1e-60, 1e-50, 1e-70])
        np.testing.assert_array_equal(sparsify(tiny, 0.34, mode="keep_top"), [0, 1e-50, 0])


def test_random_entries_are_the_same_with_64_bit_floats():
    def kept():
        values = jnp.arange(1, 9, dtype=jnp.float32)
        return np.asarray(sparsify(values, 0.5, mode="random", key=jax.random.key(0)))

    single = kept()
    with jax.enable_x64(True):
        np.testing.assert_array_equal(kept(), single)


def test_works_under_vmap_and_in_bfloat16():
    optimizer = sparse_updates(0.5, mode="random")
    params = jnp.ones((3, 4), jnp.bfloat16)
    state = jax.vmap(optimizer.init)(params)
    updates, _ = jax.vmap(optimizer.update)(params, state, params)
    assert updates.dtype == jnp.bfloat16
    assert ((updates != 0).sum(axis=1) == 2).all()


def test_what_makes_no_sense_is_refused():
    for bad in (
        {"k": 1.5},
        {"k": -0.1},
        {"k": 0.5, "mode": "slice", "end": 0.2},
        {"k": 0.5, "mode": "random"},
    ):
        with pytest.raises(ValueError):
            sparsify(TREE, **bad)
    with pytest.raises(ValueError):
        sparse_updates(0.5, window=0)
    with pytest.raises(ValueError, match="params"):
        sparse_updates(0.5).update(TREE, sparse_updates(0.5).init(TREE))


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros"])
@pytest.mark.parametrize("count", [1, 137, 999, 1000])
def test_the_compiled_search_and_the_host_agree(kind, count):
    values = np.abs(np.random.default_rng(0).normal(size=(10, 100))).astype(np.float32)
    values = {"normal": values, "ties": np.round(values, 1), "zeros": 0 * values}[kind]
    parts = [jnp.asarray(values[:3]), jnp.asarray(values[3:])]
    host = top_mask(parts, count)
    compiled = jax.jit(lambda parts: top_mask(parts, count))(parts)
    for a, b in zip(host, compiled, strict=True):
        np.testing.assert_array_equal(a, b)
    assert sum(int(mask.sum()) for mask in host) == count
