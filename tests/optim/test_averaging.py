"""Running means of iterates: exact for any optimizer, and what `eval_params` finds."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized

from ico import optim
from tests.optim.conftest import PARAMS, loss, run

STEPS = 5
INNERS = {"sgd": lambda: optax.sgd(0.1), "adam": lambda: optax.adam(0.05)}
WEIGHTS = {
    "ema": 0.2,
    "uniform": optim.uniform_weight,
    # Every second iterate has the same weight, the others none: SWA with a period of two.
    "swa": lambda t: jnp.where(t % 2 == 1, 2.0 / (t + 1), 0.0),
}


def expected_mean(weights, iterates, start):
    """x <- x + c (z - x) in float64."""

    def mean(start, *iterates):
        x = np.asarray(start, np.float64)
        for weight, z in zip(weights, iterates, strict=True):
            x = x + float(weight) * (np.asarray(z, np.float64) - x)
        return x

    return jax.tree.map(mean, start, *iterates)


def trained(step, optimizer, params=PARAMS, steps=STEPS):
    """Every iterate of an optimizer, and its last state."""
    state, iterates = optimizer.init(params), []
    for _ in range(steps):
        params, state = step(params, state)
        iterates.append(params)
    return iterates, state


def stepper(optimizer):
    optimizer = optax.with_extra_args_support(optimizer)

    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    return step


class AveragingTest(chex.TestCase):
    """The mean, for any optimizer, with and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(inner=list(INNERS), weight=list(WEIGHTS))
    def test_mean_of_iterates_is_exact_and_training_is_unchanged(self, inner, weight):
        optimizer = optim.averaging(INNERS[inner](), WEIGHTS[weight])
        iterates, state = trained(self.variant(stepper(optimizer)), optimizer)
        plain, _ = trained(self.variant(stepper(INNERS[inner]())), INNERS[inner]())
        chex.assert_trees_all_close(iterates, plain, rtol=1e-6)
        c = WEIGHTS[weight]
        weights = [c(t) if callable(c) else c for t in range(STEPS)]
        expected = expected_mean(weights, iterates, PARAMS)
        found = optim.eval_params(state, iterates[-1])
        chex.assert_trees_all_close(found, expected, rtol=2e-6, atol=1e-7)
        assert state.iterate is None  # not a second copy of the parameters
        assert not np.allclose(found["head"]["kernel"], iterates[-1]["head"]["kernel"])

    @chex.variants(with_jit=True, without_jit=True)
    def test_uniform_weight_is_the_arithmetic_mean(self):
        optimizer = optim.averaging(optax.adam(0.05))
        iterates, state = trained(self.variant(stepper(optimizer)), optimizer)
        mean = jax.tree.map(lambda *leaves: np.mean(np.stack(leaves), axis=0), *iterates)
        chex.assert_trees_all_close(optim.eval_params(state, iterates[-1]), mean, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(inner=["sgd", "adam"], interpolation=[0.9, 0.5])
    def test_gradients_are_taken_between_iterate_and_mean(self, inner, interpolation):
        """Against optax's schedule-free optimizer, which is this mean with another update."""
        ours = optim.averaging(INNERS[inner](), interpolation=interpolation)
        theirs = optax.contrib.schedule_free(INNERS[inner](), 1.0, interpolation)
        mine, state = trained(self.variant(stepper(ours)), ours)
        other, other_state = trained(self.variant(stepper(theirs)), theirs)
        chex.assert_trees_all_close(mine, other, atol=2e-6)
        means = (optim.eval_params(s, p[-1]) for s, p in ((state, mine), (other_state, other)))
        chex.assert_trees_all_close(*means, atol=5e-6)
        between = jax.tree.map(
            lambda x, z: interpolation * x + (1 - interpolation) * z, state.mean, state.iterate
        )
        chex.assert_trees_all_close(mine[-1], between, atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_many_averages_under_vmap_are_each_alone(self):
        starts = jax.tree.map(lambda a: jnp.stack([a, -a, 2 * a]), PARAMS)

        def means(start, weight):
            optimizer = optim.averaging(optax.sgd(0.1), weight, 0.3)
            params, state = trained(stepper(optimizer), optimizer, start, 3)
            return optim.eval_params(state, params[-1])

        weights = jnp.array([0.1, 0.5, 0.9])
        together = self.variant(jax.vmap(means))(starts, weights)
        for i in range(3):
            mine, start = (jax.tree.map(lambda a, i=i: a[i], tree) for tree in (together, starts))
            chex.assert_trees_all_close(mine, means(start, weights[i]), rtol=1e-4, atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(interpolation=[0.0, 0.9])
    def test_means_of_bfloat16_parameters_are_float32(self, interpolation):
        """Ten thousandths of one are lost in bfloat16, and are not in the mean."""
        low = optax.tree.cast(PARAMS, jnp.bfloat16)
        optimizer = optim.averaging(optax.sgd(1.0), 0.01, interpolation)
        grads = jax.tree.map(lambda a: -jnp.ones_like(a), low)
        updates, state = self.variant(optimizer.update)(grads, optimizer.init(low), low)
        chex.assert_trees_all_equal_dtypes(updates, low)
        chex.assert_trees_all_equal_dtypes(state.mean, PARAMS)
        expected = jax.tree.map(lambda a: np.asarray(a, np.float64) + 0.01, low)
        chex.assert_trees_all_close(state.mean, expected, atol=1e-6)
        params = optax.apply_updates(low, updates)
        chex.assert_trees_all_equal_dtypes(optim.eval_params(state, params), low)

    @chex.variants(with_jit=True, without_jit=True)
    def test_an_optimizer_may_choose_coefficients_for_every_parameter(self):
        def coefficients(count, inner_state, params):
            del count, inner_state
            weights = {"body": {"kernel": 0.1, "bias": 0.2}, "head": {"kernel": 0.3}}
            chex.assert_trees_all_equal_structs(weights, params)
            return optim.Coefficients(weights, {"body": 0.0, "head": 1.0})

        optimizer = optim.averaging_by(optax.sgd(0.1), coefficients)
        params, state = self.variant(stepper(optimizer))(PARAMS, optimizer.init(PARAMS))
        for place, weight in ((("body", "kernel"), 0.1), (("head", "kernel"), 0.3)):
            x, z, start = (t[place[0]][place[1]] for t in (state.mean, state.iterate, PARAMS))
            np.testing.assert_allclose(x, start + weight * (z - start), rtol=1e-6)
        chex.assert_trees_all_close(params["body"], state.iterate["body"], rtol=1e-6)
        chex.assert_trees_all_close(params["head"], state.mean["head"], rtol=1e-6)


def test_second_step_compiles_nothing():
    optimizer = optim.averaging(optax.adam(0.1), interpolation=0.5)
    step = jax.jit(chex.assert_max_traces(stepper(optimizer), n=1))
    trained(step, optimizer, steps=3)


def test_chained_and_wrapped():
    averaging = optim.averaging(optax.adam(0.1), 0.3)
    clipped = optax.chain(optax.clip(9.0), averaging)
    expected = None
    for wrapped in (
        clipped,
        optax.apply_if_finite(clipped, 3),
        optax.inject_hyperparams(lambda weight: optim.averaging(optax.adam(0.1), weight))(0.3),
        optim.averaging(optax.with_extra_args_support(optax.chain(optax.adam(0.1))), 0.3),
    ):
        params, state, _ = run(optax.with_extra_args_support(wrapped), 3)
        found = optim.eval_params(state, params)
        expected = found if expected is None else expected
        chex.assert_trees_all_close(found, expected, rtol=1e-5)


def test_masked_optimizers_average_what_they_train():
    mask = {"body": {"kernel": True, "bias": True}, "head": {"kernel": False}}
    optimizer = optax.masked(optim.averaging(optax.sgd(0.1)), mask)
    params, state, _ = run(optimizer, 2)
    chex.assert_shape(state.inner_state.mean["body"]["kernel"], (2, 3))
    with pytest.raises(ValueError, match="all these parameters"):
        optim.eval_params(state, params)


def test_without_an_average_the_parameters_are_evaluated():
    adam = optax.adam(1e-3)
    assert optim.eval_params(adam.init(PARAMS), PARAMS) is PARAMS


def test_what_cannot_be_averaged_is_named():
    free = optim.make("schedule_free_adamw", learning_rate=1e-2)
    with pytest.raises(ValueError, match="all these parameters"):
        optim.eval_params(free.init(PARAMS), PARAMS["body"])
    with pytest.raises(ValueError, match="2 optimizers"):
        optim.eval_params((free.init(PARAMS), free.init(PARAMS)), PARAMS)
    with pytest.raises(ValueError, match="weight must be in"):
        optim.averaging(optax.sgd(0.1), 1.5)
    with pytest.raises(ValueError, match="interpolation must be in"):
        optim.averaging(optax.sgd(0.1), interpolation=-0.1)
    optimizer = optim.averaging(optax.sgd(0.1))
    with pytest.raises(ValueError, match="'steps' is int32"):
        optimizer.init({"steps": jnp.ones(2, jnp.int32)})
    with pytest.raises(ValueError, match="params"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))
