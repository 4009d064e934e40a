"""Learned optimizers: L3RS against a float64 oracle, wrappers, networks a parameter, saving."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import optim
from ico.optim import _by_layer, _l3rs, _per_parameter
from tests.optim.conftest import PARAMS, loss, random_theta, run


def test_docstring():
    assert doctest.testmod(_l3rs).failed == 0


class Oracle:
    """L3RS of the docstring in float64, for gradient descent and momentum."""

    def __init__(self, theta, num_steps):
        self.theta = jax.tree.map(lambda a: np.asarray(a, np.float64), theta)
        self.num_steps, self.t = num_steps, 0
        self.decays, self.means = np.array(optim._l3rs.DECAYS), np.zeros((2, 4, 3))
        self.momentum = [np.zeros(9), np.zeros(3)]

    def step(self, value, grads, params):
        def layers(tree):
            body = np.concatenate([np.ravel(tree["body"][n]) for n in ("bias", "kernel")])
            return [np.asarray(a, np.float64) for a in (body, np.ravel(tree["head"]["kernel"]))]

        def rms(a):
            return np.sqrt(np.mean(a**2))

        grads, params = layers(grads), layers(params)
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
            x = np.concatenate([
                np.column_stack([0.2 * fixed[:, -1], fixed[:, :-1] - fixed[:, 1:]]).ravel(),
                [2 * done - 1, 0.4 * np.log(1.01 - done) + 1],
                np.tanh(np.log((self.t + 1) / np.array(optim._l3rs.TIMES))),
                self.theta["embedding"][i],
            ])  # fmt: skip
            net = self.theta["network"]
            for j in range(len(net)):
                x = x @ net[f"dense_{j}"]["kernel"] + net[f"dense_{j}"]["bias"]
                x = np.maximum(x, 0) if j < len(net) - 1 else x
            step = np.exp(self.theta["log_step"] + 4 * np.tanh(x[0] / 4))
            step *= 0.5 * (1 + np.cos(np.pi * done))
            step *= (self.num_steps / 100) ** self.theta["horizon_power"]
            mix = np.exp(x[1:]) / np.exp(x[1:]).sum()
            self.momentum[i] = 0.9 * self.momentum[i] + grads[i]
            directions = -grads[i], -self.momentum[i]
            update = step * sum(m * d / rms(d) for m, d in zip(mix, directions, strict=True))
            self.means[i, 3] = self.decays * self.means[i, 3] + (1 - self.decays) * np.log(
                rms(update)
            )
            updates.append(update)
        self.t += 1
        return updates


def test_l3rs_is_what_its_docstring_says():
    theta = random_theta()
    oracle = Oracle(theta, 7)
    params = PARAMS
    for value, grads, updates in run(optim.l3rs(theta, ("sgd", "momentum"), 7), 6)[2]:
        body, head = oracle.step(value, grads, params)
        ours = np.concatenate([np.ravel(updates["body"][n]) for n in ("bias", "kernel")])
        np.testing.assert_allclose(ours, body, rtol=2e-3, atol=1e-8)
        np.testing.assert_allclose(np.ravel(updates["head"]["kernel"]), head, rtol=2e-3, atol=1e-8)
        params = optax.apply_updates(params, updates)


@pytest.mark.slow
def test_options_take_away_what_they_name():
    theta = random_theta()

    def last(theta=theta, scale=1.0, **options):
        optimizer = optim.l3rs(theta, num_steps=9, **options)

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
    rms = last(shared_step=True, base_optimizers=["adam", "adam"])
    body, head = np.sqrt(np.mean(rms[:9] ** 2)), np.sqrt(np.mean(rms[9:] ** 2))
    np.testing.assert_allclose(body, head, rtol=1e-5)
    tilted = jax.tree.map(lambda a: a, theta)
    tilted["network"]["dense_2"]["bias"] = theta["network"]["dense_2"]["bias"] + jnp.array(
        [0, 9, 0]
    )
    assert np.abs(last(tilted) - last()).max() > 1e-5
    np.testing.assert_allclose(last(tilted, fixed_mix=True), last(fixed_mix=True), rtol=1e-5)
    assert not np.allclose(last(use_time=False), last())
    assert np.linalg.norm(last(anneal=False)) > np.linalg.norm(last())
    np.testing.assert_array_equal(
        last(use_horizon=False), last(theta | {"horizon_power": jnp.zeros(())})
    )
    assert not np.allclose(last(use_horizon=False), last(), rtol=0.01)


def test_no_step_is_left_at_the_horizon_and_beyond():
    _, _, seen = run(optim.l3rs(random_theta(), num_steps=3), 5)
    sizes = [float(optax.tree.norm(updates)) for *_, updates in seen]
    assert sizes[2] > 1e-6 and sizes[3] == sizes[4] == 0


@pytest.mark.parametrize("fade", [True, False])
def test_steps_fade_with_the_gradients(fade):
    """Against the largest so far; without, all are as long."""
    theta = optim.l3rs_init(jax.random.key(0), PARAMS, num_bases=1)
    optimizer = optim.l3rs(theta, ("sgd",), 9, anneal=False, fade=fade)
    state, lengths = optimizer.init(PARAMS), []
    for size in (1.0, 0.1, 3.0, 1.5):
        grads = jax.tree.map(lambda a, size=size: size * jnp.ones_like(a), PARAMS)
        updates, state = optimizer.update(grads, state, PARAMS, value=jnp.ones(()))
        lengths.append(float(updates["head"]["kernel"][0, 0]))
    expected = (1.0, 0.1, 1.0, 0.5) if fade else (1.0, 1.0, 1.0, 1.0)
    np.testing.assert_allclose(np.array(lengths) / lengths[0], expected, rtol=1e-5)


def test_directions_have_unit_length_whatever_the_gradient():
    theta = optim.l3rs_init(jax.random.key(0), PARAMS, num_bases=1, log_step=-2.0)
    optimizer = optim.l3rs(theta, ["sgd"], 10)
    for scale in (1e-6, 1.0, 1e6):
        grads = jax.tree.map(lambda a, scale=scale: scale * (a + 0.1), PARAMS)
        updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS, value=jnp.ones(()))
        head = updates["head"]["kernel"]
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(head**2)), np.exp(-2.0), rtol=1e-4)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, state = optimizer.update(zero, optimizer.init(PARAMS), PARAMS, value=jnp.zeros(()))
    assert all((a == 0).all() for a in jax.tree.leaves(updates))
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(state))


@pytest.mark.parametrize("average", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_many_thetas_under_vmap_are_each_alone(average):
    thetas = [
        random_theta(average=average),
        optim.l3rs_init(jax.random.key(3), PARAMS, average=average),
    ]

    def ends(theta):
        return run(optim.l3rs(theta, num_steps=9, average=average), 3)[0]

    together = jax.tree.map(lambda *a: jnp.stack(a), *thetas)
    many = jax.jit(jax.vmap(ends))(together)
    for i, theta in enumerate(thetas):
        alone = ends(theta)
        mine = jax.tree.map(lambda a, i=i: a[i], many)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), mine, alone
        )


@pytest.mark.parametrize(
    "wrap", ["inject", "finite", pytest.param("chain", marks=pytest.mark.slow), "bfloat16",
             pytest.param("accumulate", marks=pytest.mark.slow)]
)  # fmt: skip
def test_wrapped(wrap):
    theta = random_theta()
    inner = optim.l3rs(theta, num_steps=9)
    alone = run(inner, 2)[2][-1][2]
    if wrap == "chain":
        optimizer = optax.chain(optax.clip_by_global_norm(1e9), inner)
    elif wrap == "inject":
        optimizer = optax.inject_hyperparams(optim.l3rs)(
            theta=theta, num_steps=9, learning_rate=2.0
        )
        assert float(optimizer.init(PARAMS).hyperparams["learning_rate"]) == 2
        alone = run(optim.l3rs(theta, num_steps=9, learning_rate=2.0), 2)[2][-1][2]
    elif wrap == "accumulate":
        twice = optax.MultiSteps(inner, 2)
        _, state, seen = run(twice, 4)
        halves = [seen[i][2] for i in (1, 3)]
        assert all((a == 0).all() for i in (0, 2) for a in jax.tree.leaves(seen[i][2]))
        assert all((a != 0).any() for half in halves for a in jax.tree.leaves(half))
        assert state.inner_opt_state.count == 2
        return
    elif wrap == "finite":
        optimizer = optax.apply_if_finite(inner, 3)
        state = optimizer.init(PARAMS)
        bad = jax.tree.map(lambda a: a * jnp.nan, PARAMS)
        updates, after = optimizer.update(bad, state, PARAMS, value=jnp.ones(()))
        assert all((a == 0).all() for a in jax.tree.leaves(updates))
        assert after.inner_state.count == 0
    else:
        low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), PARAMS)
        _, state, seen = run(inner, 2, low)
        assert {a.dtype for a in jax.tree.leaves(seen[-1][2])} == {jnp.dtype(jnp.bfloat16)}
        assert state.means.dtype == jnp.float32
        return
    ours = run(optimizer, 2)[2][-1][2]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8), ours, alone)


def test_nothing_to_optimize_is_no_error():
    optimizer = optim.l3rs(optim.l3rs_init(jax.random.key(0), None), num_steps=9)
    updates, state = optimizer.update({}, optimizer.init({}), {}, value=jnp.ones(()))
    assert updates == {} and state.count == 1


def test_any_grouping():
    def every(path):
        return jax.tree_util.keystr(path)

    assert len(optim.l3rs_init(jax.random.key(0), PARAMS)["embedding"]) == 2
    theta = optim.l3rs_init(jax.random.key(0), PARAMS, group=every)
    assert len(theta["embedding"]) == 3
    updates = run(optim.l3rs(theta, num_steps=9, group=every), 1)[2][0][2]
    sizes = [float(jnp.sqrt(jnp.mean(a**2))) for a in jax.tree.leaves(updates)]
    np.testing.assert_allclose(sizes[1:], sizes[0], rtol=0.2)  # two even directions each


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: optim.l3rs(random_theta(), (), 9), "base_optimizers"),
        (lambda: optim.l3rs(random_theta(), ("quick",), 9), "quick"),
        (lambda: optim.l3rs(random_theta(), ("sgd",), 9).init(PARAMS), "base optimizers"),
        (lambda: optim.l3rs(random_theta(), num_steps=9).init(PARAMS["head"]), "layers"),
        (lambda: optim.l3rs(random_theta(), num_steps=0), "num_steps"),
        (lambda: optim.make("quick"), "quick"),
        (lambda: optim.make("adamw", learning_speed=1.0), "adamw"),
        (lambda: run(optim.make("l3rs", theta=random_theta(), base_optimizers=[]), 1), "base"),
    ],
)
def test_wrong_arguments_are_named(make, word):
    if word == "layers":
        theta = random_theta()
        params = PARAMS | {"more": {"kernel": jnp.ones(2)}}
        with pytest.raises(ValueError, match="2 layers, the parameters have 3"):
            optim.l3rs(theta, num_steps=9).init(params)
        return
    with pytest.raises(ValueError, match=word):
        make()


def test_a_schedule_as_learning_rate_is_refused():
    with pytest.raises((ValueError, TypeError), match="learning_rate"):  # annotations are checked
        optim.l3rs(random_theta(), learning_rate=lambda _: 1.0)


@pytest.mark.parametrize("kind", [jnp.complex64, jnp.int32])
@pytest.mark.parametrize("name", ["l3rs", "adafac_mlp"])
def test_what_is_no_floating_number_is_refused(name, kind):
    params = {"layer": {"kernel": jnp.ones(3), "count": jnp.ones(2, kind)}}
    learner = optim.learned(name)
    optimizer = learner.build(learner.init(jax.random.key(0), params), 5)
    with pytest.raises(ValueError, match="layer/count"):
        optimizer.init(params)
    mask = {"layer": {"kernel": True, "count": False}}
    optax.masked(optimizer, mask).init(params)


def test_missing_loss_or_params_are_named():
    optimizer = optim.l3rs(random_theta(), num_steps=9)
    state = optimizer.init(PARAMS)
    with pytest.raises(ValueError, match="loss"):
        optimizer.update(PARAMS, state, PARAMS)
    with pytest.raises(ValueError, match="params"):
        optimizer.update(PARAMS, state, value=1.0)
    with pytest.raises(ValueError, match="scalar"):
        optimizer.update(PARAMS, state, PARAMS, value=jnp.ones(3))


def test_large_and_small_arrays_are_summed_alike():
    trees = [{"kernel": jax.random.normal(jax.random.key(i), (300, 500))} for i in range(2)]
    assert trees[0]["kernel"].size > _by_layer._LARGE
    grams = jax.jit(lambda trees: _by_layer.layers_of(trees[0], None).grams(trees))(trees)
    flat = np.stack([np.asarray(tree["kernel"], np.float64).ravel() for tree in trees])
    np.testing.assert_allclose(grams[0], flat @ flat.T / flat.shape[1], rtol=1e-5, atol=1e-6)


# Networks a parameter -----------------------------------------------------------------------------


_slow = pytest.mark.slow


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
    features = [jnp.broadcast_to(f, shape).ravel() / np.sqrt(np.mean(np.square(f)) + 1e-5)
                for f in _per_parameter.features_of(moments, grad, param)]  # fmt: skip
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


# By name, and on disk -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in optim.names() if n not in ("l3rs",)])
def test_every_named_optimizer_steps(name):
    options = {"learning_rate": 1e-2}
    if name in ("adafac_mlp", "direction_mlp"):
        init = {"adafac_mlp": optim.adafac_mlp_init, "direction_mlp": optim.direction_mlp_init}
        options["theta"] = init[name](jax.random.key(0))
    params, _, seen = run(optim.make(name, **options), 1)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(params))
    assert float(optax.tree.norm(seen[0][2])) > 0


def test_saved_and_loaded(tmp_path):
    theta = random_theta()
    settings = {"base_optimizers": ["sgd", "lion"], "num_steps": 9}
    optim.save(tmp_path / "one", "l3rs", theta, settings, {"task": "digits"})
    ours = run(optim.load(tmp_path / "one"), 2)[0]
    theirs = run(optim.l3rs(theta, ("sgd", "lion"), 9), 2)[0]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    longer = run(optim.load(tmp_path / "one", num_steps=99), 2)[0]
    assert not np.array_equal(longer["head"]["kernel"], ours["head"]["kernel"])
    assert optim.load_theta(tmp_path / "one")[0]["trained_on"] == {"task": "digits"}
    with pytest.raises(ValueError, match="quick"):
        optim.save(tmp_path / "two", "quick", theta)
    assert not (tmp_path / "two").exists()
    with pytest.raises(FileNotFoundError, match="learned optimizer"):
        optim.load(tmp_path / "two")
    (tmp_path / "one" / "theta.npz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="no horizon_power, log_step"):
        optim.l3rs({"embedding": 0, "network": 0}, num_steps=5).init(PARAMS)
    with pytest.raises(ValueError, match="one"):
        optim.load(tmp_path / "one")
