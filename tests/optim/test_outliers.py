"""One bad gradient or loss: the step is finite or skipped, and nothing of it stays."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ico import optim
from ico.optim._outliers import safe_gradient
from tests.optim.conftest import PARAMS, perturbed

FLOATS = st.floats(width=32, allow_subnormal=False)


@jax.jit
def made_safe(gradient):
    safe = safe_gradient(gradient)
    squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(safe.gradient)]
    return safe, jnp.stack(squares)


@hypothesis.given(hnp.arrays(np.float32, 6, elements=FLOATS))
@hypothesis.example(np.full(6, 3.4e38, np.float32))
@hypothesis.example(np.array([1e20, 1, 0, 0, 0, 0], np.float32))
@hypothesis.example(np.array([1, np.inf, 0, 0, 0, 0], np.float32))
@hypothesis.example(np.array([1, np.nan, 1e30, 0, 0, 0], np.float32))
def test_any_gradient_can_be_squared(values):
    """It is the gradient times a power of two, which is one for all but outliers, or zero."""
    safe, squares = made_safe({"a": values[:2], "b": values[2:]})
    found = np.concatenate([safe.gradient["a"], safe.gradient["b"]])
    assert np.isfinite(squares).all()
    assert safe.is_finite == np.isfinite(values).all()
    if not safe.is_finite:
        assert not found.any()
        return
    np.testing.assert_array_equal(found, values * safe.scale)
    assert np.frexp(safe.scale)[0] == 0.5
    if np.abs(values).max() < 1e13:
        assert safe.scale == 1


LEARNED = {
    "l3rs": optim.learned("l3rs"),
    "average": optim.learned("l3rs", average=True),
    "adafac_mlp": optim.learned("adafac_mlp"),
    "direction_mlp": optim.learned("direction_mlp"),
}


def inner(state):
    return state.inner if isinstance(state, optim.AveragingState) else state


def remembered(state):
    """What a skipped step must not change."""
    if isinstance(state, optim.L3RSState):
        return state._replace(count=0, num_skipped=0, bases=())
    return state.moments


@pytest.mark.parametrize(
    "name", ["l3rs", pytest.param("average", marks=pytest.mark.slow), "adafac_mlp", "direction_mlp"]
)
def test_an_outlier_is_outlived(name):
    """Huge gradients move something, others nothing; all is finite then and after."""
    learner = LEARNED[name]
    optimizer = learner.build(perturbed(learner.init(jax.random.key(0), PARAMS)), 20)
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    state, skipped = jax.jit(optimizer.init)(PARAMS), 0
    grads = jax.tree.map(lambda a: a + 0.1, PARAMS)
    for bad in (1e20, 3e38, np.inf, np.nan):
        # Scaled by NumPy, since zero times infinity is none of the gradients meant here.
        outlier = jax.tree.map(lambda a, bad=bad: np.sign(a) * np.float32(bad), grads)
        loss = jnp.float32(np.inf if bad == np.inf else 1)
        updates, after = update(outlier, state, PARAMS, value=loss)
        chex.assert_tree_all_finite((updates, after))
        if np.isfinite(bad):
            assert max(float(jnp.abs(a).max()) for a in jax.tree.leaves(updates)) > 0
        else:
            skipped += 1
            chex.assert_trees_all_equal(remembered(inner(after)), remembered(inner(state)))
            if name != "average":  # whose parameters lie between its iterate and its mean
                chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, updates))
        assert inner(after).num_skipped == skipped
        assert inner(after).count == inner(state).count + 1
        updates, state = update(grads, after, PARAMS, value=jnp.ones(()))
        chex.assert_tree_all_finite((updates, state))
        assert max(float(jnp.abs(a).max()) for a in jax.tree.leaves(updates)) > 0


@pytest.mark.parametrize("shape", [(3, 4), (400, 400)])
def test_the_direction_of_an_outlier_is_kept(shape):
    """Gradient descent's part is as long and as it is for an ordinary gradient, in arrays of any
    size: the products of large ones are computed otherwise."""
    params = {"w": jax.random.normal(jax.random.key(0), shape)}
    config = optim.L3RS(base_optimizers=("sgd",))
    optimizer = config.optimizer(config.init(jax.random.key(0), params), 20)
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    expected, _ = update(params, state, params, value=jnp.ones(()))
    for size in (2.0**66, 2.0**120, 2.0**-20):
        grads = jax.tree.map(lambda a, size=size: size * a, params)
        found, after = update(grads, state, params, value=jnp.ones(()))
        chex.assert_trees_all_close(found, expected, rtol=1e-5)
        rms = np.sqrt(np.mean(np.square(np.float64(grads["w"]))))
        decays = np.array(config.decays)
        np.testing.assert_allclose(after.means[0, 1], (1 - decays) * np.log(rms), rtol=1e-4)
    found, after = update({"w": params["w"].at[0, 0].set(jnp.inf)}, state, params, value=1.0)
    assert not found["w"].any() and after.num_skipped == 1
    chex.assert_tree_all_finite(after)
