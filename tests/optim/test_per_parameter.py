"""Networks for every parameter: features, products, lengths."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import optim
from ico.optim import _per_parameter
from tests.optim.conftest import PARAMS, perturbed, run


@pytest.mark.parametrize(
    ("shape", "hidden"), [((4, 3), 4), ((5,), 4), ((2, 3, 4), 4), ((), 4), ((3, 1), 9)]
)
def test_products_with_features_are_the_network_on_each_number(shape, hidden):
    theta = optim.adafac_mlp_init(jax.random.key(0), hidden=(hidden, hidden))
    rng = np.random.default_rng(0)
    grad, param = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    moments = _per_parameter.move(_per_parameter.moments_of(param), grad)
    moments = _per_parameter.move(moments, 2 * grad)
    ours = _per_parameter.output(theta, moments, grad, param, jnp.asarray(3))
    features = [
        jnp.broadcast_to(f, shape).ravel() / np.sqrt(np.mean(np.square(f)) + 1e-5)
        for f in _per_parameter.features_of(moments, grad, param)
    ]
    x = np.zeros((grad.size, 30))
    x[:, _per_parameter.feature_places(moments)] = np.stack(features, -1)
    x[:, _per_parameter.NUM_FEATURES :] = _per_parameter.time_features(jnp.asarray(3))
    for i in range(3):
        layer = theta["network"][f"dense_{i}"]
        x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        x = np.maximum(x, 0) if i < 2 else x
    for o, theirs in zip(ours, x.T, strict=True):
        np.testing.assert_allclose(np.ravel(o), theirs, rtol=1e-3, atol=1e-4)


def test_factored_second_moments_are_adafactors():
    """Of a gradient whose squares have rank one they are the squares themselves."""
    grad = jnp.outer(jnp.array([1.0, 2.0, -3.0]), jnp.array([0.5, -1.0]))
    moments = _per_parameter.move(_per_parameter.moments_of(grad), grad)
    factored = _per_parameter.features_of(moments, grad, grad)[4]  # of a mean not yet corrected
    np.testing.assert_allclose(factored * 0.1**0.5, jnp.sign(grad), rtol=1e-3)


def test_learned_directions_have_the_length_of_the_learning_rate():
    theta = optim.direction_mlp_init(jax.random.key(0))
    optimizer = optim.direction_mlp(theta, lambda step: 0.1 / (1 + step))
    _, _, seen = run(optimizer, 2)
    for step, (*_, updates) in enumerate(seen):
        for leaf in jax.tree.leaves(updates):
            np.testing.assert_allclose(jnp.sqrt(jnp.mean(leaf**2)), 0.1 / (1 + step), rtol=1e-4)


@pytest.mark.parametrize("name", ["adafac_mlp", "direction_mlp"])
def test_second_step_compiles_nothing(name):
    learner = optim.learned(name)
    optimizer = learner.build(perturbed(learner.init(jax.random.key(0), PARAMS)), 9)
    state = optimizer.init(PARAMS)
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    for _ in range(2):
        updates, after = update(PARAMS, state, PARAMS)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, PARAMS)
        state = after
    chex.assert_tree_all_finite((updates, state))


class PerParameterTest(chex.TestCase):
    """With and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_a_parameter_of_any_type_gets_updates_of_it(self):
        low = optax.tree.cast(PARAMS, jnp.bfloat16)
        optimizer = optim.adafac_mlp(optim.adafac_mlp_init(jax.random.key(0)))
        updates, state = self.variant(optimizer.update)(low, optimizer.init(low), low)
        chex.assert_trees_all_equal_dtypes(updates, low)
        chex.assert_tree_all_finite(updates)
        assert {a.dtype for a in jax.tree.leaves(state.moments)} == {jnp.dtype(jnp.float32)}
