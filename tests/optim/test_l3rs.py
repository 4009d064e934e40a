"""L3RS: against a float64 oracle, its options, its average, and what wraps it."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized

from ico import optim
from ico.optim import _by_group, _l3rs_network
from tests.optim.conftest import PARAMS, loss, random_theta, run

AVERAGED = optim.L3RS.averaged()
CONFIGS = {"plain": optim.L3RS(), "averaged": AVERAGED}


def built(num_steps=9, theta=None, learning_rate=1.0, **fields):
    """An optimizer with a random theta."""
    config = optim.L3RS(**fields)
    theta = random_theta(config) if theta is None else theta
    return config.optimizer(theta, num_steps, learning_rate)


class Oracle:
    """L3RS of the docstring in float64, for gradient descent and momentum."""

    def __init__(self, theta, num_steps):
        self.theta = jax.tree.map(lambda a: np.asarray(a, np.float64), theta)
        self.num_steps, self.t = num_steps, 0
        self.decays, self.means = np.array(optim.L3RS().decays), np.zeros((2, 4, 3))
        self.momentum = [np.zeros(9), np.zeros(3)]

    def step(self, value, grads, params):
        def groups(tree):
            body = np.concatenate([np.ravel(tree["body"][n]) for n in ("bias", "kernel")])
            return [np.asarray(a, np.float64) for a in (body, np.ravel(tree["head"]["kernel"]))]

        def rms(a):
            return np.sqrt(np.mean(a**2))

        grads, params = groups(grads), groups(params)
        count = np.array([self.t + 1] * 3 + [self.t])
        for i in range(2):
            seen = np.log1p(float(value) / 1e-4), np.log(rms(grads[i])), np.log(rms(params[i]))
            for q, x in enumerate(seen):
                self.means[i, q] = self.decays * self.means[i, q] + (1 - self.decays) * x
        updates = []
        for i in range(2):
            with np.errstate(invalid="ignore"):
                fixed = np.nan_to_num(self.means[i] / (1 - self.decays ** count[:, None]))
            done = self.t / self.num_steps
            trends = np.column_stack([0.2 * fixed[:, -1], fixed[:, :-1] - fixed[:, 1:]])
            relative = [2 * done - 1, 0.4 * np.log(1.01 - done) + 1]
            absolute = np.tanh(np.log((self.t + 1) / np.array(_l3rs_network.TIMES)))
            x = np.concatenate([trends.ravel(), relative, absolute, self.theta["embedding"][i]])
            net = self.theta["network"]
            for j in range(len(net)):
                x = x @ net[f"dense_{j}"]["kernel"] + net[f"dense_{j}"]["bias"]
                x = np.maximum(x, 0) if j < len(net) - 1 else x
            rate = np.exp(self.theta["log_learning_rate"] + 4 * np.tanh(x[0] / 4))
            rate *= 0.5 * (1 + np.cos(np.pi * done))
            rate *= (self.num_steps / 100) ** self.theta["horizon_power"]
            mix = np.exp(x[1:]) / np.exp(x[1:]).sum()
            self.momentum[i] = 0.9 * self.momentum[i] + grads[i]
            directions = -grads[i], -self.momentum[i]
            update = rate * sum(m * d / rms(d) for m, d in zip(mix, directions, strict=True))
            self.means[i, 3] = self.decays * self.means[i, 3] + (1 - self.decays) * np.log(
                rms(update)
            )
            updates.append(update)
        self.t += 1
        return updates


class L3RSTest(chex.TestCase):
    """With jit, and the equations without it too."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_updates_are_those_of_the_equations(self):
        config = optim.L3RS(base_optimizers=("sgd", "momentum"))
        theta, params = random_theta(config), PARAMS
        oracle, optimizer = Oracle(theta, 7), config.optimizer(theta, 7)
        update, state = self.variant(optimizer.update), optimizer.init(params)
        for _ in range(6):
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = update(grads, state, params, value=value)
            body, head = oracle.step(value, grads, params)
            ours = np.concatenate([np.ravel(updates["body"][n]) for n in ("bias", "kernel")])
            np.testing.assert_allclose(ours, body, rtol=2e-3, atol=1e-8)
            ours = np.ravel(updates["head"]["kernel"])
            np.testing.assert_allclose(ours, head, rtol=2e-3, atol=1e-8)
            params = optax.apply_updates(params, updates)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(fade=[True, False])
    def test_updates_fade_with_the_gradients(self, fade):
        """Against the largest so far; without, all are as long."""
        config = optim.L3RS(base_optimizers=("sgd",), anneal=False, fade=fade)
        optimizer = config.optimizer(config.init(jax.random.key(0), PARAMS), 9)
        update, state, lengths = self.variant(optimizer.update), optimizer.init(PARAMS), []
        for size in (1.0, 0.1, 3.0, 1.5):
            grads = jax.tree.map(lambda a, size=size: size * jnp.ones_like(a), PARAMS)
            updates, state = update(grads, state, PARAMS, value=jnp.ones(()))
            lengths.append(float(updates["head"]["kernel"][0, 0]))
        expected = (1.0, 0.1, 1.0, 0.5) if fade else (1.0, 1.0, 1.0, 1.0)
        np.testing.assert_allclose(np.array(lengths) / lengths[0], expected, rtol=1e-5)

    @chex.variants(with_jit=True)
    def test_directions_have_unit_length_whatever_the_gradient(self):
        config = optim.L3RS(base_optimizers=("sgd",), log_learning_rate=-2.0)
        optimizer = config.optimizer(config.init(jax.random.key(0), PARAMS), 10)
        update, state = self.variant(optimizer.update), optimizer.init(PARAMS)
        for scale in (1e-6, 1.0, 1e6):
            grads = jax.tree.map(lambda a, scale=scale: scale * (a + 0.1), PARAMS)
            updates, _ = update(grads, state, PARAMS, value=jnp.ones(()))
            head = updates["head"]["kernel"]
            np.testing.assert_allclose(jnp.sqrt(jnp.mean(head**2)), np.exp(-2.0), rtol=1e-4)
        zero = jax.tree.map(jnp.zeros_like, PARAMS)
        updates, state = update(zero, state, PARAMS, value=jnp.zeros(()))
        chex.assert_trees_all_equal(updates, zero)
        chex.assert_tree_all_finite(state)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((np.inf, 0), (np.nan, 2))
    def test_a_loss_that_is_not_finite_is_in_no_mean(self, bad, when):
        """Not even in the correction for the start: a constant loss keeps its mean exactly."""
        optimizer = built()
        update, state = self.variant(optimizer.update), optimizer.init(PARAMS)
        grads = jax.tree.map(jnp.ones_like, PARAMS)
        for t in range(4):
            value = jnp.asarray(bad if t == when else 2.0)
            updates, state = update(grads, state, PARAMS, value=value)
            chex.assert_tree_all_finite((updates, state))
        decays = np.array(optim.L3RS().decays)
        corrected = state.means[:, 0] / (1 - decays ** float(state.num_losses))[None]
        np.testing.assert_allclose(corrected, np.log1p(2.0 / 1e-4), rtol=1e-5)
        assert state.num_losses == 3 and state.count == 4

    @chex.variants(with_jit=True)
    def test_untrained_it_averages_as_schedule_free_does(self):
        fields = {"base_optimizers": ("sgd",), "log_learning_rate": -5.5}
        averaged = optim.L3RS.averaged(**fields)
        plain = dataclasses.replace(averaged, average=False)
        ours, inner = (c.optimizer(c.init(jax.random.key(0), PARAMS), 9) for c in (averaged, plain))
        theirs = optax.contrib.schedule_free(inner, learning_rate=1.0, b1=0.9)
        ends = []
        for optimizer in (ours, theirs):
            update, params, state = self.variant(optimizer.update), PARAMS, optimizer.init(PARAMS)
            for _ in range(8):
                value, grads = jax.value_and_grad(loss)(params)
                updates, state = update(grads, state, params, value=value)
                params = optax.apply_updates(params, updates)
            ends.append((params, optim.eval_params(state, params)))
        chex.assert_trees_all_close(*ends, atol=2e-6)

    @chex.variants(with_jit=True)
    def test_the_mean_is_that_of_the_iterates_for_any_theta(self):
        theta = random_theta(AVERAGED)
        optimizer = optax.chain(optax.clip(0.3), AVERAGED.optimizer(theta, 9))
        update, params, state = self.variant(optimizer.update), PARAMS, optimizer.init(PARAMS)
        mean = PARAMS
        for t in range(6):
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = update(grads, state, params, value=value)
            params = optax.apply_updates(params, updates)
            # The mean takes some share of the iterate, the same in all of a group.
            after, iterate = optim.eval_params(state, params), state[1].iterate
            for name in ("body", "head"):
                old, new, z = (
                    np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree[name])])
                    for tree in (mean, after, iterate)
                )
                share = np.dot(new - old, z - old) / np.dot(z - old, z - old)
                np.testing.assert_allclose(new, old + share * (z - old), atol=3e-6)
                assert share == pytest.approx(1, abs=1e-4) if t == 0 else 0 < share < 1
            mean = after


@pytest.mark.slow
def test_options_take_away_what_they_name():
    theta = random_theta()

    def last(theta=theta, scale=1.0, **options):
        optimizer = built(theta=theta, **options)

        @jax.jit
        def thrice(state):
            value, grads = jax.value_and_grad(loss)(PARAMS)
            for _ in range(3):
                updates, state = optimizer.update(grads, state, PARAMS, value=scale * value)
            return updates

        updates = thrice(optimizer.init(PARAMS))
        return np.concatenate([np.ravel(a) for a in jax.tree.leaves(updates)])

    assert np.abs(last(scale=3.0) / last() - 1).max() > 1e-3
    np.testing.assert_array_equal(last(scale=3.0, use_loss=False), last(use_loss=False))
    rms = last(shared_learning_rate=True, base_optimizers=["adam", "adam"])
    body, head = np.sqrt(np.mean(rms[:9] ** 2)), np.sqrt(np.mean(rms[9:] ** 2))
    np.testing.assert_allclose(body, head, rtol=1e-5)
    tilted = jax.tree.map(lambda a: a, theta)
    bias = theta["network"]["dense_2"]["bias"]
    tilted["network"]["dense_2"]["bias"] = bias + jnp.array([0, 9, 0])
    assert np.abs(last(tilted) - last()).max() > 1e-5
    np.testing.assert_allclose(last(tilted, fixed_mix=True), last(fixed_mix=True), rtol=1e-5)
    assert not np.allclose(last(use_time=False), last())
    assert np.linalg.norm(last(anneal=False)) > np.linalg.norm(last())
    same_everywhere = theta | {"horizon_power": jnp.zeros(())}
    np.testing.assert_array_equal(last(use_horizon=False), last(same_everywhere))
    assert not np.allclose(last(use_horizon=False), last(), rtol=0.01)


def test_no_learning_rate_is_left_at_the_horizon_and_beyond():
    _, _, seen = run(built(num_steps=3), 5)
    sizes = [float(optax.tree.norm(updates)) for *_, updates in seen]
    assert sizes[2] > 1e-6 and sizes[3] == sizes[4] == 0


@pytest.mark.parametrize("name", ["plain", pytest.param("averaged", marks=pytest.mark.slow)])
def test_many_thetas_under_vmap_are_each_alone(name):
    config = CONFIGS[name]
    thetas = [random_theta(config), config.init(jax.random.key(3), PARAMS)]

    def ends(theta):
        return run(config.optimizer(theta, 9), 3)[0]

    many = jax.jit(jax.vmap(ends))(jax.tree.map(lambda *a: jnp.stack(a), *thetas))
    for i, theta in enumerate(thetas):
        mine = jax.tree.map(lambda a, i=i: a[i], many)
        chex.assert_trees_all_close(mine, ends(theta), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_second_step_compiles_nothing(name):
    config = CONFIGS[name]
    optimizer = config.optimizer(random_theta(config), 9)
    params, state = PARAMS, optimizer.init(PARAMS)
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    for _ in range(3):
        updates, after = update(PARAMS, state, params, value=jnp.ones(()))
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        params, state = optax.apply_updates(params, updates), after


# Wrapped ------------------------------------------------------------------------------------------


def test_clipping_before_it_changes_nothing_that_is_small():
    theta = random_theta()
    alone = run(built(theta=theta), 2)[2][-1][2]
    chained = optax.chain(optax.clip_by_global_norm(1e9), built(theta=theta))
    chex.assert_trees_all_close(run(chained, 2)[2][-1][2], alone, rtol=1e-4, atol=1e-8)


def test_its_learning_rate_may_be_injected():
    theta = random_theta()
    injected = optax.inject_hyperparams(lambda rate: built(theta=theta, learning_rate=rate))(2.0)
    twice = run(optax.with_extra_args_support(injected), 2)
    assert float(twice[1].hyperparams["rate"]) == 2
    expected = run(built(theta=theta, learning_rate=2.0), 2)[2][-1][2]
    chex.assert_trees_all_close(twice[2][-1][2], expected, rtol=1e-4, atol=1e-8)


def test_bfloat16_parameters():
    low = optax.tree.cast(PARAMS, jnp.bfloat16)
    _, state, seen = run(built(), 2, low)
    chex.assert_trees_all_equal_dtypes(seen[-1][2], low)
    assert state.means.dtype == jnp.float32


def test_averages_outlive_bfloat16():
    config = optim.L3RS.averaged(log_learning_rate=-5.8)
    optimizer = config.optimizer(config.init(jax.random.key(0), PARAMS), 200)
    found = []
    for kind in (jnp.float32, jnp.bfloat16):
        low = optax.tree.cast(PARAMS, kind)
        params, state, _ = run(optimizer, 200, low)
        chex.assert_trees_all_equal_dtypes(optim.eval_params(state, params), low)
        chex.assert_trees_all_equal_dtypes((state.mean, state.inner.bases[1].nu), (PARAMS, PARAMS))
        found.append(float(loss(state.mean)))
    whole, half = found
    start = float(loss(PARAMS))
    assert whole < 0.5 * start and half < whole + 0.1 * start


def test_nothing_to_optimize_is_no_error():
    for config in (optim.L3RS(universal=True), optim.L3RS.averaged(universal=True)):
        optimizer = config.optimizer(config.init(jax.random.key(0), {}), 9)
        updates, state = optimizer.update({}, optimizer.init({}), {}, value=jnp.ones(()))
        assert updates == {} and state.count == 1


# The configuration --------------------------------------------------------------------------------


def test_a_configuration_is_a_value():
    """Hashable, whether it came from lists (JSON) or tuples; lists and tuples are equal."""
    fields = {"base_optimizers": ["sgd", "lion"], "decays": [0.5, 0.9], "hidden": [4]}
    ours = optim.L3RS(**fields)
    theirs = optim.L3RS(base_optimizers=("sgd", "lion"), decays=(0.5, 0.9), hidden=(4,))
    assert ours == theirs and hash(ours) == hash(theirs) and ours != optim.L3RS()
    shapes = jax.tree.map(jnp.shape, ours.init(jax.random.key(0), PARAMS))
    assert shapes["embedding"] == (2, 8) and shapes["network"]["dense_1"]["kernel"] == (4, 3)
    params = jax.eval_shape(lambda: PARAMS)
    chex.assert_trees_all_equal(
        ours.init(jax.random.key(0), params), ours.init(jax.random.key(0), PARAMS)
    )


def test_what_averages_has_defaults_of_its_own():
    """No momentum, no cosine, fading updates, a larger initial learning rate."""
    assert AVERAGED.log_learning_rate > optim.L3RS().log_learning_rate
    explicit = optim.L3RS(
        base_optimizers=("sgd", "rmsprop"),
        log_learning_rate=-5.2,
        anneal=False,
        average=True,
        fade=True,
    )
    assert explicit == AVERAGED
    assert optim.L3RS.averaged(fade=False) == dataclasses.replace(AVERAGED, fade=False)
    _, _, seen = run(AVERAGED.optimizer(random_theta(AVERAGED), 4), 6)
    assert seen[-1][2]["head"]["kernel"].any()  # updates go on after the horizon


def test_any_grouping():
    config = optim.L3RS(group=jax.tree_util.keystr)
    theta = config.init(jax.random.key(0), PARAMS)
    chex.assert_shape(theta["embedding"], (3, 8))
    chex.assert_shape(optim.L3RS().init(jax.random.key(0), PARAMS)["embedding"], (2, 8))
    updates = run(config.optimizer(theta, 9), 1)[2][0][2]
    sizes = [float(jnp.sqrt(jnp.mean(a**2))) for a in jax.tree.leaves(updates)]
    np.testing.assert_allclose(sizes[1:], sizes[0], rtol=0.2)  # two even directions each


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: built(base_optimizers=()), "base_optimizers"),
        (lambda: built(base_optimizers=("quick",)), "quick"),
        (lambda: built(theta=random_theta(), base_optimizers=("sgd",)), "base optimizers"),
        (lambda: built(theta=random_theta(), decays=(0.5,)), "1 decays"),
        (lambda: AVERAGED.optimizer(random_theta()), "to average"),
        (lambda: built(num_steps=0), "num_steps"),
        (lambda: built(theta={"embedding": 0, "network": 0}), "no horizon_power, log_learning"),
        (lambda: built().init(PARAMS | {"more": {"kernel": jnp.ones(2)}}), "2 groups.* have 3"),
    ],
)
def test_wrong_arguments_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_a_schedule_as_learning_rate_is_refused():
    with pytest.raises((ValueError, TypeError), match="learning_rate"):  # annotations are checked
        built(learning_rate=lambda _: 1.0)


def test_missing_loss_or_params_are_named():
    optimizer = built()
    state = optimizer.init(PARAMS)
    with pytest.raises(ValueError, match="loss"):
        optimizer.update(PARAMS, state, PARAMS)
    with pytest.raises(ValueError, match="params"):
        optimizer.update(PARAMS, state, value=1.0)
    with pytest.raises(ValueError, match="scalar"):
        optimizer.update(PARAMS, state, PARAMS, value=jnp.ones(3))


def test_large_and_small_arrays_are_summed_alike():
    trees = [{"kernel": jax.random.normal(jax.random.key(i), (300, 500))} for i in range(2)]
    assert trees[0]["kernel"].size > _by_group._LARGE
    grams = jax.jit(lambda trees: _by_group.groups_of(trees[0], None).grams(trees))(trees)
    flat = np.stack([np.asarray(tree["kernel"], np.float64).ravel() for tree in trees])
    np.testing.assert_allclose(grams[0], flat @ flat.T / flat.shape[1], rtol=1e-5, atol=1e-6)
